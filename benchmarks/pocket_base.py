"""What the pocket's base model does on held-out figures, by the truth instrument: the tables of docs/pocket.md.

    python benchmarks/pocket_base.py --figures 64

- samples from noise: how many are whole pictures of their figure, and how far they have moved from the reference;
- the world's own spread: two independent structures of one figure, as the measure of that movement;
- restored: a true other view, noised to --time and denoised; whether the model can show it once it is given.
"""

from __future__ import annotations

import argparse
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from divrl_core.flow.noise import keyed_noise
from divrl_core.flow.path import interpolate
from divrl_core.flow.sde import ode_step
from divrl_core.models.conditioning import Conditioning
from divrl_core.models.features.lite0 import Lite0Backbone
from divrl_core.models.flux import FluxAdapter
from divrl_core.pocket.references import PocketReferences
from divrl_core.pocket.render import render
from divrl_core.pocket.truth import Truth, changes, truth_of
from divrl_core.pocket.world import views_of

SIZE, OTHER = 128, 2  # the third view of `views_of` is independent of the first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--figures", type=int, default=64)
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--time", type=float, default=0.7, help="noise that a true other view is given, 0..1")
    parser.add_argument("--guidance", type=float, default=2.5)
    parser.add_argument("--sheet", type=Path, help="a PNG of reference, sample, other view, restored")
    arguments = parser.parse_args()

    adapter, backbone = FluxAdapter.load(arguments.model), Lite0Backbone.load()
    references = PocketReferences(split="held_out", count=arguments.figures, seed=0)
    times = adapter.sigmas(arguments.steps, SIZE, SIZE).tolist()
    restoring = [arguments.time, *(time for time in times if time < arguments.time)]
    sampled: list[Truth] = []
    restored: list[Truth] = []
    spread, kept, rows = [], [], []
    for number in range(arguments.figures):
        pair = references.pairs[4 * number]
        view = references.view(number)
        other = views_of(1_000_000 + number, seed=0, held_out=True)[OTHER].structure
        floor = pair.prompt.rsplit(" on a ", 1)[1].split()[0]
        reference = references.load(pair.reference_id, SIZE).image[None]
        target = (
            torch.from_numpy(render(view.identity, other, floor).image).permute(2, 0, 1).float()[None] / 255
        )
        noise = keyed_noise(adapter.latent_shape(SIZE, SIZE), seed=0, stream="base", group=pair.group_id)[
            None
        ]
        conditioning = adapter.encode([pair.prompt] * 2, reference.expand(2, -1, -1, -1))
        first = adapter.sample(
            conditioning.select(slice(0, 1)),
            noise,
            height=SIZE,
            width=SIZE,
            steps=arguments.steps,
            guidance=arguments.guidance,
        )
        start = interpolate(adapter.encode_images(target), noise, arguments.time)
        second = denoise(adapter, conditioning.select(slice(1, 2)), start, restoring, arguments.guidance)
        pictures = adapter.decode(torch.cat([first, second]), SIZE, SIZE)
        truths = truth_of(pictures, [view.identity] * 2, [floor] * 2, [view.structure, other], backbone)
        sampled.append(truths[0])
        restored.append(truths[1])
        spread.append(changes(view.identity, view.structure, other))
        kept.append(changes(view.identity, view.structure, truths[1].structure))
        rows.append(torch.cat([reference[0], pictures[0], target[0], pictures[1]], dim=2))
        print(f"{number + 1}/{arguments.figures}", end="\r", file=sys.stderr)
    print(table(sampled, restored, np.array(spread), np.array(kept)))
    if arguments.sheet:
        sheet = torch.cat(rows[:12], dim=1).clamp(0, 1).permute(1, 2, 0).numpy()
        Image.fromarray((sheet * 255).astype(np.uint8)).save(arguments.sheet)


@torch.no_grad()
def denoise(
    adapter: FluxAdapter, conditioning: Conditioning, start: Tensor, times: list[float], guidance: float
) -> Tensor:
    """Euler steps from a picture that is noised already."""
    x_t, ids = start, adapter.target_ids(SIZE, SIZE)
    for t, t_next in pairwise(times):
        x_t = ode_step(x_t, adapter.velocity(x_t, t, conditioning, ids, guidance), t, t_next)
    return x_t


def table(sampled: list[Truth], restored: list[Truth], spread: np.ndarray, kept: np.ndarray) -> str:
    """Clean shares and movements, with standard errors over figures."""

    def share(values: list[bool]) -> str:
        rate = float(np.mean(values))
        return f"{rate:.2f} ± {np.sqrt(rate * (1 - rate) / len(values)):.2f}"

    def mean(values: list[float] | np.ndarray) -> str:
        return f"{np.mean(values):.1f} ± {np.std(values, ddof=1) / np.sqrt(len(values)):.1f}"

    clean = [truth for truth in sampled if truth.is_clean]
    whole = [truth for truth in restored if truth.is_clean]
    turned = share([truth.view_change_deg > 20 for truth in clean])
    stays = share([truth.view_change_deg < 15 for truth in restored])
    rows = (
        ("samples that are whole pictures of their figure", share([t.is_clean for t in sampled]), sampled),
        ("their change of view, degrees", mean([t.view_change_deg for t in clean]), clean),
        ("their change of pose, degrees", mean([t.pose_change_deg for t in clean]), clean),
        ("share of them that turned by more than 20 degrees", turned, clean),
        ("the world's own change of view, degrees", mean(spread[:, 0]), spread),
        ("the world's own change of pose, degrees", mean(spread[:, 1]), spread),
        ("restored other views that are whole", share([t.is_clean for t in restored]), restored),
        ("restored within 15 degrees of the view that was given", stays, restored),
        ("their change of pose from what was given", mean([t.pose_change_deg for t in whole]), whole),
        ("their change of pose from the reference", mean(kept[:, 1]), kept),
        ("identity error of samples", f"{np.mean([t.pixel_error for t in sampled]):.3f}", sampled),
    )
    lines = [f"| {label} | {value} | {len(over)} |" for label, value, over in rows]
    return "\n".join(["| measure | value | n |", "| --- | --- | --- |", *lines])


if __name__ == "__main__":
    main()
