"""How well VSM tells a figure from others, over a grid of settings: the tables of docs/calibration.md.

    python benchmarks/calibration.py --cases 120 --held-out 100
    python benchmarks/calibration.py --backbone lite2 --cases 120 --held-out 100
    python benchmarks/calibration.py --backbone pocket --cases 120 --held-out 100

Thresholds are compared on training figures; the calibrated settings are then measured once on held-out figures.
`--cases 0` leaves the comparison out, `--held-out 0` the measurement.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from divrl_core.config import BackboneConfig
from divrl_core.evaluation.calibrate import (
    CalibrationRow,
    Grid,
    area_under_curve,
    best_gate,
    calibrate,
    share_above,
)
from divrl_core.evaluation.calibration_cases import OTHER_SUBJECT, pocket_cases
from divrl_core.evaluation.experiment_report import markdown_table
from divrl_core.models.features.base import BackboneSettings, load_backbone

POCKET_GRID = Grid(
    image_size_px=(192,), tau_s=(0.4, 0.5, 0.6, 0.7), tau_v=(0.3, 0.4, 0.5, 0.6), agreement=("match",),
    colour_scale=(1.0,), weight_s8=(0.0,),
)  # fmt: skip
GRIDS = {"lite0": Grid(), "lite2": Grid(image_size_px=(160, 192, 208, 224, 256)), "pocket": POCKET_GRID}
SETTINGS = ("size", "agreement", "s8", "tau_s", "tau_v")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backbone", choices=list(GRIDS), default="lite0")
    parser.add_argument("--cases", type=int, default=120, help="training figures that the grid is scored on")
    parser.add_argument(
        "--held-out", type=int, default=100, help="held-out figures for the calibrated settings"
    )
    parser.add_argument("--sizes", type=int, nargs="+", help="sides in px, multiples of 16")
    parser.add_argument("--seed", type=int, default=3)
    arguments = parser.parse_args()

    backbone = load_backbone(BackboneConfig(name=arguments.backbone))
    grid = GRIDS[arguments.backbone]
    if arguments.cases:
        cases = list(pocket_cases(arguments.cases, seed=arguments.seed))
        rows = []
        for size in arguments.sizes or grid.image_size_px:
            rows += calibrate(backbone, cases, replace(grid, image_size_px=(size,)))
            print(f"size {size}: best mean AUC {max(row.auc for row in rows):.3f}", file=sys.stderr)
        print(f"Best of each kind, {arguments.cases} training figures:\n")
        print(grid_table(rows))
    if not arguments.held_out:
        return

    cases = list(pocket_cases(arguments.held_out, seed=arguments.seed, held_out=True))
    chosen = calibrate(backbone, cases, only_calibrated(backbone.settings))[0]
    print(f"\n{backbone.source}; calibrated settings, {arguments.held_out} held-out figures:\n")
    print(label_table(chosen, backbone.settings))
    aucs = ", ".join(f"{label} {auc:.3f}" for label, auc in chosen.aucs.items())
    pattern = area_under_curve(chosen.scores["other view"], chosen.scores["other pattern"])
    print(f"\nAUC of other view against other pattern {pattern:.3f}.")
    print(
        f"\nAUC of other view against {aucs}; mean {chosen.auc:.3f}. Best gate here {best_gate(chosen):.2f}."
    )


def only_calibrated(settings: BackboneSettings) -> Grid:
    """A grid of one: the calibrated settings."""
    return Grid(
        image_size_px=(settings.image_size_px,),
        tau_s=(settings.score.tau_s,),
        tau_v=(settings.score.tau_v,),
        agreement=(settings.score.agreement,),
        colour_scale=(settings.colour_scale,),
        weight_s8=(settings.weight_s8,),
    )


def grid_table(rows: list[CalibrationRow]) -> str:
    """The best thresholds of each size, agreement and share of s8."""
    best: dict[tuple[object, ...], CalibrationRow] = {}
    for row in sorted(rows, key=lambda row: -row.auc):
        best.setdefault(
            (row.settings.image_size_px, row.settings.score.agreement, row.settings.weight_s8), row
        )
    heading = [
        *SETTINGS,
        *(f"AUC, {label}" for label in OTHER_SUBJECT),
        "mean AUC",
        "AUC, other pattern",
        "gate",
    ]
    body = [
        [
            *(str(value) for value in (kind[0], kind[1], kind[2])),
            f"{row.settings.score.tau_s:g}",
            f"{row.settings.score.tau_v:g}",
            *(f"{row.aucs[label]:.3f}" for label in OTHER_SUBJECT),
            f"{row.auc:.3f}",
            f"{area_under_curve(row.scores['other view'], row.scores['other pattern']):.3f}",
            f"{best_gate(row):.2f}",
        ]
        for kind, row in best.items()
    ]
    return markdown_table([heading, *body])


def label_table(row: CalibrationRow, settings: BackboneSettings) -> str:
    """Means and shares by label."""
    gate, cutoff = settings.gate, settings.consistency_cutoff
    above_gate, above_cutoff = share_above(row, gate), share_above(row, cutoff)
    heading = [
        "picture",
        "nSSM",
        "VSM",
        "std",
        f"VSM > {gate:g}",
        f"VSM > {cutoff:g}",
        "matches a cell",
        "undefined",
    ]
    body = [
        [
            label,
            f"{row.nssm[label]:.3f}",
            f"{row.vsm[label]:.3f}",
            f"{row.vsm_std[label]:.3f}",
            f"{above_gate[label]:.2f}",
            f"{above_cutoff[label]:.2f}",
            f"{row.kept_share[label]:.2f}",
            str(row.undefined[label]),
        ]
        for label in row.vsm
    ]
    return markdown_table([heading, *body])


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
