"""Load Pocket Kontext: the small models of the repository, to try every workflow with no GPU and no download."""

from __future__ import annotations

from typing import Any

import comfy.model_management as management
import comfy.model_patcher
import comfy.model_sampling
import comfy.sd
import comfy.utils
import torch
from comfy_api.latest import io

KONTEXT, TEXT_TO_IMAGE = "kontext", "text to image"
PARTS = {KONTEXT: "transformer", TEXT_TO_IMAGE: "transformer_text_to_image"}
WEIGHTS = "diffusion_pytorch_model.safetensors"
SIZE_PX = 128
TOKENS = (SIZE_PX // 16) ** 2
FIGURES = 1000


class LoadPocketKontext(io.ComfyNode):
    """A FLUX.1-Kontext (or FLUX.1-dev) of 4 M parameters, its VAE and text encoders, and a figure to draw."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DivRL_LoadPocketKontext",
            display_name="Load Pocket Kontext",
            category="DivRL",
            description=(
                "A tiny FLUX.1-Kontext that draws toy figures at 128 px and comes with the pack: to try every node "
                "without a graphics card and without a download. Its LoRAs are in Load LoRA's list as divrl-pocket-*."
            ),
            search_aliases=["divrl", "demo model", "tiny flux", "test model", "cpu"],
            inputs=[
                io.Combo.Input(
                    "variant",
                    options=list(PARTS),
                    default=KONTEXT,
                    tooltip=(
                        "kontext was trained to read a reference. text to image was not: a masked-CFM LoRA teaches it, "
                        "with Width Reference."
                    ),
                ),
                io.Int.Input(
                    "figure",
                    default=0,
                    min=0,
                    max=FIGURES - 1,
                    control_after_generate=False,
                    tooltip="Which toy figure is the sample reference; none of them was seen in training.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="Set up for 128 x 128 px."),
                io.Clip.Output(tooltip="For CLIP Text Encode; knows the words of the toy world."),
                io.Vae.Output(tooltip="A TAESD of FLUX's 16 channels."),
                io.Image.Output(display_name="reference", tooltip="The sample figure, 128 x 128 px."),
                io.Mask.Output(display_name="mask", tooltip="Where the figure is."),
                io.String.Output(
                    display_name="prompt", tooltip="A prompt that names the figure, and another floor."
                ),
            ],
        )

    @classmethod
    def execute(cls, variant: str, figure: int) -> io.NodeOutput:
        reference, mask, prompt = sample_reference(figure)
        return io.NodeOutput(load_model(variant), PocketClip(), load_vae(), reference, mask, prompt)


def load_model(variant: str) -> Any:
    """The transformer as ComfyUI's own FLUX, with the schedule of 128 px."""
    from ..divrl_core.flow.schedule import shift_mu

    path = _weights() / PARTS[variant] / WEIGHTS
    model = comfy.sd.load_diffusion_model(str(path), model_options={"dtype": torch.float32})

    class PocketSampling(comfy.model_sampling.ModelSamplingFlux, comfy.model_sampling.CONST):
        """FLUX's sampling with its own shift."""

    sampling = PocketSampling(model.model.model_config)
    sampling.set_parameters(shift=shift_mu(TOKENS))
    model.add_object_patch("model_sampling", sampling)
    return model


def load_vae() -> Any:
    """The VAE: diffusers' names to those of ComfyUI's TAESD, whose decoder counts its clamp as layer 0."""
    state = comfy.utils.load_torch_file(str(_weights() / "vae" / WEIGHTS))
    renamed = {}
    for key, value in state.items():
        part, _, number, rest = key.split(".", 3)
        index = int(number) + (1 if part == "decoder" else 0)
        renamed[f"taesd_{part}.{index}.{rest}"] = value.float()
    return comfy.sd.VAE(sd=renamed, dtype=torch.float32)


def sample_reference(figure: int) -> tuple[torch.Tensor, torch.Tensor, str]:
    """(picture (1, H, W, 3), mask (1, H, W), a prompt) of a held-out figure."""
    from ..divrl_core.pocket.references import PocketReferences

    figures = PocketReferences(split="held_out", count=FIGURES)
    reference_id = figures.reference_id(figure)
    drawn = figures.load(reference_id, SIZE_PX)
    prompt = figures.prompts(figure)[0]
    return drawn.image.movedim(0, -1)[None], drawn.mask.float()[None], prompt


class PocketClip:
    """The two text encoders behind the methods that ComfyUI's text nodes and LoRA loader call."""

    def __init__(self) -> None:
        from ..divrl_core.models.pocket_text import PocketText

        self._text = PocketText()
        self.cond_stage_model = torch.nn.Module()  # no weights that a LoRA could change
        self.patcher = comfy.model_patcher.ModelPatcher(
            self._text.encoders,
            load_device=management.text_encoder_device(),
            offload_device=management.text_encoder_offload_device(),
        )

    def clone(self) -> PocketClip:
        """Itself: nothing of it can be patched."""
        return self

    def add_patches(self, *_: Any, **__: Any) -> list[str]:
        """No key of a LoRA is for these encoders."""
        return []

    def clip_layer(self, layer: int) -> None:
        """Raises ValueError: the encoders have one layer."""
        raise ValueError("the pocket's text encoders have one layer: leave CLIP Set Last Layer out")

    def tokenize(self, text: str, **_: Any) -> dict[str, str]:
        """The text itself for both encoders, under ComfyUI's names of them; `encode_from_tokens` does the rest."""
        return {"l": text, "t5xxl": text}

    def encode_from_tokens(
        self, tokens: dict[str, str], return_pooled: Any = False, return_dict: bool = False
    ) -> Any:
        """T5's tokens and CLIP's pooled output of one prompt."""
        management.load_models_gpu([self.patcher])
        embeds = self._text.token_embeddings([tokens["t5xxl"]]).to(management.intermediate_device())
        pooled = self._text.pooled([tokens["l"]]).to(management.intermediate_device())
        if return_dict:
            return {"cond": embeds, "pooled_output": pooled}
        return (embeds, pooled) if return_pooled else embeds

    def encode_from_tokens_scheduled(
        self, tokens: dict[str, str], add_dict: dict[str, Any] | None = None, **_: Any
    ) -> list[Any]:
        """ComfyUI's conditioning of one prompt."""
        encoded = self.encode_from_tokens(tokens, return_dict=True)
        pooled = {"pooled_output": encoded["pooled_output"]}
        return [[encoded["cond"], {**pooled, **(add_dict or {})}]]


def _weights() -> Any:
    from ..divrl_core.models.model_names import POCKET_FOLDER

    return POCKET_FOLDER
