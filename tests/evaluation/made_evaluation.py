"""Evaluations on disk whose truth is known: pictures drawn by PIL, scores drawn from a seed.

`better` lies .1 above `base` on CLIP-T, `alike` has the same mean and other noise, `trained` was rewarded by VSM
and has more of it. One question of each reference asks for a style.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from divrl_core.evaluation.contest.evaluated import (
    Asked,
    Evaluation,
    Measured,
    Model,
    read_evaluation,
    scores_file,
    write_evaluation,
)
from divrl_core.evaluation.contest.records import Place, ScoreRow, append_scores
from divrl_core.evaluation.metrics.base import Metric

SUBJECTS = ("fox", "teapot", "robot", "boot", "owl", "clock", "snail", "truck")
SCENES = ("in the snow", "on a blue floor", "as an oil painting", "beside a river")
STYLE = 2
COLLECTIONS = ("animal", "object")


def metric(name: str, label: str, better: str = "higher", family: str = "identity", **more) -> Measured:
    found = Metric(
        name=name, label=label, meaning=f"What {label} means.", better=better, family=family, **more
    )
    return Measured(metric=found, source=f"{label}'s network, size_B")


MEASURED = (
    metric("clip_t", "CLIP-T", family="prompt"),
    metric("vsm", "VSM", counts_style=False),
    metric("sdino", "sDINO"),
    metric("nssm", "MTG-nSSM", family="structure", counts_style=False),
    metric("dino_nssm", "DINO-nSSM", family="structure"),
    metric("set_distance", "Set distance", family="within the set", of_sets=True),
    metric("lpips", "LPIPS", better="neither", family="quality"),
    metric("identity_error", "Identity error", better="lower", family="truth"),
)
LEVELS: Mapping[str, Mapping[str, float]] = {
    "base": {"clip_t": 0.30, "vsm": 0.70, "sdino": 0.8, "nssm": 0.3, "dino_nssm": 0.3, "lpips": 0.4},
    "better": {"clip_t": 0.40, "vsm": 0.62, "sdino": 0.78, "nssm": 0.5, "dino_nssm": 0.42, "lpips": 0.5},
    "alike": {"clip_t": 0.30, "vsm": 0.70, "sdino": 0.8, "nssm": 0.3, "dino_nssm": 0.3, "lpips": 0.4},
    "trained": {"clip_t": 0.25, "vsm": 0.85, "sdino": 0.86, "nssm": 0.2, "dino_nssm": 0.22, "lpips": 0.3},
}
MODELS = {
    "base": Model(name="base", about="The model as it is.", evaluations=28),
    "better": Model(name="better", about="better.safetensors at strength 1.", evaluations=28),
    "alike": Model(name="alike", about="alike.safetensors at strength 1.", evaluations=28),
    "trained": Model(name="trained", about="trained.safetensors.", evaluations=28, trained_on=("vsm",)),
}


def make_evaluation(
    folder: Path,
    *,
    models: Sequence[str] = ("base", "better", "alike"),
    references: int = 24,
    prompts: int = 3,
    pictures_each: int = 2,
    size_px: int = 48,
    seed: int = 0,
    with_pictures: bool = True,
) -> Evaluation:
    """An evaluation's folder, as `divrl-train evaluate` leaves it."""
    questions = tuple(
        Asked(
            reference_id=f"{SUBJECTS[number % len(SUBJECTS)]}_{number:02d}",
            number=prompt,
            prompt=f"a {SUBJECTS[number % len(SUBJECTS)]} {SCENES[prompt % len(SCENES)]}",
            subject=SUBJECTS[number % len(SUBJECTS)],
            collection=COLLECTIONS[number % 2],
            is_style=prompt == STYLE,
        )
        for number in range(references)
        for prompt in range(prompts)
    )
    evaluation = Evaluation(
        folder=folder,
        benchmark="made",
        source="a made-up benchmark, by hand",
        seed=0,
        steps=28,
        pictures_each=pictures_each,
        cutoff=0.6,
        masks="files",
        questions=questions,
        models=tuple(MODELS.get(name) or Model(name=name, about=f"{name}, made up.") for name in models),
        measured=MEASURED,
        values={},
    )
    write_evaluation(evaluation)
    for model in models:
        append_scores(scores_file(folder, model), rows_of(evaluation, model, seed))
    if with_pictures:
        draw_pictures(evaluation, size_px)
    return read_evaluation(folder)


def rows_of(evaluation: Evaluation, model: str, seed: int) -> list[ScoreRow]:
    """Scores with an effect of the reference, shared by all models, and noise of each picture's own."""
    levels = LEVELS.get(model, LEVELS["base"])
    shared = np.random.default_rng(seed)
    effects = {
        one: shared.normal(0, 0.05) for one in dict.fromkeys(q.reference_id for q in evaluation.questions)
    }
    noise = np.random.default_rng((seed, *model.encode()))
    rows = []
    for question in evaluation.questions:
        for k in range(evaluation.pictures_each):
            place = Place(reference_id=question.reference_id, number=question.number, k=k)
            values = {
                name: float(level + effects[question.reference_id] + noise.normal(0, 0.06))
                for name, level in levels.items()
            }
            values["identity_error"] = 1 - values["vsm"]
            rows.append(ScoreRow(place=place, scorer="made", values=values))
        whole = Place(reference_id=question.reference_id, number=question.number, k=None)
        distance = float(levels["nssm"] + noise.normal(0, 0.05))
        rows.append(ScoreRow(place=whole, scorer="sets", values={"set_distance": distance}))
    return rows


def with_values(
    evaluation: Evaluation, values: Mapping[str, Mapping[Place, Mapping[str, float]]]
) -> Evaluation:
    """The same evaluation with other values, by model; those not named stay."""
    return replace(evaluation, values={**evaluation.values, **values})


def draw_pictures(evaluation: Evaluation, size_px: int) -> None:
    """A figure on a ground for every picture and reference, turned further by models that come later."""
    for question in evaluation.questions:
        hue = sum(question.reference_id.encode()) * 37 % 360
        path = evaluation.reference(question.reference_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure(size_px, hue, 0, ground=40).save(path)
        for row, model in enumerate(evaluation.models):
            for k in range(evaluation.pictures_each):
                place = Place(reference_id=question.reference_id, number=question.number, k=k)
                file = evaluation.picture(model.name, place)
                file.parent.mkdir(parents=True, exist_ok=True)
                turn = 0.25 * row + 0.4 * k
                figure(size_px, hue + 12 * row, turn, ground=120 + 60 * question.number).save(file)


def figure(size_px: int, hue: float, turn: float, ground: float) -> Image.Image:
    """Four limbs about a body."""
    picture = Image.new("HSV", (size_px, size_px), (round(ground % 256), 60, 190)).convert("RGB")
    draw = ImageDraw.Draw(picture)
    dark, light = (
        Image.new("HSV", (1, 1), (round(hue % 256), 190, v)).convert("RGB").getpixel((0, 0))
        for v in (120, 220)
    )
    middle, reach = size_px / 2, size_px * 0.36
    for limb in range(4):
        angle = turn + limb * math.pi / 2 + 0.4
        end = middle + reach * math.cos(angle), middle + reach * math.sin(angle)
        draw.line((middle, middle, *end), fill=dark, width=max(2, size_px // 10))
    radius = size_px * 0.2
    draw.ellipse((middle - radius, middle - radius, middle + radius, middle + radius), fill=light)
    eye = size_px * 0.05
    at = middle + radius * 0.5 * math.cos(turn), middle + radius * 0.5 * math.sin(turn)
    draw.ellipse((at[0] - eye, at[1] - eye, at[0] + eye, at[1] + eye), fill=(20, 20, 20))
    return picture
