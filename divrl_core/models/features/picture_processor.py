"""What a model of transformers is shown of a picture of any size: as its preprocessor_config.json says.

Resize (to a shortest side, or to a square), cut out the middle, scale to [0, 1], normalise: on Pillow's own resampling,
as the image processors of transformers do it without torchvision, and as DreamBench++ and most papers measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..hub import read_json
from .vision_files import PROCESSORS, Normalisation, VisionFiles


@dataclass(frozen=True, kw_only=True)
class PictureProcessor:
    """How pictures become a model's input.

    shortest_px: side that the shorter edge is resized to, the other in proportion; None = both edges to `crop_px`,
    aspect not kept. crop_px: side of the square cut out of the middle. resample: of Pillow.
    """

    crop_px: int
    normalisation: Normalisation
    shortest_px: int | None = None
    resample: int = Image.Resampling.BICUBIC

    def __post_init__(self) -> None:
        """The square must lie inside the resized picture."""
        if self.crop_px < 1 or (self.shortest_px is not None and self.shortest_px < self.crop_px):
            raise ValueError(
                f"the square of {self.crop_px} px that is cut out of a picture must be at least 1 px and at most its "
                f"shorter edge after resizing, {self.shortest_px} px"
            )

    def pixels(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Pictures of any mode and size as (B, 3, crop_px, crop_px), float32, normalised."""
        squares = [self._square(picture.convert("RGB")) for picture in pictures]
        values = torch.stack([torch.from_numpy(np.array(one)).permute(2, 0, 1) for one in squares])
        mean, std = (
            torch.tensor(of)[:, None, None] for of in (self.normalisation.mean, self.normalisation.std)
        )
        return (values.float() / 255 - mean) / std

    @property
    def about(self) -> str:
        """In words, for figures."""
        if self.shortest_px is None:
            return f"whole pictures as squares of {self.crop_px} px"
        return f"shorter edge to {self.shortest_px} px, middle {self.crop_px} px"

    def _square(self, rgb: Image.Image) -> Image.Image:
        side = self.crop_px
        if self.shortest_px is None:
            return rgb.resize((side, side), Image.Resampling(self.resample))
        short = min(rgb.size)
        width, height = (
            self.shortest_px if edge == short else int(self.shortest_px * edge / short) for edge in rgb.size
        )
        left, top = (width - side) // 2, (height - side) // 2
        resized = rgb.resize((width, height), Image.Resampling(self.resample))
        return resized.crop((left, top, left + side, top + side))


def read_processor(files: VisionFiles, standard: PictureProcessor) -> PictureProcessor:
    """As the folder's preprocessor_config.json says; what it leaves open, or all where there is none, is `standard`.

    Raises ValueError, with the file, for sizes that are none.
    """
    assert files.folder is not None
    file = next((files.folder / name for name in PROCESSORS if (files.folder / name).is_file()), None)
    normalisation = files.normalisation or standard.normalisation
    if file is None:
        return standard
    content = read_json(file)
    content = content.get("image_processor", content)
    try:
        size = _side_of(content.get("size"), standard.shortest_px or standard.crop_px)
        crop = _side_of(content.get("crop_size"), standard.crop_px)
        is_cut = content.get("do_center_crop", True) and content.get("do_resize", True)
        return PictureProcessor(
            shortest_px=size if is_cut and _keeps_aspect(content.get("size")) else None,
            crop_px=crop if content.get("do_center_crop", True) else size,
            normalisation=normalisation,
            resample=Image.Resampling(content.get("resample", standard.resample)),
        )
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{file}: says no way to show the model a picture of any size: {error}; get the file again"
        ) from error


def _keeps_aspect(size: Any) -> bool:
    return not (isinstance(size, Mapping) and "height" in size)


def _side_of(size: Any, otherwise: int) -> int:
    """One side in pixels of {"shortest_edge": 256}, {"height": 224, "width": 224}, or 224."""
    if size is None:
        return otherwise
    sides = set(size.values()) if isinstance(size, Mapping) else {size}
    side = sides.pop() if len(sides) == 1 else None
    if not isinstance(side, int) or side < 1:
        raise ValueError(f"one side in pixels is needed, got {size}")
    return side
