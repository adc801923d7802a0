"""HPS, the human preference score: how well people would like the picture for its prompt.

    HPS = cos(picture, prompt) of HPSv2.1, a CLIP ViT-H/14 tuned on people's choices        arXiv:2306.09341

as the package imscore gives it (`HPSv2.from_pretrained(...).score(pixels, prompts)`: pictures (B, 3, H, W) in [0, 1],
fitted into 224 px with black bars). Optional: pip install "divrl[hps]"; the package also fetches open_clip's ViT-H-14
of laion2B-s32B-b79K when it is made, which must be in the local cache where there is no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ...models.model_names import is_hub_id
from .base import Metric, Shot, Subject, Values
from .shown import batches

DEFAULT = "RE-N-Y/hpsv21"
WEIGHTS = "model.safetensors"
WHO = "metric hps"
HPS = Metric(
    name="hps",
    label="HPS",
    meaning="how well people would like the picture for its prompt",
    better="higher",
    family="quality",
)


class PreferenceModel(Protocol):
    """What imscore's models have in common."""

    def score(self, pixels: Tensor, prompts: list[str]) -> Tensor:
        """(B,) of pictures (B, 3, H, W) in [0, 1] and as many prompts."""


class HpsScorer:
    """HPS of every picture. origin: where the model is from."""

    name = "hps"
    metrics = (HPS,)

    def __init__(self, model: PreferenceModel, *, origin: str, device: str = "cpu") -> None:
        self._model, self._origin, self._device = model, origin, device

    @classmethod
    def load(cls, path: str | None = None, *, device: str = "cpu") -> HpsScorer:
        """From a folder or hub id; None = `DEFAULT`. Raises FileNotFoundError or ValueError in one line."""
        cls.check(path)
        from imscore.hps.model import HPSv2

        try:
            model: Any = HPSv2.from_pretrained(path or DEFAULT)
        except (OSError, RuntimeError, ValueError) as error:
            first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise FileNotFoundError(
                f"{WHO}: {path or DEFAULT}: imscore cannot load it ({first_line}); go online once, or leave hps out"
            ) from error
        origin = Path(path).name if path and Path(path).expanduser().is_dir() else path or DEFAULT
        return cls(model.to(device).eval().requires_grad_(False), origin=origin, device=device)

    @staticmethod
    def check(path: str | None = None, *, downloads: bool = False) -> None:
        """Raise, in one line, where the package or a named folder's weights are not there; nothing is fetched."""
        if find_spec("imscore") is None:
            raise FileNotFoundError(
                f'{WHO}: needs the package imscore, which is not installed; run: pip install "divrl[hps]"'
            )
        folder = Path(path or "").expanduser()
        if path is None or (is_hub_id(path) and not folder.exists()):
            return
        if not folder.exists():
            raise FileNotFoundError(f"{WHO}: no folder {path!r}, and not a hub id of the form owner/name")
        if not (folder / WEIGHTS).is_file():
            raise FileNotFoundError(
                f"{WHO}: {path}: a folder with {WEIGHTS} is needed, such as one of {DEFAULT}"
            )

    @property
    def source(self) -> str:
        """The model's origin."""
        return f"HPSv2.1 through imscore ({self._origin})"

    def prepare(self, subject: Subject) -> str:
        """Nothing: the reference has no part in it."""
        return subject.reference_id

    @torch.no_grad()
    def score(self, shots: Sequence[Shot], prepared: object) -> Values:
        """Pictures of one shape go through together."""
        values = torch.full((len(shots),), torch.nan)
        for batch in batches(shots):
            prompts = [shots[row].question.pair.prompt for row in batch.rows]
            found = self._model.score(batch.images.to(self._device), prompts)
            values[batch.rows] = found.float().cpu()
        return {HPS.name: values}
