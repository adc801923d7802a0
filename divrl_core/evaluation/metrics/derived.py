"""What is computed from columns of other metrics in the summary, and not kept a picture.

- **consistency ratio**: share of pictures whose identity is above a cut-off: VSM > 0.6 (the backbone's own cut-off) in
  domain, sDINO > 0.75 out of domain.
- **diversity over consistency**: mean structural diversity over those pictures alone: nSSM of the same backbone in
  domain, DINO-nSSM out of domain.

Source: arXiv:2606.23950, section 4.1.2. Each is given as a column a picture whose mean over the defined values is the
measure, so that a summary takes mean and standard error of it as of any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Metric

SDINO_CUTOFF = 0.75
"""arXiv:2606.23950, section 4.1.2."""


@dataclass(frozen=True, kw_only=True)
class Derived:
    """One derived measure. gate: the column held against the cut-off. value: the one averaged; None = the share."""

    metric: Metric
    gate: str
    cutoff: float
    value: str | None = None

    def column(self, columns: Mapping[str, Tensor]) -> Tensor | None:
        """Its column, from columns (B,) over the same pictures; None where one that it needs is not there."""
        if self.gate not in columns or (self.value is not None and self.value not in columns):
            return None
        if self.value is None:
            return consistency(columns[self.gate], self.cutoff)
        return value_if_consistent(columns[self.value], columns[self.gate], self.cutoff)


def consistency(gate: Tensor, cutoff: float) -> Tensor:
    """1 where the identity is above the cut-off, 0 where it is not, NaN where it is undefined: (B,) -> (B,)."""
    return (gate > cutoff).double().masked_fill(gate.isnan(), torch.nan)


def value_if_consistent(value: Tensor, gate: Tensor, cutoff: float) -> Tensor:
    """The value where the identity is above the cut-off, NaN elsewhere: (B,), (B,) -> (B,)."""
    return value.double().masked_fill(~(gate > cutoff), torch.nan)


def defined_mean(column: Tensor) -> float:
    """The mean of the values that are defined; NaN where none is."""
    return float(column.double().nanmean()) if column.numel() else float("nan")


def derived_measures(vsm_cutoff: float, *, of: str = "", prefix: str = "") -> tuple[Derived, ...]:
    """The in-domain two of a backbone and the out-of-domain two of DINO.

    vsm_cutoff: the backbone's. of: the backbone's name, in labels. prefix: of its columns (`BackboneScorer`).
    """
    return (
        *_pair(prefix, f" ({of})" if of else "", f"{prefix}vsm", "VSM", f"{prefix}nssm", "nSSM", vsm_cutoff),
        *_pair("dino_", " (DINO)", "sdino", "sDINO", "dino_nssm", "DINO-nSSM", SDINO_CUTOFF),
    )


def _pair(
    prefix: str, of: str, gate: str, gate_label: str, value: str, value_label: str, cutoff: float
) -> tuple[Derived, Derived]:
    is_vsm = gate_label == "VSM"  # the paper leaves style out where VSM is measured, not where sDINO is
    ratio = Metric(
        name=f"{prefix}consistency_ratio",
        label=f"consistency ratio{of}",
        meaning=f"share of pictures with {gate_label} above {cutoff:g}",
        better="higher",
        family="identity",
        counts_style=not is_vsm,
    )
    diversity = Metric(
        name=f"{prefix}diversity_over_consistency",
        label=f"diversity over consistency{of}",
        meaning=f"mean {value_label} over the pictures with {gate_label} above {cutoff:g}",
        better="higher",
        family="structure",
        counts_style=not is_vsm,
    )
    return (
        Derived(metric=ratio, gate=gate, cutoff=cutoff),
        Derived(metric=diversity, gate=gate, cutoff=cutoff, value=value),
    )
