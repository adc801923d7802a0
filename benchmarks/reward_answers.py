"""What each measure and reward answers to pictures of one known change: the table and picture of docs/rewards.md.

    python benchmarks/reward_answers.py --figures 100 --output docs/rewards
    python benchmarks/reward_answers.py --tables       # answers.md again, from the values in answers.json

True renders of held-out figures of the pocket world; backbone `pocket`, and `lite0` as the second. Writes answers.json,
answers.md and answers.jpg.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import click
import torch

from divrl_core.config import BackboneConfig, RewardConfig
from divrl_core.config_reward import SecondBackboneConfig
from divrl_core.evaluation.answer_cases import WANTED, answer_cases
from divrl_core.evaluation.answers import Answers, answers_of, mean_and_error, separations
from divrl_core.evaluation.calibration_cases import CalibrationCase
from divrl_core.evaluation.experiment_report import markdown_table
from divrl_core.evaluation.reward_plan import STRUCTURES, TWO_GATES
from divrl_core.evaluation.sheets import SheetRow, contact_sheet, short_number
from divrl_core.models.features.base import load_backbone
from divrl_core.training.files import write_atomic_json, write_atomic_text
from divrl_core.training.reward_formula import formula_total

SEED = 3
SHOWN = 3
LITE0_GATE = 0.55  # lite0's own, docs/calibration.md
COLUMNS = (
    ("nssm", "nSSM"),
    ("nssm_cropped", "nSSM, cropped"),
    ("matched", "matched"),
    ("coverage", "coverage"),
    ("vsm", "VSM"),
    ("second.vsm", "lite0: VSM"),
    ("second.matched", "lite0: matched"),
    ("second.extent", "lite0: extent"),
)


def rewards() -> dict[str, RewardConfig]:
    """The rewards that are compared, by their names in the table."""
    once = ("vsm>=0.97",)
    named = {f"explore: {name}": RewardConfig(kind="nssm", structure=name) for name in STRUCTURES}
    named |= {
        f"suppress: {name}, VSM": RewardConfig(
            kind="gated", structure=name, gates=once, penalty_weight=weight
        )
        for name, weight in STRUCTURES.items()
    }
    named |= {
        f"suppress: {name}, VSM and extent": RewardConfig(
            kind="gated",
            structure=name,
            gates=TWO_GATES,
            penalty_weight=weight,
            second_backbone=SecondBackboneConfig(name="lite0"),
        )
        for name, weight in STRUCTURES.items()
    }
    return named


def rewards_of_lite0() -> dict[str, RewardConfig]:
    """What is paid by default but for the structure: lite0 with its own gate, without and with its extent."""
    once = f"vsm>={LITE0_GATE}"
    asked = {"VSM": (once,), "VSM and extent": (once, TWO_GATES[1].removeprefix("second."))}
    named = {f"explore: {name}": RewardConfig(kind="nssm", structure=name) for name in STRUCTURES}
    for gates, measures in asked.items():
        named |= {
            f"suppress: {name}, {gates}": RewardConfig(kind="gated", structure=name, gates=measures)
            for name in STRUCTURES
        }
    return named


def measured(cases: list[CalibrationCase]) -> Answers:
    """The measures of backbone pocket, and those of lite0 as the second's."""
    answers = answers_of(load_backbone(BackboneConfig(name="pocket")), cases)
    second = answers_of(load_backbone(BackboneConfig(name="lite0")), cases)
    return answers | {f"second.{name}": values for name, values in second.items()}


def reward_values(config: RewardConfig, answers: Answers) -> dict[str, torch.Tensor]:
    """What a reward pays for every picture, by change."""
    gates = {gate.measure: float(gate.least or 0) for gate in config.asked if gate.least is not None}
    return {
        change: formula_total(config, {name: values[change] for name, values in answers.items()}, gates)
        for change in WANTED
    }


def answers_table(answers: Answers) -> str:
    """Means with standard errors, a row a change; in brackets how many are undefined."""
    rows = [["change", "wanted", *(heading for _, heading in COLUMNS)]]
    for change, wanted in WANTED.items():
        cells = [mean_and_error(answers[name][change]) for name, _ in COLUMNS]
        told = [f"{mean:.3f} ± {error:.3f}" + (f" ({lost})" if lost else "") for mean, error, lost in cells]
        rows.append([change, wanted, *told])
    return markdown_table(rows)


def separation_table(answers: Answers, named: Mapping[str, RewardConfig]) -> str:
    """Three areas under the ROC curve for each reward."""
    rows = [["reward", "new pose over copies", "new pose over damage", "copies over damage", "undefined"]]
    for name, config in named.items():
        values = reward_values(config, answers)
        areas = separations(values)
        lost = sum(int(one.isnan().sum()) for one in values.values())
        count = sum(len(one) for one in values.values())
        rows.append([name, *(f"{area:.2f}" for area in areas.values()), f"{lost} of {count}"])
    return markdown_table(rows)


def picture(cases: list[CalibrationCase], answers: Answers) -> bytes:
    """A few figures under every change, with nSSM, cropped nSSM and matched under each."""
    rows = []
    for number, case in enumerate(cases[:SHOWN]):
        captions = [
            " · ".join(
                short_number(float(answers[name][change][number]))
                for name in ("nssm", "nssm_cropped", "matched")
            )
            for change in WANTED
        ]
        results = [case.others[change] for change in WANTED]
        rows.append(SheetRow(label="", reference=case.reference, results=results, captions=captions))
    sheet = contact_sheet(
        rows,
        columns=["reference", *WANTED],
        title="What is paid for one change: nSSM · cropped nSSM · matched",
        cell_px=128,
    )
    return _jpeg(sheet)


def _jpeg(sheet: object) -> bytes:
    from io import BytesIO

    buffer = BytesIO()
    sheet.save(buffer, "JPEG", quality=88)  # type: ignore[attr-defined]
    return buffer.getvalue()


def kept_answers(output: Path) -> Answers:
    """The values in OUTPUT/answers.json."""
    found = json.loads((output / "answers.json").read_text())
    undefined = float("nan")
    return {
        name: {
            change: torch.tensor([undefined if value is None else value for value in values])
            for change, values in by_change.items()
        }
        for name, by_change in found.items()
    }


def write_tables(output: Path, answers: Answers) -> None:
    """OUTPUT/answers.md: the answers, the order of the rewards, and that of rewards by lite0 alone."""
    figures = len(answers["nssm"]["copy"])
    lite0 = {
        name.removeprefix("second."): values for name, values in answers.items() if name.startswith("second.")
    }
    parts = (
        f"{figures} held-out figures, seed {SEED}; mean ± standard error, in brackets undefined pictures",
        answers_table(answers),
        separation_table(answers, rewards()),
        "By lite0 alone, lambda 5, its own gate:",
        separation_table(lite0, rewards_of_lite0()),
    )
    write_atomic_text(output / "answers.md", "\n\n".join(parts) + "\n")
    click.echo((output / "answers.md").read_text())


@click.command()
@click.option("--figures", type=click.IntRange(min=2), default=100, show_default=True)
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), default=Path("docs/rewards"))
@click.option(
    "--tables", is_flag=True, help="Measure nothing: write answers.md from the values in answers.json."
)
def main(figures: int, output: Path, tables: bool) -> None:
    """Write the answers of every measure and reward to OUTPUT."""
    if tables:
        write_tables(output, kept_answers(output))
        return
    torch.set_num_threads(1)
    cases = list(answer_cases(figures, seed=SEED))
    answers = measured(cases)
    output.mkdir(parents=True, exist_ok=True)
    write_tables(output, answers)
    found = {
        name: {change: [round(value, 4) for value in values.tolist()] for change, values in by_change.items()}
        for name, by_change in answers.items()
    }
    write_atomic_json(output / "answers.json", found)
    (output / "answers.jpg").write_bytes(picture(cases, answers))


if __name__ == "__main__":
    main()
