"""What a LoRA's training was rewarded for, as columns of a table: what was paid, and what shows the same thing.

To lead in such a column proves nothing. nSSM, its cropped form and what copies are told by are one measure (copy excess
is a constant less nSSM), so a reward of one is a reward of all; a reward by DINOv2 reaches the columns of DINO.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from ...config import TrainConfig, from_mapping
from ...models.lora_file import LoraFile
from ...settings import as_recorded
from ...training.reward_formula import measures_in

_STRUCTURE = ("nssm", "nssm_cropped", "copy_paste", "copy_excess")
ALIKE: Mapping[str, tuple[str, ...]] = MappingProxyType({"nssm": _STRUCTURE, "nssm_cropped": _STRUCTURE})
"""Measure -> the columns of the same backbone that show it; of others the one of their own name."""

_DINO_STRUCTURE = ("dino_nssm", "dino_nssm_own")
SAME_NETWORK: Mapping[tuple[str, str], tuple[str, ...]] = MappingProxyType(
    {
        ("dinov2", "nssm"): _DINO_STRUCTURE,
        ("dinov2", "nssm_cropped"): _DINO_STRUCTURE,
        ("dinov2", "vsm"): ("sdino",),
        ("dinov2", "cosine"): ("dino", "dino_copy_paste", "dino_copy_excess"),
        ("clip", "cosine"): ("clip_i",),
    }
)
"""Backbone and measure -> the columns of other scorers that the same kind of network gives."""

WITHIN_SET = "set_distance"
SECOND = "second."


def rewarded_columns(lora: LoraFile | None, further: Collection[str] = ()) -> tuple[str, ...]:
    """The columns that the training of a LoRA was rewarded for, sorted; none that its header does not tell.

    further: backbones beside the evaluation's main one, whose columns begin with their names. The main one's columns
    are flagged whatever backbone paid: another network that sees the same is no independent witness.
    """
    config = None if lora is None else _settings_of(lora)
    if lora is None or config is None:
        return ()
    trained_by = lora.settings.get("backbone")
    first = trained_by.get("name") if isinstance(trained_by, dict) else config.reward.backbone.name
    found: set[str] = set()
    for measure in measures_in(config.reward):
        is_second = measure.startswith(SECOND)
        backbone = config.reward.second_backbone.name if is_second else first
        found |= _columns(measure.removeprefix(SECOND), backbone, further)
    if config.grpo.diversity_weight > 0:
        found |= {WITHIN_SET, *([f"{first}_{WITHIN_SET}"] if first in further else [])}
    return tuple(sorted(found))


def _columns(measure: str, backbone: str | None, further: Collection[str]) -> set[str]:
    own = ALIKE.get(measure, (measure,))
    prefixed = (f"{backbone}_{name}" for name in own) if backbone in further else ()
    return {*own, *prefixed, *SAME_NETWORK.get((backbone or "", measure), ())}


def _settings_of(lora: LoraFile) -> TrainConfig | None:
    """The settings of the LoRA's reward; None where the header has none, or those of another version."""
    sections: dict[str, Any] = {
        name: section for name in ("reward", "grpo") if isinstance(section := lora.settings.get(name), dict)
    }
    if "kind" not in sections.get("reward", {}):
        return None
    try:
        settings = as_recorded(TrainConfig, {"stage": "explore", **sections})
        return from_mapping(TrainConfig, settings, "the LoRA's header")
    except (ValueError, TypeError):
        return None
