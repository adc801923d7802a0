"""Planned memory of the presets as stacked bars: docs/full-size-memory.png, and the table of docs/full-size.md.

    python benchmarks/plan_chart.py --output docs/full-size-memory.png

Nothing is measured here: the numbers are the planner's (`divrl-train plan`), of the phase with the peak.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from divrl_core.training.cards import GIB, card_of
from divrl_core.training.plan_text import duration, gib
from divrl_core.training.run_plan import RunPlan, plan_run
from train_cli.plan import planned_settings
from train_cli.presets import NAMES, preset_card

STAGES = ("explore", "suppress", "cfm")
# Part of the plan -> part of the picture, from the bottom up, with its colour.
SHOWN = {
    "base": ("base", "#4c6a92"),
    "LoRA": ("LoRA", "#d1813c"),
    "LoRA of the KL term": ("LoRA", "#d1813c"),
    "average (EMA)": ("average", "#e3b778"),
    "gradients": ("gradients", "#b5534f"),
    "optimizer": ("optimizer", "#7d4f73"),
    "activations": ("activations", "#5f9467"),
    "kept by packed layers": ("activations", "#5f9467"),
    "working memory": ("working memory", "#a9c9a4"),
}
OTHER = ("VAE, reward", "#9aa0a6")
MARGIN = ("head-room asked for", "#ffffff")


def plans() -> dict[tuple[str, str], RunPlan]:
    """The plan of every preset and stage on its card."""
    return {
        (name, stage): plan_run(planned_settings(stage, name, None, ()), card=card_of(preset_card(name)))
        for name in NAMES
        for stage in STAGES
    }


def parts_of(plan: RunPlan) -> dict[str, float]:
    """GiB of each part of the picture in the phase with the peak."""
    phase = plan.memory.peak_phase
    parts: dict[str, float] = {}
    for row in plan.memory.rows:
        if row.place == "device":
            name, _ = SHOWN.get(row.name, OTHER)
            parts[name] = parts.get(name, 0) + row.bytes.get(phase, 0) / GIB
    return parts


def draw(found: dict[tuple[str, str], RunPlan], output: Path) -> None:
    """Two bars a preset, explore and cfm, under the line of its card."""
    figure, axes = plt.subplots(figsize=(9.5, 5.2), layout="constrained")
    colours = dict(dict.fromkeys([*SHOWN.values(), OTHER]))
    places = {}
    for number, name in enumerate(NAMES):
        for beside, stage in enumerate(("explore", "cfm")):
            places[name, stage] = number * 2.6 + beside
    for key, place in places.items():
        plan, bottom = found[key], 0.0
        for name, colour in colours:
            height = parts_of(plan).get(name, 0.0)
            axes.bar(place, height, 0.8, bottom=bottom, color=colour, label=name)
            bottom += height
        assert plan.card is not None
        margin = plan.card.needed(plan.memory.peak) / GIB - bottom
        axes.bar(
            place, margin, 0.8, bottom=bottom, color=MARGIN[1], edgecolor="#777", hatch="///", label=MARGIN[0]
        )
        axes.text(place, bottom + margin + 1, f"{bottom:.1f}", ha="center", fontsize=9)
    for number, name in enumerate(NAMES):
        card = card_of(preset_card(name))
        left, height = number * 2.6 - 0.5, card.memory_bytes / GIB
        axes.hlines(height, left, left + 2, color="#222", linewidth=1.4)
        axes.text(left + 1, height + 1.2, card.title, ha="center", fontsize=9)
    axes.set_xticks(list(places.values()), [f"{stage}\n{name}" for name, stage in places])
    axes.set_ylabel("GiB on one card, in the phase with the peak")
    axes.set_ylim(0, 92)
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(unique.values(), unique.keys(), loc="outside right upper", frameon=False, fontsize=9)
    axes.set_title("Planned memory of the presets (nothing measured)", loc="left", fontsize=11)
    figure.savefig(output, dpi=130)


def table(found: dict[tuple[str, str], RunPlan]) -> str:
    """The presets as a Markdown table."""
    lines = [
        "| preset | stage | base | rank | forward | peak | needs | card | host | an update |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (name, stage), plan in found.items():
        config, memory, card = plan.load.config, plan.memory, plan.card
        assert card is not None and plan.cost.update_seconds is not None
        base = config.model.dtype if config.model.quantization == "none" else config.model.quantization
        cells = (
            name, stage, base, config.lora.rank, plan.load.micro_batch, gib(memory.peak),
            gib(card.needed(memory.peak)), card.title, gib(memory.host_peak), duration(plan.cost.update_seconds),
        )  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the chart and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("docs/full-size-memory.png"))
    found = plans()
    draw(found, parser.parse_args(arguments).output)
    print(table(found))


if __name__ == "__main__":
    main()
