"""ComfyUI's pictures, masks and latents (BHWC, 0 to 1) to ours (BCHW) and back, each checked in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

EMPTY_MASK_HINT = (
    "connect no mask, paint one in the mask editor, or, for a cut-out with a transparent background, put Invert Mask "
    "between (ComfyUI's mask is 1 where a picture is transparent)"
)


def to_bchw(images: Tensor, name: str) -> Tensor:
    """Pictures (B, H, W, 3) as (B, 3, H, W), float32. Raises ValueError in words for anything else."""
    if images.ndim != 4 or len(images) == 0:
        raise ValueError(f"{name}: needs pictures (batch, height, width, 3), got shape {tuple(images.shape)}")
    if images.shape[-1] != 3:
        hint = " (the fourth is transparency: use the picture without it, and its MASK)"
        raise ValueError(
            f"{name}: needs pictures with 3 channels, got {images.shape[-1]}"
            f"{hint if images.shape[-1] == 4 else ''}"
        )
    return images.movedim(-1, 1).float().contiguous()


def as_saved(images: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) at the 8 bits that Save Image writes (it rounds down), so that files score as they do."""
    return images.mul(255).clamp(0, 255).floor().div(255)


def reference_picture(image: Tensor) -> Image.Image:
    """One reference as an 8-bit RGB picture. Raises ValueError for a batch, or other than 3 channels."""
    bchw = to_bchw(image, "reference")
    if len(bchw) != 1:
        raise ValueError(f"reference: needs one picture, got a batch of {len(bchw)}; take one of them")
    levels = bchw[0].clamp(0, 1).mul(255).round().byte()
    return Image.fromarray(levels.permute(1, 2, 0).cpu().contiguous().numpy())


def mask_of_reference(mask: Tensor | None, image: Tensor) -> NDArray[np.bool_] | None:
    """The subject in the reference, bool (H, W), True where the mask is above one half; None = all of it.

    Raises ValueError for a mask of another size, a batch of masks, or an empty one.
    """
    if mask is None:
        return None
    flags = _flags(mask, image, "reference mask")
    if len(flags) != 1:
        raise ValueError(f"reference mask: needs one mask, got a batch of {len(flags)}")
    if not bool(flags.any()):
        raise ValueError(f"reference mask: it is empty, no pixel is above one half; {EMPTY_MASK_HINT}")
    return flags[0].numpy()


def masks_of_images(mask: Tensor | None, images: Tensor, name: str = "image masks") -> Tensor | None:
    """The subjects in pictures (B, H, W, C): bool (B, H, W); one mask serves all pictures."""
    if mask is None:
        return None
    flags = _flags(mask, images, name)
    if len(flags) not in (1, len(images)):
        raise ValueError(
            f"{name}: needs one mask, or one for each of {len(images)} pictures, got {len(flags)}"
        )
    return flags.expand(len(images), -1, -1)


def to_image(pictures: Sequence[Image.Image] | Image.Image) -> Tensor:
    """Pictures of one size as ComfyUI's (B, H, W, 3) in [0, 1]."""
    several = [pictures] if isinstance(pictures, Image.Image) else pictures
    arrays = [np.asarray(picture.convert("RGB"), dtype=np.float32) / 255 for picture in several]
    return torch.from_numpy(np.stack(arrays))


def latent_of_pictures(latent: dict[str, Any]) -> Tensor:
    """The tensor (B, C, h, w) of a latent. Raises ValueError for video and other latents."""
    samples = latent["samples"]
    if getattr(samples, "is_nested", False) or samples.ndim != 4:
        shape = "several parts" if getattr(samples, "is_nested", False) else tuple(samples.shape)
        raise ValueError(
            f"latent: needs that of a picture, (batch, channels, height, width), got {shape}: a video or audio latent "
            "cannot be used with a reference picture"
        )
    result: Tensor = samples
    return result


def latent_of_one_picture(latent: dict[str, Any]) -> Tensor:
    """The tensor (1, C, h, w) of a latent. Raises ValueError for batches as well."""
    samples = latent_of_pictures(latent)
    if len(samples) != 1:
        raise ValueError(
            f"latent: needs a batch of 1, got {len(samples)}; the number of candidates is set on this node"
        )
    return samples


def _flags(mask: Tensor, image: Tensor, name: str) -> Tensor:
    if mask.ndim == 2:
        mask = mask[None]
    size, needed = tuple(mask.shape[-2:]), (image.shape[1], image.shape[2])
    if mask.ndim != 3 or size != needed:
        hint = (
            "; Load Image gives a picture without transparency an empty mask of 64 x 64: disconnect it, or paint a mask"
            if size == (64, 64) and not bool((mask > 0).any())
            else ""
        )
        raise ValueError(
            f"{name}: must be as large as its picture, {needed[1]} x {needed[0]} px, "
            f"got {' x '.join(str(side) for side in reversed(size))} px{hint}"
        )
    return mask.cpu() > 0.5
