"""The pocket model as base, explore and suppress: held-out scores and comparison pictures of each, alike
in all else.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from ..config import TrainConfig
from ..models.lora import lora_state
from ..models.lora_apply import continue_from
from ..models.lora_file import read_lora
from ..pocket.references import PocketReferences
from ..training.encoded_pairs import EncodedPairs
from ..training.files import write_atomic_json
from ..training.references import ReferenceSet
from ..training.start import make_policy, make_rewarder, open_adapter, set_threads, size_of, start_processes
from .comparison import Comparison, compared, write_picture
from .demo_settings import DemoEvaluation
from .generate import PictureJob, generate
from .heldout import STREAM, HeldOut, evaluate, heldout_jobs, measure
from .heldout_summary import sample_row
from .paired import TRUTHS
from .runs import read_json
from .sample_sheet import sheet_pairs

PICTURES = "pictures"  # the folder in a demo's
SCORES = ("nssm", "vsm", *TRUTHS)


class DemoModels:
    """One transformer that is, by turns, each of the models; references, prompts and noise stay the same."""

    def __init__(
        self,
        config: TrainConfig,
        settings: DemoEvaluation,
        output: Path,
        references: ReferenceSet | None = None,
    ) -> None:
        """Opens the model of `config` (stage explore) without a LoRA's effect, and held-out references.

        `references` replaces the pocket world's figures (`last_references`).
        """
        self._settings = settings
        self._batch_size = config.grpo.micro_batch
        self._processes = processes = start_processes(config, output)
        set_threads(config, None)
        adapter = open_adapter(config, processes.device)
        side = size_of(config, adapter)
        self._references = references or last_references(settings)
        self._rewarder = make_rewarder(config, adapter, None)
        self._shown = sheet_pairs(self._references.pairs, settings.shown_references)
        jobs = heldout_jobs(self._references.pairs, settings.pictures, seed=settings.seed)
        self._encoded = EncodedPairs(adapter, side)
        self._encoded.encode(self._references, [*(job.pair for job in jobs), *self._shown])
        self._encoded.finish()
        self._policy = make_policy(config, adapter, processes, None)

    def load(self, lora: Path | None) -> None:
        """Become the model with this LoRA. Without one it stays the base, which it is at first: load the
        base first.
        """
        transformer = self._policy.adapter.transformer
        if lora is not None:
            continue_from(transformer, read_lora(lora))
        elif any(weight.any() for name, weight in lora_state(transformer).items() if ".lora_B." in name):
            raise ValueError("the base model must be evaluated before a LoRA is loaded")

    def evaluate(self, name: str, folder: Path) -> HeldOut:
        """Held-out scores of the model as it is now, and its pictures, FOLDER/NAME-0000.png and so on."""
        settings = self._settings
        numbers = itertools.count()

        def keep(jobs: Sequence[PictureJob], pictures: Tensor) -> None:
            for picture, number in zip(pictures, numbers, strict=False):
                write_picture(picture_path(folder, name, number), picture)

        with tqdm(total=settings.pictures, desc=f"evaluating {name}", unit="picture") as progress:
            return evaluate(
                self._policy,
                self._encoded,
                self._rewarder,
                self._references,
                stage=name,
                update=0,
                images=settings.pictures,
                steps=settings.steps,
                seed=settings.seed,
                batch_size=self._batch_size,
                processes=self._processes,
                on_progress=lambda made: progress.update(made - progress.n),
                on_pictures=keep,
            )

    def write_references(self, folder: Path) -> None:
        """The references of the evaluation, FOLDER/REFERENCE.png."""
        for name in dict.fromkeys(pair.reference_id for pair in self._references.pairs):
            picture = self._references.load(name, self._policy.size_px).image
            write_picture(folder / f"{name}.png", picture)

    def write_comparison(self, name: str, folder: Path) -> None:
        """The model's pictures of the first references: PNG files, and a list NAME.json with their scores."""
        settings = self._settings
        jobs = [
            PictureJob(pair=pair, sample=number, seed=settings.seed, stream=STREAM)
            for pair in self._shown
            for number in range(settings.shown_pictures)
        ]
        items: dict[int, list[dict[str, Any]]] = {}
        pictures = generate(
            self._policy,
            self._encoded,
            jobs,
            steps=settings.steps,
            batch_size=self._batch_size,
            processes=self._processes,
            on_progress=lambda made: None,
        )
        for batch, images in pictures:
            scores, _ = measure(batch, images, self._rewarder, self._references)
            for row, (job, score) in enumerate(zip(batch, scores, strict=True)):
                place = self._shown.index(job.pair)
                file = write_picture(folder / f"{place:02d}-{name}-{job.sample}.png", images[row])
                scored = {key: value for key, value in sample_row(score).items() if key in SCORES}
                items.setdefault(place, []).append({"file": file.name, **scored})
        rows = []
        for place, pair in enumerate(self._shown):
            reference = self._references.load(pair.reference_id, self._policy.size_px).image
            file = write_picture(folder / f"{place:02d}-reference.png", reference)
            entry = {"reference_id": pair.reference_id, "prompt": pair.prompt, "reference": file.name}
            rows.append({**entry, "pictures": items[place]})
        write_atomic_json(folder / f"{name}.json", {"rows": rows})


def picture_path(folder: Path, model: str, number: int) -> Path:
    """Where a model's picture of the evaluation is kept; `number` is its place among the samples."""
    return folder / f"{model}-{number:04d}.png"


def last_references(settings: DemoEvaluation) -> PocketReferences:
    """The figures of the last evaluation: held out from training, and others than those that a run's own
    evaluations show. These are always drawn with `training.data.HELD_OUT_SEED`, whatever the run's seed,
    so they are not taken from `open_data`.
    """
    return PocketReferences(split="held_out", count=settings.references, seed=settings.seed)


def gather_comparisons(folder: Path, models: Sequence[str]) -> list[Comparison]:
    """The comparisons of several models from their lists, which name the same references in the same
    order.
    """
    lists = {name: read_json(folder / f"{name}.json")["rows"] for name in models}
    return [
        Comparison(
            reference_id=row["reference_id"],
            prompt=row["prompt"],
            reference=folder / row["reference"],
            results={name: compared(folder, rows[place]["pictures"]) for name, rows in lists.items()},
        )
        for place, row in enumerate(lists[models[0]])
    ]
