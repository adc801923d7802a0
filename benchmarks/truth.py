"""How well the truth instrument knows poses and damage: the tables of docs/truth.md.

    python benchmarks/truth.py --figures 100

Every held-out figure is drawn once in a known structure; then come its round trip through the pocket's VAE and damaged
versions. No picture here was made by a trained model.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from divrl_core.evaluation.calibration_cases import scrambled
from divrl_core.models.features.lite0 import Lite0Backbone
from divrl_core.models.flux import FluxAdapter
from divrl_core.pocket.figures import (
    COLOURS,
    PATTERNS,
    Identity,
    Structure,
    any_structure,
    sample_identity,
)
from divrl_core.pocket.render import render
from divrl_core.pocket.truth import (
    CLEAN_FEATURES,
    CLEAN_OUTSIDE,
    CLEAN_PIXELS,
    Truth,
    truth_of,
    visible_limbs,
)

FLOOR = "blue"
ERRORS = ("pixel_error", "outside_error", "feature_error")
# each error's threshold is to catch this damage; it lies half-way (in ratio) between round trips and the damage
CAUGHT = {"pixel_error": "first colour changed", "outside_error": "other figure", "feature_error": "speckled"}


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--figures", type=int, default=100)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--model", default="pocket", help="pipeline whose VAE makes the round trips")
    arguments = parser.parse_args()

    backbone, adapter = Lite0Backbone.load(), FluxAdapter.load(arguments.model)
    truths: dict[str, list[Truth]] = {}
    poses: list[tuple[Identity, Structure, Structure]] = []
    seconds, seen = 0.0, 0
    for index in range(arguments.figures):
        rng = np.random.default_rng([arguments.seed, index])
        identity, structure = sample_identity(rng, held_out=True), any_structure(rng)
        pictures = kinds(rng, identity, structure, adapter)
        elsewhere = any_structure(rng)  # the reference gives the search no help
        started = time.perf_counter()
        found = truth_of(
            torch.stack(list(pictures.values())),
            [identity] * len(pictures),
            [FLOOR] * len(pictures),
            [elsewhere] * len(pictures),
            backbone,
        )
        seconds, seen = seconds + time.perf_counter() - started, seen + len(pictures)
        for name, truth in zip(pictures, found, strict=True):
            truths.setdefault(name, []).append(truth)
        poses.append((identity, structure, found[0].structure))
        print(f"{index + 1}/{arguments.figures}", end="\r", file=sys.stderr)
    print(f"{arguments.figures} held-out figures; {60 * seen / seconds:.0f} pictures a minute, one process\n")
    print(damage_table(truths))
    print(f"\nThresholds: pixels {CLEAN_PIXELS}, outside {CLEAN_OUTSIDE}, features {CLEAN_FEATURES}")
    print(f"By the rule on these figures: {', '.join(f'{value:.3f}' for value in by_rule(truths))}\n")
    print(pose_table(poses))


def kinds(
    rng: np.random.Generator, identity: Identity, structure: Structure, adapter: FluxAdapter
) -> dict[str, Tensor]:
    """One figure's picture, its round trip through the VAE, and damage of known kinds."""
    drawn = render(identity, structure, FLOOR)
    colours = [name for name in COLOURS if name not in (identity.primary, identity.secondary)]
    patterns = [name for name in PATTERNS if name != identity.pattern]
    while (stranger := sample_identity(rng, held_out=True)).plan == identity.plan:
        pass
    repainted = replace(identity, primary=colours[rng.integers(len(colours))])
    repatterned = replace(identity, pattern=patterns[rng.integers(len(patterns))])
    columns = np.flatnonzero(drawn.mask.any(axis=0))
    erased = drawn.image.copy()
    erased[:, (columns[0] + columns[-1]) // 2 :] = drawn.image[:, -1:]
    block = np.ones((4, 4), dtype=int)
    hit = np.kron(rng.random((32, 32)) < 0.3, block).astype(bool) & drawn.mask
    speckled = drawn.image.copy()
    speckled[hit] = np.kron(rng.integers(0, 256, (32, 32, 3)), block[..., None])[hit]
    true = tensor(drawn.image)
    with torch.no_grad():
        trip = adapter.decode(adapter.encode_images(true[None]), 128, 128)[0]
    return {
        "true render": true,
        "VAE round trip": trip,
        "first colour changed": tensor(render(repainted, structure, FLOOR).image),
        "pattern changed": tensor(render(repatterned, structure, FLOOR).image),
        "other figure": tensor(render(stranger, structure, FLOOR).image),
        "half erased": tensor(erased),
        "scrambled": scrambled(rng, drawn),
        "speckled": tensor(speckled),
    }


def tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255


def damage_table(truths: dict[str, list[Truth]]) -> str:
    """Quantiles of the three errors by kind of picture."""
    lines = [
        "| picture | pixels: 1%, 50%, 99% | outside: 1%, 50%, 99% | features: 1%, 50%, 99% | clean |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, rows in truths.items():
        cells = [
            ", ".join(
                f"{value:.3f}"
                for value in np.quantile([getattr(row, error) for row in rows], (0.01, 0.5, 0.99))
            )
            for error in ERRORS
        ]
        lines.append(f"| {name} | {' | '.join(cells)} | {np.mean([row.is_clean for row in rows]):.0%} |")
    return "\n".join(lines)


def by_rule(truths: dict[str, list[Truth]]) -> list[float]:
    """Geometric mean of the round trips' 99% quantile and the 1% quantile of the damage to catch, for each error."""
    thresholds = []
    for error, damage in CAUGHT.items():
        passes = np.quantile([getattr(row, error) for row in truths["VAE round trip"]], 0.99)
        fails = np.quantile([getattr(row, error) for row in truths[damage]], 0.01)
        thresholds.append(float(np.sqrt(passes * fails)))
    return thresholds


def pose_table(poses: Sequence[tuple[Identity, Structure, Structure]]) -> str:
    """How far the found pose is from the true one, for what can be seen."""
    bars = {
        "azimuth": 10,
        "elevation": 5,
        "head_yaw": 12,
        "raise_left": 20,
        "raise_right": 20,
        "swing": 20,
        "tail": 30,
    }
    lines = ["| factor | error, degrees: 50%, 90%, 95% | within | n visible |", "| --- | --- | --- | --- |"]
    for name, bar in bars.items():
        errors = [
            abs(getattr(found, name) - getattr(true, name))
            for identity, true, found in poses
            if name in ("azimuth", "elevation", "head_yaw") or name in visible_limbs(identity, true)
        ]
        cells = ", ".join(f"{value:.1f}" for value in np.quantile(errors, (0.5, 0.9, 0.95)))
        share = np.mean([error < bar for error in errors])
        lines.append(f"| {name} | {cells} | {share:.0%} within {bar} | {len(errors)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
