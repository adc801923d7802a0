"""Width Reference: a FLUX model that reads its reference latent beside the target, as masked-CFM LoRAs were trained.

The stock model appends the reference's tokens to the target's and gives them Kontext's position ids (index 1). The
patch below gives them the ids of one wide canvas instead: index 0, the target's rows, columns that go on after the
target's. The ids come from the function that the trainer uses (divrl_core/models/layout.py).
"""

from __future__ import annotations

from typing import Any

import comfy.ldm.flux.model
import node_helpers
import torch
from comfy_api.latest import io

from .convert import latent_of_pictures, to_bchw

TOKEN_PX = 16  # a token is 2 x 2 latent cells of 8 px


class WidthReference(io.ComfyNode):
    """A model that reads every reference latent of its conditioning along width."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DivRL_WidthReference",
            display_name="Width Reference",
            category="DivRL",
            description=(
                "For LoRAs trained by masked conditional flow matching (divrl-train cfm) on FLUX.1-dev: the reference "
                "latents of the conditioning (Set Reference Latent) are read beside the target, as one wide canvas."
            ),
            search_aliases=[
                "divrl",
                "latent concatenation",
                "masked cfm",
                "in-context lora",
                "reference latent",
            ],
            inputs=[
                io.Model.Input(
                    "model", tooltip="A FLUX.1 model, usually with a masked-CFM LoRA loaded before."
                )
            ],
            outputs=[
                io.Model.Output(tooltip="The same model; only positions of reference tokens are changed.")
            ],
        )

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        return io.NodeOutput(with_width_reference(model))


class WidthReferenceFromImage(io.ComfyNode):
    """The same in one step: fits and encodes the reference, and puts it into the conditioning."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DivRL_WidthReferenceFromImage",
            display_name="Width Reference (from Image)",
            category="DivRL",
            description=(
                "Fits the reference into the target's panel without stretching it, encodes it, adds it to the "
                "conditioning and lets the model read it along width: what masked-CFM LoRAs were trained on."
            ),
            search_aliases=[
                "divrl",
                "latent concatenation",
                "masked cfm",
                "in-context lora",
                "reference image",
            ],
            inputs=[
                io.Model.Input(
                    "model", tooltip="A FLUX.1 model, usually with a masked-CFM LoRA loaded before."
                ),
                io.Conditioning.Input("conditioning", tooltip="The prompt."),
                io.Vae.Input("vae", tooltip="The model's VAE."),
                io.Image.Input("image", tooltip="The reference, of any size."),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip=(
                        "The target's latent: the reference is letterboxed into a panel of its size, as in training. "
                        "Without it the reference keeps its own size, cut to multiples of 16 px."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="Reads references along width."),
                io.Conditioning.Output(tooltip="The prompt with the reference latent."),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, conditioning: Any, vae: Any, image: torch.Tensor, latent: Any = None
    ) -> io.NodeOutput:
        panel = fitted_reference(image, None if latent is None else latent_of_pictures(latent))
        encoded = vae.encode(panel)
        values = {"reference_latents": [encoded]}
        with_reference = node_helpers.conditioning_set_values(conditioning, values, append=True)
        plain = node_helpers.conditioning_set_values(with_reference, {"reference_latents_method": "offset"})
        return io.NodeOutput(with_width_reference(model), plain)


def with_width_reference(model: Any) -> Any:
    """A clone of a FLUX.1 model with the patch. Raises ValueError for a model of another kind."""
    network = model.get_model_object("diffusion_model")
    params = getattr(network, "params", None) if isinstance(network, comfy.ldm.flux.model.Flux) else None
    is_flux_1 = (
        params is not None
        and len(params.axes_dim) == 3
        and params.vec_in_dim is not None
        and not getattr(params, "txt_ids_dims", None)
    )
    if not is_flux_1:
        raise ValueError(
            f"Width Reference: needs a FLUX.1 model, got {type(model.model).__name__}; other models number their "
            "positions differently"
        )
    patched = model.clone()
    patched.set_model_post_input_patch(shift_references)
    return patched


def fitted_reference(image: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
    """The reference (1, H, W, 3) letterboxed into the target latent's panel, or cut to whole tokens."""
    from ..divrl_core.models.panels import letterbox

    pictures = to_bchw(image, "image")
    if len(pictures) != 1:
        raise ValueError(f"image: needs one reference, got a batch of {len(pictures)}; take one of them")
    if target is not None:
        height, width = target.shape[-2] * 8, target.shape[-1] * 8
        return letterbox(pictures[0], height, width)[None].movedim(1, -1)
    height, width = (side // TOKEN_PX * TOKEN_PX for side in pictures.shape[-2:])
    if not height or not width:
        raise ValueError(
            f"image: needs at least {TOKEN_PX} x {TOKEN_PX} px, got {pictures.shape[-1]} x {pictures.shape[-2]}"
        )
    top, left = (pictures.shape[-2] - height) // 2, (pictures.shape[-1] - width) // 2
    return pictures[..., top : top + height, left : left + width].movedim(1, -1)


def shift_references(inputs: dict[str, Any]) -> dict[str, Any]:
    """The model's post-input patch: the last tokens are the references'; give them a wide canvas's ids."""
    from ..divrl_core.models.layout import width_ids_of_several

    counts = inputs["transformer_options"].get("reference_image_num_tokens", [])
    if not counts:
        return inputs
    ids = inputs["img_ids"].clone()
    first = ids.shape[1] - sum(counts)
    target = ids[0, :first]
    grids = [_grid(part) for part in ids[0, first:].split(list(counts))]
    positions = width_ids_of_several(grids, _grid(target)).to(ids)
    # Other nodes may stretch or shift the target's positions; its canvas goes on in the same steps.
    ids[:, first:] = target[0] + positions * _step(target)
    return {**inputs, "img_ids": ids}


def _grid(ids: torch.Tensor) -> tuple[int, int]:
    """(rows, columns) of a picture's tokens, from their ids (N, 3)."""
    rows = len(ids[:, 1].unique())
    return rows, len(ids) // rows


def _step(ids: torch.Tensor) -> torch.Tensor:
    """(3,) how far neighbours lie apart: 1 down and to the right, unless the positions were stretched."""
    rows, columns = _grid(ids)
    spans = ids[-1] - ids[0]
    steps = [
        spans[axis] / (count - 1) if count > 1 else spans.new_ones(())
        for axis, count in ((1, rows), (2, columns))
    ]
    return torch.stack([spans.new_ones(()), *steps])
