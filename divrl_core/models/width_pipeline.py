"""diffusers' FLUX pipeline with the reference beside the picture, for LoRAs trained by masked flow matching.

    pipeline = FluxWidthPipeline.from_pretrained("black-forest-labs/FLUX.1-dev", torch_dtype=torch.bfloat16).to("cuda")
    pipeline.load_lora_weights("runs/cfm/lora/best.safetensors")
    pipeline(image=fox, prompt="a fox in the snow", height=512, width=512).images[0]

All else is FluxKontextPipeline's: its arguments, its components, its LoRA loading.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import FluxKontextPipeline
from PIL import Image, ImageOps
from torch import Tensor

from .layout import width_ids
from .panels import letterbox

Reference = Image.Image | Tensor | list[Image.Image]


class FluxWidthPipeline(FluxKontextPipeline):  # type: ignore[misc]
    """FLUX.1 whose reference lies to the right of the target on one canvas, clean (arXiv:2511.08061).

    The reference is letterboxed into a panel of the target's size, as in training; its latent never changes.
    """

    def __call__(
        self,
        image: Reference | None = None,
        prompt: str | list[str] | None = None,
        *,
        height: int = 512,
        width: int = 512,
        guidance_scale: float = 1.0,
        max_sequence_length: int = 128,
        **settings: Any,
    ) -> Any:
        """Make pictures of the subject in `image`.

        Args:
            image: the reference: a PIL picture, a list of them (one a prompt), or (B, 3, H, W) in [0, 1]; None makes
                pictures from the prompt alone.
            prompt: what to show.
            height, width: of the pictures, multiples of 16 px.
            guidance_scale: embedded; 1 as in training, 2.5 to 3.5 is common on FLUX.1-dev.
            max_sequence_length: T5 tokens of the prompt; as in training (model.max_text_tokens), 128.
            settings: anything else that FluxKontextPipeline takes.

        Raises ValueError when a side is no multiple of 16.
        """
        if height % 16 or width % 16:
            raise ValueError(f"height and width must be multiples of 16 px, got {height} x {width}")
        panels = None if image is None else _panels(image, height, width)
        count = settings.get("num_images_per_prompt", 1)
        if panels is not None and len(panels) > 1:  # prompts come as a, a, b, b, and so must their references
            panels = panels.repeat_interleave(count, dim=0)
        area = {"max_area": height * width, "_auto_resize": False}
        return super().__call__(
            image=panels,
            prompt=prompt,
            height=height,
            width=width,
            guidance_scale=guidance_scale,
            max_sequence_length=max_sequence_length,
            **area,
            **settings,
        )

    def prepare_latents(self, image: Tensor | None, *arguments: Any, **settings: Any) -> Any:
        """FluxKontextPipeline's, but for the reference's position ids."""
        latents, reference, ids, reference_ids = super().prepare_latents(image, *arguments, **settings)
        if reference_ids is not None:
            target, panel = _grid(ids), _grid(reference_ids)
            reference_ids = width_ids(panel, target).to(reference_ids)
        return latents, reference, ids, reference_ids


def _panels(image: Reference, height: int, width: int) -> Tensor:
    """The references as panels of the target's size, (B, 3, height, width) in [0, 1]."""
    if isinstance(image, Tensor):
        pictures = list(image if image.ndim == 4 else image[None])
    else:
        pictures = [_tensor(one) for one in (image if isinstance(image, list) else [image])]
    return torch.stack([letterbox(picture, height, width) for picture in pictures])


def _tensor(picture: Image.Image) -> Tensor:
    """The picture upright and, where it is transparent, on white, as in training."""
    rgba = ImageOps.exif_transpose(picture).convert("RGBA")
    canvas = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    canvas.alpha_composite(rgba)
    return torch.from_numpy(np.array(canvas.convert("RGB"))).permute(2, 0, 1).float() / 255


def _grid(ids: Tensor) -> tuple[int, int]:
    """Rows and columns of a picture's tokens, from its own position ids."""
    return int(ids[:, 1].max()) + 1, int(ids[:, 2].max()) + 1
