"""What all models of a contest stand on, and how each is asked: as its LoRA was trained, where nothing else is said.

One transformer becomes each model by turns, so all have one pipeline, one size and one number of text tokens. Layout
and guidance are each model's own: neither is part of the weights. All are shown the same square references, also a
masked-CFM LoRA, whose training letterboxed them.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from ...config import ModelConfig
from ...models.fingerprint import component_fingerprint
from ...models.flux import FluxAdapter
from ...models.hub import FULL_IMAGE_SIZE_PX, open_pipeline
from ...models.lora_apply import check_architecture
from ...models.lora_file import LoraFile, read_lora
from ...models.model_names import POCKET
from ...models.pipeline_config import PipelineConfig, pipeline_config
from ...models.traced_model import config_key, transformer_on_meta
from ...training.preflight import model_problems
from ..lora_request import guidance_of, layout_of, model_of, trained_with
from .entries import Entry
from .settings import ContestSettings

if TYPE_CHECKING:
    from torch import nn

Value = TypeVar("Value", bound=Hashable)

APART = "evaluate them apart, and name the pictures of one evaluation as a finished folder of the other"


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How one model is asked. lora: its file, shapes alone."""

    layout: str
    guidance: float
    lora: LoraFile | None = None


@dataclass(frozen=True)
class Base:
    """The pipeline of a contest. transformer_file, text_tokens: as its LoRAs were trained; None = its own."""

    model: str
    transformer_file: str | None
    text_tokens: int | None
    size_px: int
    dtype: str
    config: PipelineConfig

    def load(self, device: torch.device) -> FluxAdapter:
        """The pipeline, in its own layout; its parts are read when they are first needed."""
        return FluxAdapter.load(
            self.model,
            dtype=self.dtype,
            device=device,
            max_text_tokens=self.text_tokens,
            transformer_file=self.transformer_file,
        )

    @cached_property
    def made_of(self) -> dict[str, Any]:
        """What pictures follow from, by dotted name; reads the beginning, middle and end of its files."""
        file = None if self.transformer_file is None else Path(self.transformer_file).expanduser()
        folder = open_pipeline(self.model, transformer_file=file)
        text = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
        return {
            "base.transformer": component_fingerprint(folder, "transformer"),
            "base.vae": component_fingerprint(folder, "vae"),
            "base.scheduler": component_fingerprint(folder, "scheduler"),
            "base.text": component_fingerprint(folder, *text),
            "text_tokens": self.text_tokens or self.config.text_tokens,
            "size_px": self.size_px,
            "dtype": self.dtype,
        }


def find_base(settings: ContestSettings, entries: Sequence[Entry]) -> tuple[Base, dict[str, Asking]]:
    """The base of these entries, and how each that is made here is asked, by name.

    No weights are read. Raises FileNotFoundError or ValueError, in one line, for LoRAs that cannot be read, do not fit
    the base, or were trained on different ones.
    """
    made = [entry for entry in entries if entry.finished is None]
    loras = {
        entry.name: read_lora(entry.lora, with_weights=False) for entry in made if entry.lora is not None
    }
    model = _model_of(settings.base, loras)
    if problems := model_problems(ModelConfig(path=model)):
        raise ValueError(problems[0])
    config = pipeline_config(model)
    base = Base(
        model=model,
        transformer_file=_transformer_file(model, loras),
        text_tokens=_common("max_text_tokens", loras, "text tokens"),
        size_px=_size_of(settings, config, loras, makes_pictures=bool(made)),
        dtype=settings.dtype,
        config=config,
    )
    _check_fit(config, loras)
    return base, {entry.name: _asking(settings, config, loras.get(entry.name)) for entry in made}


def _model_of(asked: str | None, loras: Mapping[str, LoraFile]) -> str:
    if asked is not None:
        for lora in loras.values():
            model_of(asked, lora)  # says which was trained on another
        return asked
    return _common("path", loras, "base models", "; give --base, or ") or POCKET


def _transformer_file(model: str, loras: Mapping[str, LoraFile]) -> str | None:
    """The single file of weights that LoRAs of this very model were trained on."""
    own = {name: lora for name, lora in loras.items() if trained_with(lora, "path") == model}
    return _common("transformer_file", own, "transformer files")


def _size_of(
    settings: ContestSettings, config: PipelineConfig, loras: Mapping[str, LoraFile], *, makes_pictures: bool
) -> int:
    """The side asked for, else that of the LoRAs' training, else the model's; the paper's where no model is asked."""
    if settings.size_px is not None:
        return settings.size_px
    if not makes_pictures and settings.base is None:
        return FULL_IMAGE_SIZE_PX
    sized = {name: lora for name, lora in loras.items() if trained_with(lora, "image_size_px")}
    return _common("image_size_px", sized, "sizes", "; give --size, or ") or config.image_size_px


def _common(setting: str, loras: Mapping[str, LoraFile], what: str, remedy: str = "; ") -> Any:
    """The one value of a setting of the LoRAs' models; None where no header tells. Raises ValueError for several."""
    found: dict[Any, str] = {}
    for name, lora in loras.items():
        if "model" in lora.settings:
            found.setdefault(trained_with(lora, setting), name)
    if len(found) > 1:
        (first, one), (second, other) = list(found.items())[:2]
        raise ValueError(
            f"--model: {one} and {other} were trained with different {what}, {first} and {second}{remedy}{APART}"
        )
    return next(iter(found), None)


def _check_fit(config: PipelineConfig, loras: Mapping[str, LoraFile]) -> None:
    if not loras:
        return
    transformer: nn.Module = transformer_on_meta(config_key(config.parts["transformer"]), torch.float32)
    for name, lora in loras.items():
        try:
            check_architecture(transformer, lora)
        except ValueError as error:
            raise ValueError(f"--model {name}: {error}; the base is {config.name}") from error


def _asking(settings: ContestSettings, config: PipelineConfig, lora: LoraFile | None) -> Asking:
    return Asking(
        layout=layout_of(settings.layout, lora) or config.layout,
        guidance=guidance_of(settings.guidance, lora),
        lora=lora,
    )
