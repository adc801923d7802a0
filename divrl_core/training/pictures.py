"""Files of pictures and masks as tensors of the training size.

Decoding: EXIF orientation is applied; palette, grey, CMYK and 16-bit pictures become 8-bit RGB; a picture
with an alpha channel is laid on white (`BACKGROUND_RGB`). In a mask, values above 127 of 255 are the
object.

Framing: the picture is resized so that it covers the square, and its middle is cropped, if that keeps at
least 95% of the object; otherwise all of it is fitted inside the square and the bars take the mean colour
of the two edges that they touch. The mask goes through the same transform (nearest neighbour) and is False
on the bars.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .references import Reference

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
BACKGROUND_RGB = (255, 255, 255)
OBJECT_ABOVE = 127
KEPT_BY_CROP = 0.95

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
_DECODING_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    KeyError,
    EOFError,
    TypeError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class Picture:
    """A decoded picture: colours on white where it was transparent, and its alpha channel if it has one."""

    rgb: Image.Image
    alpha: NDArray[np.uint8] | None


def decode_picture(content: Path | bytes) -> Picture:
    """Read a picture to its last pixel. Raises ValueError when it is truncated, damaged or not a picture."""
    picture = _decode(content)
    if not _is_transparent(picture):
        return Picture(_eight_bit(picture).convert("RGB"), None)
    rgba = picture.convert("RGBA")
    canvas = Image.new("RGBA", rgba.size, (*BACKGROUND_RGB, 255))
    canvas.alpha_composite(rgba)
    return Picture(canvas.convert("RGB"), np.asarray(rgba.getchannel("A")))


def decode_mask(content: Path | bytes) -> NDArray[np.bool_]:
    """Read a mask as (H, W) bool: brightness above 127, transparent pixels being dark. Raises ValueError."""
    picture = _decode(content)
    if _is_transparent(picture):
        rgba = picture.convert("RGBA")
        black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
        black.alpha_composite(rgba)
        picture = black
    brightness = np.asarray(_eight_bit(picture).convert("L"))
    mask: NDArray[np.bool_] = brightness > OBJECT_ABOVE
    if not mask.any():
        raise ValueError(
            f"the mask is empty: its brightest value is {brightness.max()}, "
            f"the object needs more than {OBJECT_ABOVE}"
        )
    return mask


def frame(rgb: Image.Image, mask: NDArray[np.bool_], size_px: int) -> Reference:
    """The picture and its mask (H, W) as squares of `size_px`, cropped or fitted (see the top of the file).

    Raises ValueError if no pixel of the object is left at this size.
    """
    box = _middle_square(rgb.size)
    mask_picture = Image.fromarray(mask.astype(np.uint8) * 255)
    if _share_inside(mask, box) >= KEPT_BY_CROP:
        square = rgb.resize((size_px, size_px), Image.Resampling.BICUBIC, box=box)
        square_mask = mask_picture.resize((size_px, size_px), Image.Resampling.NEAREST, box=box)
    else:
        square, square_mask = _fit_inside(rgb, mask_picture, size_px)
    reference_mask = torch.from_numpy(np.array(square_mask)) > OBJECT_ABOVE
    if not reference_mask.any():
        raise ValueError(f"the object vanishes at {size_px} px: its mask has {int(mask.sum())} pixels")
    return Reference(image=picture_tensor(square), mask=reference_mask)


def frame_to(rgb: Image.Image, mask: NDArray[np.bool_], height: int, width: int) -> Reference:
    """The picture and its mask (H, W) as pictures of (height, width) are compared with it.

    A square is framed by `frame`; for another shape both are resized to it, aspect not kept (mask: nearest neighbour).
    """
    if height == width:
        return frame(rgb, mask, height)
    mask_picture = Image.fromarray(mask.astype(np.uint8) * 255)
    resized_mask = np.array(mask_picture.resize((width, height), Image.Resampling.NEAREST))
    return Reference(
        image=picture_tensor(rgb.resize((width, height), Image.Resampling.BICUBIC)),
        mask=torch.from_numpy(resized_mask) > OBJECT_ABOVE,
    )


def picture_tensor(rgb: Image.Image) -> Tensor:
    """An RGB picture as (3, H, W), float32 in [0, 1]."""
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous().float() / 255


def _decode(content: Path | bytes) -> Image.Image:
    if isinstance(content, bytes) and not content:
        raise ValueError("the file is empty")
    try:
        with Image.open(
            io.BytesIO(content) if isinstance(content, bytes) else content, formats=_FORMATS
        ) as file:
            file.load()
            return ImageOps.exif_transpose(file)
    except UnidentifiedImageError:
        raise ValueError("not a picture that can be read: needs PNG, JPEG, WebP, BMP or TIFF") from None
    except FileNotFoundError:
        raise ValueError("no such file") from None
    except _DECODING_ERRORS as error:
        raise ValueError(f"truncated or damaged picture ({error})") from None


def _is_transparent(picture: Image.Image) -> bool:
    has_alpha = picture.mode in ("RGBA", "LA", "PA", "RGBa", "La")
    return has_alpha or (picture.mode in ("1", "L", "RGB", "P") and "transparency" in picture.info)


def _eight_bit(picture: Image.Image) -> Image.Image:
    """16-bit greys scaled to 8 bits (Pillow's own conversion would clip them); other modes as they are."""
    if picture.mode == "F" or picture.mode == "LAB":
        raise ValueError(
            f"pictures of mode {picture.mode} are not read; save it with 8 or 16 bits as grey or RGB"
        )
    if not picture.mode.startswith("I"):
        return picture
    values = np.asarray(picture).astype(np.float64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("grey values outside 0..65535; save the picture with 8 or 16 bits")
    return Image.fromarray(np.rint(values / 257).astype(np.uint8))


def _middle_square(size: tuple[int, int]) -> tuple[float, float, float, float]:
    width, height = size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _share_inside(mask: NDArray[np.bool_], box: tuple[float, float, float, float]) -> float:
    left, top, right, bottom = (int(edge) for edge in box)
    return float(mask[top:bottom, left:right].sum() / mask.sum())


def _fit_inside(rgb: Image.Image, mask: Image.Image, size_px: int) -> tuple[Image.Image, Image.Image]:
    scale = size_px / max(rgb.size)
    width, height = (max(1, round(side * scale)) for side in rgb.size)
    corner = ((size_px - width) // 2, (size_px - height) // 2)
    resized = rgb.resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(resized)
    edges = pixels[[0, -1]] if height < width else pixels[:, [0, -1]]
    red, green, blue = (int(value) for value in np.rint(edges.reshape(-1, 3).mean(axis=0)))
    square = Image.new("RGB", (size_px, size_px), (red, green, blue))
    square.paste(resized, corner)
    square_mask = Image.new("L", (size_px, size_px), 0)
    square_mask.paste(mask.resize((width, height), Image.Resampling.NEAREST), corner)
    return square, square_mask
