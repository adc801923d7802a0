"""How pictures are asked of a model with a LoRA: as the LoRA was trained, where nothing else is asked for."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from ..models.model_names import POCKET

if TYPE_CHECKING:
    from ..models.flux import FluxAdapter
    from ..models.lora_file import LoraFile

logger = logging.getLogger("divrl")

KONTEXT_GUIDANCE = 2.5


def open_model(
    model: str,
    lora: LoraFile | None,
    *,
    layout: str | None,
    dtype: str,
    device: str,
    revision: str | None,
) -> FluxAdapter:
    """The pipeline, with the LoRA's layout and number of text tokens."""
    from ..models.flux import FluxAdapter

    return FluxAdapter.load(
        model,
        dtype=dtype,
        device=device,
        revision=revision,
        layout=layout_of(layout, lora),
        max_text_tokens=trained_with(lora, "max_text_tokens"),
        transformer_file=trained_with(lora, "transformer_file")
        if trained_with(lora, "path") == model
        else None,
    )


def layout_of(asked: str | None, lora: LoraFile | None) -> str | None:
    """The layout asked for, else the LoRA's own; a contradiction is said."""
    if lora is None or lora.layout is None:
        return asked
    if asked is not None and asked != lora.layout:
        logger.warning(
            "%s was trained with the reference in layout %s, the pictures are made in layout %s: it was never taught "
            "to read a reference there",
            lora.path, lora.layout, asked,
        )  # fmt: skip
        return asked
    return lora.layout


def guidance_of(asked: float | None, lora: LoraFile | None) -> float:
    """The guidance asked for, else that of a cfm LoRA's training, else Kontext's."""
    if asked is not None:
        return asked
    trained = trained_with(lora, "guidance_scale") if _is_cfm(lora) else None
    return KONTEXT_GUIDANCE if trained is None else float(trained)


def model_of(asked: str | None, lora: LoraFile | None) -> str:
    """The model asked for, else the one that the LoRA was trained on, else pocket; another one is said."""
    trained = trained_with(lora, "path")
    if asked is None:
        return str(trained or POCKET)
    if lora is not None and trained not in (None, asked):
        logger.warning("%s was trained on %s, the pictures are made with %s", lora.path, trained, asked)
    return asked


def trained_with(lora: LoraFile | None, name: str) -> Any:
    """A setting of the model that one of our LoRAs was trained with; None where the header does not say."""
    section = {} if lora is None else lora.settings.get("model", {})
    return section.get(name) if isinstance(section, dict) else None


def is_letterboxed(layout: str, lora: LoraFile | None) -> bool:
    """Whether references are letterboxed whole, as cfm trains, or cropped to squares, as explore and suppress do."""
    if lora is not None and "stage" in lora.settings:
        return _is_cfm(lora)
    return layout != "kontext"


def _is_cfm(lora: LoraFile | None) -> bool:
    return lora is not None and lora.settings.get("stage") == "cfm"


def size_of_pictures(
    asked: tuple[int, int] | int | None, adapter: FluxAdapter, lora: LoraFile | None
) -> tuple[int, int]:
    """(height, width) of the pictures: as asked, else as the LoRA was trained, else the model's own."""
    if isinstance(asked, tuple):
        return asked
    side = asked or trained_with(lora, "image_size_px") or adapter.default_image_size_px
    return side, side
