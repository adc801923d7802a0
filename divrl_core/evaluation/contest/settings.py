"""How an evaluation's pictures are made and judged, whatever the models."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...config import BackboneConfig, SegmenterConfig

DTYPES = ("float32", "bfloat16", "float16")
STREAM = "evaluation"  # of all noise; within it a picture's name is the key


@dataclass(frozen=True, kw_only=True)
class ContestSettings:
    """Of all models alike.

    base: the FLUX pipeline that LoRAs stand on; None = the one they were trained on, else pocket. pictures_each: of
    every question. steps: of the sampler. guidance: None = a cfm LoRA's own, else 2.5. size_px: side of the square
    pictures; None = the LoRAs', else the base's own. layout: where the reference lies; None = the LoRA's, else the
    base's own. backbone: measures VSM and structure, and chooses among the candidates of best-of-N. segmenter: finds
    the subject in generated pictures; None = no masks of these.
    """

    base: str | None = None
    pictures_each: int = 4
    seed: int = 0
    steps: int = 28
    guidance: float | None = None
    size_px: int | None = None
    layout: str | None = None
    dtype: str = "float32"
    device: str = "cpu"
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    segmenter: SegmenterConfig | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for numbers that cannot be."""
        for name, least in (("pictures_each", 1), ("steps", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.size_px is not None and (self.size_px < 16 or self.size_px % 16):
            raise ValueError(f"size_px must be a multiple of 16 from 16 up, got {self.size_px}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
