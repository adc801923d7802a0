"""What benchmarks/full_size.py measured, in words: a line as it is measured, tables beside what the plan says."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from full_size_backbones import DECODED_AT_ONCE, BackboneCase
from full_size_cases import MODEL, Case

from divrl_core.models.encoder_trace import backbone_size, vae_size
from divrl_core.models.pipeline_config import pipeline_config
from divrl_core.training.cards import GIB
from divrl_core.training.run_plan import plan_run

MIB, TERA = 2**20, 1e12
ABSENT = (
    "VAE",
    "reward backbone",
    "reference features",
)  # of the parts planned, what no case of the model holds
REWARDED = "decoding and reward"


@lru_cache(maxsize=32)
def plan_of(case: Case) -> dict[str, Any]:
    """What `divrl-train plan --json` says of the case."""
    return plan_run(case.config()).as_json()


def planned(case: Case) -> dict[str, int]:
    """What the plan says of the case: bytes on the device by phase, of what these measurements hold."""
    parts = plan_of(case)["memory"]["parts"]
    there = [part["bytes"] for part in parts if part["place"] == "device" and part["name"] not in ABSENT]
    return {phase: sum(sizes.get(phase, 0) for sizes in there) for phase in ("sample", "train")}


def work(case: Case) -> tuple[float, float]:
    """TFLOP of one sample by the plan's count: of its rollout, and of learning from it."""
    rows = {row["name"]: row["group"] / case.group_size for row in plan_of(case)["work"]["rows"]}
    learning = sum(tflop for name, tflop in rows.items() if name not in ("rollout", REWARDED))
    return rows["rollout"], learning


def tables(path: Path) -> Iterator[str]:
    """Everything in a file of measurements, beside the plan."""
    found = json.loads(path.read_text())
    yield f"{found['device']}, torch {found['torch']}"
    for key, table in (
        ("cases", _table_of_cases),
        ("backbones", _table_of_backbones),
        ("decoding", _lines_of_decoding),
    ):
        rows = found.get(key, [])
        if rows:
            yield ""
            yield from table(rows)


def line(row: dict[str, Any]) -> str:
    """What was measured, in one line."""
    case = row["case"]
    if row["error"]:
        return f"{case['name']}: {row['error']}"
    if "base_bytes" in row:
        return (
            f"{case['name']} (micro-batch {case['micro_batch']}, {case['groups']} x {case['group_size']} samples): "
            f"base {row['base_bytes'] / GIB:.2f} GiB, rollout {min(row['rollout_seconds']):.2f} s and "
            f"{row['rollout_peak'] / GIB:.2f} GiB, training {min(row['train_seconds']):.2f} s and "
            f"{row['train_peak'] / GIB:.2f} GiB; {_update(row)}"
        )
    times = ", ".join(f"{name} {seconds:.4g} s" for name, seconds in row["seconds"].items())
    sizes = ", ".join(f"{name} {size / MIB:.1f} MiB" for name, size in row["bytes"].items())
    return f"{case['name']} ({case['pictures']} pictures): {times}; {sizes}"


def _update(row: dict[str, Any]) -> str:
    """The ratio before any update, where there is one, and the terms of the last update that were measured."""
    terms = {"|ratio - 1| at first": row["ratio_deviation"], **row["update"]}
    return ", ".join(f"{name} {value:.3g}" for name, value in terms.items() if not math.isnan(value))


def _table_of_cases(rows: list[dict[str, Any]]) -> Iterator[str]:
    """GiB, seconds a sample, TFLOP/s by the plan's count; then what the last update says of itself."""
    yield (
        "| case | base | rollout planned | measured | training planned | measured | rollout s | training s "
        "| rollout TFLOP/s | training TFLOP/s | ratio - 1 |"
    )
    yield "| --- " * 11 + "|"
    for row in rows:
        case = Case(**row["case"])
        if row["error"]:
            yield f"| {case.name} | {row['error']} |"
            continue
        phases, (drawing, learning) = planned(case), work(case)
        drawn, learned = (min(row[name]) / case.samples for name in ("rollout_seconds", "train_seconds"))
        sizes = (
            row["base_bytes"],
            phases["sample"],
            row["rollout_peak"],
            phases["train"],
            row["train_peak"],
        )
        cells = [f"{size / GIB:.2f}" for size in sizes]
        cells += [f"{number:.2f}" for number in (drawn, learned)]
        cells += [f"{number:.0f}" for number in (drawing / drawn, learning / learned)]
        cells.append("" if math.isnan(row["ratio_deviation"]) else f"{row['ratio_deviation']:.2g}")
        yield f"| {case.name}, micro-batch {case.micro_batch} | {' | '.join(cells)} |"
    yield from (f"{row['case']['name']}: {_update(row)}" for row in rows if not row["error"])


def _table_of_backbones(rows: list[dict[str, Any]]) -> Iterator[str]:
    """MiB as planned / as measured, milliseconds a picture, TFLOP/s by the plan's count."""
    yield "memory in MiB, planned / measured where both are known; milliseconds of a picture; pictures where defined"
    yield ""
    yield (
        "| backbone | pictures | weights | working, few | working, all | reference | with crop | scoring, few "
        "| scoring, all | picture ms | TFLOP/s | reference ms | nSSM and VSM ms | all measures ms "
        "| defined | off the CPU |"
    )
    yield "| --- " * 16 + "|"
    for row in rows:
        case = BackboneCase(**row["case"])
        if row["error"]:
            yield f"| {case.name} | {row['error']} |"
            continue
        few, reference = backbone_size(case.config(), batch=case.few, size_px=case.size_px)
        group, _ = backbone_size(case.config(), batch=case.pictures, size_px=case.size_px)
        size, seconds = row["bytes"], row["seconds"]
        pairs = {
            "weights": few.weights,
            "working, few": few.working,
            "working, all": group.working,
            "reference": reference,
        }
        cells = [f"{plan / MIB:.1f} / {size[name] / MIB:.1f}" for name, plan in pairs.items()]
        cells += [f"{size[name] / MIB:.1f}" for name in ("with crop", "scoring, few", "scoring, all")]
        each = seconds["extract"] / case.pictures
        cells += [
            f"{1000 * each:.2f}",
            f"{few.flops / TERA / each:.1f}",
            f"{1000 * seconds['reference']:.1f}",
        ]
        cells += [
            f"{1000 * seconds[name] / case.pictures:.2f}" for name in ("score", "score with every measure")
        ]
        cells.append(", ".join(f"{name} {count}" for name, count in row["defined"].items()))
        cells.append(", ".join(f"{name} {apart:.1g}" for name, apart in row["off"].items()))
        yield f"| {case.name} | {case.pictures} | {' | '.join(cells)} |"


def _lines_of_decoding(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The VAE, in a line."""
    for row in rows:
        yield line(row)
        if not row["error"]:
            size = vae_size(
                pipeline_config(MODEL),
                torch.bfloat16,
                batch=DECODED_AT_ONCE,
                size_px=row["case"]["size_px"],
                is_decoding=True,
            )
            yield f"planned: weights {size.weights / MIB:.1f} MiB, working {size.working / MIB:.1f} MiB"
