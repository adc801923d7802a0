"""Run folders with the real schema and made-up numbers, for tests of what reads them."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from PIL import Image, ImageDraw

from divrl_core.config import GrpoConfig, RewardConfig, RunConfig, TrainConfig, to_mapping
from divrl_core.evaluation.comparison import ComparedPicture, Comparison, write_comparisons, write_picture
from divrl_core.evaluation.demo_pictures import PICTURES, picture_path
from divrl_core.evaluation.sheets import SheetRow, contact_sheet, score_caption

CUTOFF = 0.6
PROMPTS = (
    "a toy fox with a striped body on a blue floor",
    "a toy crane with a spotted neck in front of a green wall",
    "a toy snail with a ringed shell on a sandy floor",
)
Level = tuple[float, float]
BASE, EXPLORE, SUPPRESS = (0.36, 0.71), (0.49, 0.41), (0.42, 0.66)


def make_run(
    path: Path,
    *,
    stage: str = "explore",
    levels: Sequence[Level] = (BASE, EXPLORE),
    updates: int = 40,
    init_lora: str | None = None,
    references: int = 8,
    with_sheets: bool = True,
) -> Path:
    """A finished run whose (nSSM, VSM) goes from the first level to the last."""
    run = RunConfig(updates=updates, eval_every_updates=10, sample_every_updates=20)
    if stage == "explore":
        config = TrainConfig.explore(
            run=run, grpo=GrpoConfig(group_size=12, groups_per_update=8, micro_batch=12)
        )
    else:
        reward = RewardConfig(kind="gated", gate=0.55, recipe="paper")
        config = TrainConfig.suppress(init_lora=init_lora or "runs/explore", run=run, reward=reward)
    (path / "heldout").mkdir(parents=True, exist_ok=True)
    (path / "lora").mkdir(exist_ok=True)
    (path / "settings.yaml").write_text(yaml.safe_dump(to_mapping(config), sort_keys=False))
    noise = random.Random(f"{path.name} {stage}")
    rows = []
    for update in range(updates + 1):
        nssm, vsm = _between(levels, update / updates)
        if update:
            rows.append(_train_row(stage, update, nssm, vsm, noise))
        if update % 10 == 0:
            content = heldout(stage, update, nssm, vsm, references=references)
            (path / "heldout" / f"update-{update:06d}.json").write_text(json.dumps(content))
            rows.append(content["summary"])
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("best", "last", f"update-{updates:06d}"):
        (path / "lora" / f"{name}.safetensors").write_bytes(b"")
    if with_sheets:
        (path / "samples").mkdir(exist_ok=True)
        for update in (0, updates):
            _sheet(stage, update).save(path / "samples" / f"update-{update:06d}.jpg", quality=90)
    return path


def make_demo(path: Path, levels: Mapping[str, Level] | None = None, references: int = 16) -> Path:
    """A finished demo: two runs, three evaluations, comparisons."""
    chosen = levels or {"base": BASE, "explore": EXPLORE, "suppress": SUPPRESS}
    base, explore, suppress = (chosen[name] for name in ("base", "explore", "suppress"))
    make_run(path / "explore", levels=(base, explore))
    make_run(
        path / "suppress",
        stage="suppress",
        levels=(explore, suppress),
        updates=45,
        init_lora=str(path / "explore"),
    )
    (path / "heldout").mkdir()
    for name, (nssm, vsm) in chosen.items():
        content = heldout(name, 0, nssm, vsm, references=references)
        (path / "heldout" / f"{name}.json").write_text(json.dumps(content))
    folder = path / "comparisons"
    comparisons = []
    for index, prompt in enumerate(PROMPTS):
        reference = write_picture(folder / f"{index}-reference.png", figure(index, 0))
        results = {}
        for name, (nssm, vsm) in chosen.items():
            spread = {"base": 0.2, "explore": 1.4, "suppress": 0.9}[name]
            results[name] = tuple(
                ComparedPicture(
                    path=write_picture(folder / f"{index}-{name}-{k}.png", figure(index, k + 1, spread)),
                    nssm=nssm,
                    vsm=vsm,
                )
                for k in range(4)
            )
        comparisons.append(
            Comparison(reference_id=f"figure-{index}", prompt=prompt, reference=reference, results=results)
        )
    write_comparisons(folder, comparisons)
    return path


def add_pictures(path: Path, *, known: bool = True) -> Path:
    """Every evaluated picture of a demo made above, and with `known` what is true of each: the later, the worse."""
    for name in ("base", "explore", "suppress"):
        file = path / "heldout" / f"{name}.json"
        content = json.loads(file.read_text())
        for number, sample in enumerate(content["samples"]):
            write_picture(picture_path(path / PICTURES, name, number), figure(number, number + 1, side=32))
            if known:
                sample |= {
                    "clean": float(number % 2),
                    "identity_error": number / 100,
                    "pose_change_deg": 90 - number,
                }
        for reference in {sample["reference_id"] for sample in content["samples"]}:
            write_picture(path / PICTURES / "references" / f"{reference}.png", figure(0, 0, side=32))
        file.write_text(json.dumps(content))
    return path


def heldout(stage: str, update: int, nssm: float, vsm: float, *, references: int = 8, each: int = 4) -> dict:
    """A held-out evaluation: the scores of a picture depend on its reference and number, and a little on
    the model.
    """
    samples = []
    for reference in range(references):
        for k in range(each):
            shared, own = (
                random.Random(f"{reference} {k}"),
                random.Random(f"{stage} {update} {reference} {k}"),
            )
            samples.append(
                {
                    "reference_id": f"figure-{reference}",
                    "prompt": PROMPTS[reference % len(PROMPTS)],
                    "sample": k,
                    "nssm": max(0.01, nssm + shared.gauss(0, 0.07) + own.gauss(0, 0.04)),
                    "vsm": min(1.0, max(0.0, vsm + shared.gauss(0, 0.1) + own.gauss(0, 0.06))),
                }
            )
    row = {
        "kind": "heldout",
        "stage": stage,
        "update": update,
        "steps": 28,
        "n": len(samples),
        "undefined": 0,
    }
    return {
        "settings": {"seed": 0, "steps": 28, "consistency_cutoff": CUTOFF, "backbone": "lite0"},
        "summary": row | summary(samples),
        "samples": samples,
    }


def summary(samples: Sequence[Mapping]) -> dict:
    """Means and standard errors of the four measures."""
    consistent = [sample["nssm"] for sample in samples if sample["vsm"] > CUTOFF]
    values = {
        "nssm": [sample["nssm"] for sample in samples],
        "vsm": [sample["vsm"] for sample in samples],
        "consistency_ratio": [float(sample["vsm"] > CUTOFF) for sample in samples],
        "diversity_over_consistency": consistent,
    }
    result: dict = {"n_consistent": len(consistent)}
    for name, numbers in values.items():
        count = len(numbers)
        mean = sum(numbers) / count if count else None
        result[name] = mean
        spread = sum((number - mean) ** 2 for number in numbers) if mean is not None else 0
        result[f"{name}_se"] = math.sqrt(spread / (count - 1) / count) if count > 1 else None
    return result


def figure(identity: int, pose: int, spread: float = 0.0, side: int = 128) -> Image.Image:
    """A toy of three parts: colours by identity, turned by pose."""
    hues = (("#e07a3f", "#4b6fa5"), ("#5fa06b", "#c9b458"), ("#8a5fb0", "#d98aa0"))[identity % 3]
    picture = Image.new("RGB", (4 * side, 4 * side), ("#cfd9e6", "#dde6d2", "#e8ddc9")[identity % 3])
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 3 * side, 4 * side, 4 * side), fill=hues[1])
    angle = random.Random(f"{identity} {pose}").uniform(-1, 1) * spread
    centre = 2 * side
    for index, reach in enumerate((0, 0.8, 1.35)):
        radius = side * (0.9 - 0.28 * index)
        x, y = centre + side * reach * math.sin(angle), centre + side * 0.4 - side * reach * math.cos(angle)
        draw.ellipse(
            (x - radius, y - radius, x + radius, y + radius), fill=hues[0], outline=hues[1], width=18
        )
    return picture.resize((side, side), Image.Resampling.LANCZOS)


def _sheet(stage: str, update: int) -> Image.Image:
    rows = [
        SheetRow(
            label=prompt,
            reference=figure(index, 0),
            results=[figure(index, k + 1, 0.2 + update / 40) for k in range(4)],
            captions=[score_caption(0.4, 0.6)] * 4,
        )
        for index, prompt in enumerate(PROMPTS)
    ]
    headers = ["reference", *(f"seed {k}" for k in range(4))]
    return contact_sheet(rows, columns=headers, title=f"{stage}, update {update}")


def _between(levels: Sequence[Level], share: float) -> Level:
    first, last = levels[0], levels[-1]
    return first[0] + (last[0] - first[0]) * share, first[1] + (last[1] - first[1]) * share


def _train_row(stage: str, update: int, nssm: float, vsm: float, noise: random.Random) -> dict:
    gap = max(0.0, 0.55 - vsm)
    return {
        "kind": "train",
        "stage": stage,
        "update": update,
        "reward": nssm + noise.gauss(0, 0.015) - (5 * gap**2 if stage == "suppress" else 0),
        "nssm": nssm + noise.gauss(0, 0.015),
        "vsm": vsm + noise.gauss(0, 0.02),
        "gate_rate": min(1.0, max(0.0, 0.5 + 1.6 * (vsm - 0.55) + noise.gauss(0, 0.03))),
        "reward_std_within": 0.08 + noise.gauss(0, 0.004),
        "invalid": 0,
        "samples": 96,
        "ratio_mean": 1.0,
        "ratio_max_deviation": 5e-5,
        "clip_share": abs(noise.gauss(0, 0.004)),
        "kl": 2e-6 * update,
        "grad_rms": 3e-6 * math.exp(noise.gauss(0, 0.2)),
        "grad_norm": 0.004,
        "lr": 6e-4,
        "seconds": {"rollout": 3.7, "reward": 1.1, "train": 2.7},
    }
