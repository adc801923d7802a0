"""A custom node pack for the tests alone: ComfyUI's own classes at small sizes, with seeded random weights."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from comfy.clip_vision import ClipVisionModel
from comfy.ldm.modules.diffusionmodules.model import Decoder, Encoder
from comfy.sd import VAE
from comfy.taesd.taesd import TAESD
from comfy_api.latest import ComfyExtension, io

COMMON = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "num_channels": 3,
    "projection_dim": 32,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "clip": {"model_type": "clip_vision_model", "image_size": 112, "patch_size": 14},
    "siglip": {"model_type": "siglip_vision_model", "image_size": 112, "patch_size": 14},
    "dinov2": {
        "model_type": "dinov2", "image_size": 112, "patch_size": 14, "use_swiglu_ffn": False, "mlp_ratio": 2,
        "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
    },
    "two patches": {"model_type": "clip_vision_model", "image_size": 28, "patch_size": 14},
}  # fmt: skip


class SmallVision(io.ComfyNode):
    """A small CLIP_VISION of one of ComfyUI's kinds."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Test_SmallVision",
            category="test",
            inputs=[io.Combo.Input("kind", options=list(CONFIGS))],
            outputs=[io.ClipVision.Output()],
        )

    @classmethod
    def execute(cls, kind: str) -> io.NodeOutput:
        with TemporaryDirectory() as folder:  # older versions of ComfyUI read a file and no dict
            file = Path(folder) / "config.json"
            file.write_text(json.dumps({**COMMON, **CONFIGS[kind]}))
            model = ClipVisionModel(str(file))
        generator = torch.Generator().manual_seed(0)
        state = {
            key: torch.randn(value.shape, generator=generator) * 0.05 + ("norm" in key and "weight" in key)
            if value.is_floating_point()
            else torch.arange(value.numel()).reshape(value.shape)
            for key, value in model.get_sd().items()
        }
        model.load_sd(state)
        return io.NodeOutput(model)


class FourChannels(io.ComfyNode):
    """A picture with transparency."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Test_FourChannels",
            category="test",
            inputs=[io.Image.Input("image")],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image: torch.Tensor) -> io.NodeOutput:
        return io.NodeOutput(torch.cat([image, image[..., :1]], dim=-1))


class RandomVae(io.ComfyNode):
    """FLUX's VAE with random weights: 84 M parameters, and no TAESD."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="Test_RandomVae", category="test", inputs=[], outputs=[io.Vae.Output()])

    @classmethod
    def execute(cls) -> io.NodeOutput:
        shape = {
            "double_z": True, "z_channels": 16, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
            "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
        }  # fmt: skip
        torch.manual_seed(0)
        parts = {"encoder": Encoder(**shape), "decoder": Decoder(**shape)}
        state = {
            f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()
        }
        generator = torch.Generator().manual_seed(0)
        for key, value in state.items():
            state[key] = torch.randn(value.shape, generator=generator) * 0.02 + (
                "norm" in key and "weight" in key
            )
        return io.NodeOutput(VAE(sd=state, dtype=torch.float32))


class OtherVae(io.ComfyNode):
    """A TAESD of 4 latent channels, as SD 1.5 has them, with random weights."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="Test_OtherVae", category="test", inputs=[], outputs=[io.Vae.Output()])

    @classmethod
    def execute(cls) -> io.NodeOutput:
        shapes = {key: value.shape for key, value in TAESD(latent_channels=4).state_dict().items()}
        return io.NodeOutput(
            VAE(sd={key: torch.zeros(shape) for key, shape in shapes.items()}, dtype=torch.float32)
        )


async def comfy_entrypoint() -> ComfyExtension:
    """What ComfyUI calls to get the nodes."""

    class SmallModels(ComfyExtension):
        async def get_node_list(self) -> list[type[io.ComfyNode]]:
            return [SmallVision, FourChannels, RandomVae, OtherVae]

    return SmallModels()
