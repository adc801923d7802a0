"""The rewards that are formulas of measures: what the settings name, from measures by name.

The same function pays for samples in training and tells, from the scores of held-out pictures, what would be paid.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..config import RewardConfig
from ..models.features.base import Backbone
from ..rewards.gate import gate_gap, gated_total, linear_total

FORMULAS = ("nssm", "gated", "vsm", "linear")
SECOND, HELD_OUT = "second.", "held_out."


def gates_of(config: RewardConfig, backbone: Backbone, second: Backbone | None = None) -> dict[str, float]:
    """The least value of each measure that the gate asks for, the backbones' own gates filled in."""
    own = {"vsm": backbone.settings.gate, "cosine": backbone.settings.gate}
    if second is not None:
        own["second.vsm"] = second.settings.gate
    return {gate.measure: own[gate.measure] if gate.least is None else gate.least for gate in config.asked}


def measures_in(config: RewardConfig) -> frozenset[str]:
    """The measures that the reward is made of, by name; of a function or a server, none that is known here."""
    structure: set[str] = {config.paid_structure}
    gates = {gate.measure for gate in config.asked}
    parts: dict[str, set[str]] = {
        "nssm": structure,
        "gated": structure | gates,
        "vsm": {"vsm"},
        "linear": structure | {"vsm"},
    }
    return frozenset(parts.get(config.kind, set()))


def needed_measures(config: RewardConfig) -> frozenset[str]:
    """The measures to take of every sample: those of the reward, and of the gate, which is reported with any reward."""
    return measures_in(config) | {gate.measure for gate in config.asked}


def formula_total(config: RewardConfig, measures: Mapping[str, Tensor], gates: Mapping[str, float]) -> Tensor:
    """What the formula `config.kind` pays, (B,), higher is better, NaN = undefined.

    nssm: structure (eq. 8). gated: structure - lambda gap^2 (eq. 9). vsm: VSM. linear: w VSM + (1 - w) structure.
    """
    if config.kind == "vsm":
        return measures["vsm"]
    structure = measures[config.paid_structure]
    if config.structure_cap is not None:
        structure = structure.clamp_max(config.structure_cap)
    match config.kind:
        case "nssm":
            return structure
        case "gated":
            gap = gate_gap(measures, gates)
            return gated_total(structure, gap, penalty_weight=config.penalty_weight)
        case "linear":
            return linear_total(structure, measures["vsm"], vsm_weight=config.vsm_weight)
    raise ValueError(f"reward.kind={config.kind} is no formula")


def gap_or_unknown(measures: Mapping[str, Tensor], gates: Mapping[str, float], like: Tensor) -> Tensor:
    """The gap below the gates, NaN where a measure was not taken."""
    if any(name not in measures for name in gates):
        return torch.full_like(like, torch.nan)
    return gate_gap(measures, gates)
