"""Mind-the-Glitch with few channels, written in the published layout, and a small Stable Diffusion 2.1 beside it.

Random weights throughout.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from divrl_core.config import BackboneConfig
from divrl_core.models.pocket_parts import build_clip

TEXT_TOKENS, TEXT_WIDTH = 11, 32
TAPS = ("us6", "us3", "us9", "us10")  # not in the order in which they run
BOTTLENECK, PROJECTION, GROUPS = 8, 24, 4
WIDTHS = {
    **dict.fromkeys(("us1", "us2", "us3"), 32),
    **dict.fromkeys(("us4", "us5", "us6"), 24),
    **dict.fromkeys(("us7", "us8", "us9"), 16),
    "us10": 8,
}
TIMESTEP = 254.5
UNET, VAE = "cleandift_model.unet_feature_extractor_cleandift.", "cleandift_model.ae.ae."


@dataclass(frozen=True)
class SmallMtg:
    """Two folders as a user has them: Mind-the-Glitch's weights, and Stable Diffusion 2.1."""

    folder: Path
    base: Path

    @property
    def checkpoint(self) -> Path:
        return self.folder / "mtg_weights.safetensors"

    @property
    def experiment(self) -> Path:
        return self.folder / "experiment_cfg.yaml"

    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.checkpoint)

    def config(self, **changes: object) -> BackboneConfig:
        given = {"path": str(self.folder), "base_path": str(self.base), "image_size_px": 128} | changes
        return BackboneConfig(name="mtg", **given)  # type: ignore[arg-type]

    def unet(self) -> UNet2DConditionModel:
        """The UNet as diffusers itself makes and fills it, from the published names."""
        unet = UNet2DConditionModel.from_config(str(self.base / "unet"))
        unet.load_state_dict(_below(self.tensors(), UNET))
        return unet.eval()

    def vae(self) -> AutoencoderKL:
        """The whole VAE, likewise."""
        vae = AutoencoderKL.from_config(str(self.base / "vae"))
        vae.load_state_dict(_below(self.tensors(), VAE))
        return vae.eval()


def write_small_mtg(root: Path, *, taps: tuple[str, ...] = TAPS, blocks: int = 2) -> SmallMtg:
    """Write both folders below `root`; `blocks` bottleneck blocks a tap (the published number is 1)."""
    small = SmallMtg(root / "mtg", root / "sd21")
    small.folder.mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        unet, vae = _unet(), _vae()
        _write_base(small.base, unet, vae)
        named = {UNET + name: value for name, value in unet.state_dict().items()}
        named |= {VAE + name: value for name, value in vae.state_dict().items()}
        for stack in ("semantic", "visual"):
            named |= _stack(stack, taps, blocks)
        named["cleandift_model.timestep"] = torch.tensor(TIMESTEP)
        # what CleanDIFT's training leaves in the file beside it
        named["cleandift_model.unet_feature_extractor_base.conv_in.bias"] = torch.zeros(8)
        named["cleandift_model.adapters.us6.weight"] = torch.zeros(2)
    save_file({name: value.contiguous() for name, value in named.items()}, small.checkpoint)
    write_experiment(small.experiment, taps)
    return small


def write_experiment(path: Path, taps: tuple[str, ...] = TAPS, groups: int = GROUPS) -> None:
    """The part of experiment_cfg.yaml that is read, and something beside it."""
    resnet = {"num_blocks": 1, "projection_dim": PROJECTION, "num_norm_groups": groups}
    model = {"name": "MindTheGlitchModel", "feat_type": list(taps), "resnet": resnet}
    path.write_text(yaml.safe_dump({"dtype": "bfloat16", "model": model | {"final_feat_resolution": 48}}))


def _unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        down_block_types=(*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
        up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
        block_out_channels=(8, 16, 24, 32),
        layers_per_block=2,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=(1, 2, 3, 4),
        use_linear_projection=True,
        norm_num_groups=4,
    )


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=128,
    )


def _stack(stack: str, taps: tuple[str, ...], blocks: int) -> dict[str, Tensor]:
    named = {f"mixing_weights_{stack}": torch.randn(len(taps))}
    for place, tap in enumerate(taps):
        for block in range(blocks):
            width = PROJECTION if block else WIDTHS[tap]
            sizes = {
                "conv1": (BOTTLENECK, width, 1),
                "conv2": (BOTTLENECK, BOTTLENECK, 3),
                "conv3": (PROJECTION, BOTTLENECK, 1),
            } | ({} if width == PROJECTION else {"shortcut": (PROJECTION, width, 1)})
            for name, (after, before, kernel) in sizes.items():
                start = f"bottleneck_layers_{stack}.{place}.{block}.{name}"
                named[f"{start}.weight"] = 0.3 * torch.randn(after, before, kernel, kernel)
                named[f"{start}.norm.weight"] = 1 + 0.2 * torch.randn(after)
                named[f"{start}.norm.bias"] = 0.2 * torch.randn(after)
    return named


def _write_base(base: Path, unet: UNet2DConditionModel, vae: AutoencoderKL) -> None:
    unet.save_config(base / "unet")
    vae.save_config(base / "vae")
    tokenizer, small = build_clip(["a toy fox"], seed=2)
    text = CLIPTextConfig(
        **small.config.to_dict()
        | {"hidden_size": TEXT_WIDTH, "intermediate_size": 48, "num_attention_heads": 2, "projection_dim": 16}
        | {"max_position_embeddings": TEXT_TOKENS, "hidden_act": "gelu"}
    )
    CLIPTextModel(text).eval().save_pretrained(base / "text_encoder")
    _write_tokenizer(base / "tokenizer", json.loads(tokenizer.backend_tokenizer.to_str())["model"])


def _write_tokenizer(folder: Path, model: dict[str, object]) -> None:
    """As SD 2.1 has it: a vocabulary and merges, padded with "!" and not with the end of the text."""
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]  # type: ignore[attr-defined]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    start, end = "<|startoftext|>", "<|endoftext|>"
    special = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": "!"}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": TEXT_TOKENS, "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(special | settings))


def _below(tensors: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
