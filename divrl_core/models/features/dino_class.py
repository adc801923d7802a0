"""DINOv2's class token: a whole picture as one vector, for measures of finished pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...config import BackboneConfig
from .base import Backbone
from .dinov2 import Dinov2Backbone
from .picture_processor import PictureProcessor, read_processor
from .vision_files import IMAGENET, KINDS, Purpose, open_files

DEFAULT = "facebook/dinov2-base"
DENSE_DEFAULT = "facebook/dinov2-small"
AT_ONCE = 16
STANDARD = PictureProcessor(shortest_px=256, crop_px=224, normalisation=IMAGENET)


def _purpose(metric: str, standard: str) -> Purpose:
    """A DINOv2, with or without registers."""
    return Purpose(
        who=f"metric {metric}",
        kinds=KINDS["dinov2"],
        named=f"name its folder: {metric}=FOLDER",
        instead=f"give a DINOv2, such as {standard}",
        otherwise="the metrics that are taken by default need no network",
    )


PURPOSE, DENSE_PURPOSE = _purpose("dino", DEFAULT), _purpose("dino_dense", DENSE_DEFAULT)


class DinoClass:
    """A frozen DINOv2 with the picture processor beside it. origin: where it is from, for figures."""

    def __init__(self, model: Any, processor: PictureProcessor, *, origin: str) -> None:
        self.origin, self.processor, self._model = origin, processor, model

    @classmethod
    def load(cls, path: str | None = None, *, device: str | torch.device = "cpu") -> DinoClass:
        """From a folder or hub id; None = `DEFAULT`. Raises as `ClipPair.load` does."""
        files = open_files(PURPOSE, path or DEFAULT)
        assert files.folder is not None
        config = BackboneConfig(name="dinov2", path=str(files.folder))
        backbone = Dinov2Backbone.load(config, device=device)
        return cls(backbone.module, read_processor(files, STANDARD), origin=files.origin)

    @torch.no_grad()
    def pictures(self, pictures: Sequence[Any]) -> Tensor:
        """Class tokens of PIL pictures of any size, after the last norm: (B, D), float32, length 1."""
        device = next(self._model.parameters()).device
        parts = []
        for start in range(0, len(pictures), AT_ONCE):
            pixels = self.processor.pixels(pictures[start : start + AT_ONCE]).to(device)
            parts.append(self._model(pixel_values=pixels).last_hidden_state[:, 0])
        return F.normalize(torch.cat(parts).float(), dim=1)


def load_dense(
    path: str | None = None, *, image_size_px: int, device: str | torch.device = "cpu"
) -> tuple[Backbone, str]:
    """A DINOv2 whose patches are read, at pictures of `image_size_px`, and where it is from; None = `DENSE_DEFAULT`."""
    files = open_files(DENSE_PURPOSE, path or DENSE_DEFAULT)
    assert files.folder is not None
    config = BackboneConfig(name="dinov2", path=str(files.folder), image_size_px=image_size_px)
    return Dinov2Backbone.load(config, device=device), files.origin
