"""The pictures of the models that are made here: each in a batch of its own, so that it depends on its name alone.

OUTPUT/pictures/MODEL/REFERENCE/NUMBER_K.png   appears whole or not at all; what is there is not made again
OUTPUT/cache/                                  encoded prompts and references, for all models and the next start

One transformer becomes each model by turns. Of several processes each makes every N-th picture that is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ...models.lora import disabled_lora
from ...models.lora_apply import load_for_inference
from ...models.lora_file import read_lora
from ...training.encoded_pairs import EncodedPairs
from ...training.policy import Policy
from ...training.processes import Processes
from ...training.references import PromptPair
from ..benchmarks.base import Benchmark, PictureName, Question
from ..comparison import write_picture
from ..generate import PictureJob
from .base import Asking, Base
from .choosing import Chooser, best_of
from .entries import Entry
from .evaluated import PICTURES
from .settings import STREAM, ContestSettings
from .text_noise import sample_with_text_noise

CACHE = "cache"
Missing = Mapping[str, Sequence[PictureName]]
OnPicture = Callable[[str, PictureName], None]
"""Told a model's name and a picture's, when the picture is on the disk; may raise to stop."""


@dataclass(frozen=True, kw_only=True)
class Studio:
    """What makes pictures. asked: how each model is, by its name."""

    settings: ContestSettings
    benchmark: Benchmark
    base: Base
    asked: Mapping[str, Asking]
    output: Path
    processes: Processes

    @property
    def questions(self) -> dict[tuple[str, int], Question]:
        """By reference and number."""
        return {(question.reference_id, question.number): question for question in self.benchmark.questions}

    def make(self, entries: Sequence[Entry], missing: Missing, on_picture: OnPicture) -> None:
        """Make the missing pictures of these entries, by name; with none missing no model is read.

        Raises ValueError naming model and picture where a picture comes out with numbers that are not finite.
        """
        entries = [entry for entry in entries if missing[entry.name]]
        if not entries:
            return
        policy = Policy(
            adapter=self.base.load(self.processes.device), size_px=self.base.size_px, guidance=0.0
        )
        encoded = self._encoded(policy, [name for entry in entries for name in missing[entry.name]])
        chooser = None
        if any(entry.candidates for entry in entries):
            chooser = Chooser.load(
                self.settings.backbone, self.benchmark, self.base.size_px, self.processes.device
            )
        for entry in entries:
            with self._as_entry(policy, entry) as model:
                make = Making(self, entry, model, encoded, chooser)
                make.pictures(missing[entry.name], on_picture)
            self.processes.wait()  # model by model, so that none gets an hour ahead of another

    @contextmanager
    def _as_entry(self, policy: Policy, entry: Entry) -> Iterator[Policy]:
        """Inside this block the transformer answers as the entry does."""
        asking, adapter = self.asked[entry.name], policy.adapter
        own_layout, adapter.layout = adapter.layout, asking.layout
        if entry.lora is not None:
            load_for_inference(adapter.transformer, read_lora(entry.lora), entry.strength)
        try:
            with disabled_lora(adapter.transformer) if entry.lora is None else nullcontext():
                yield replace(policy, guidance=asking.guidance)
        finally:
            adapter.layout = own_layout

    def _encoded(self, policy: Policy, names: Sequence[PictureName]) -> EncodedPairs:
        """Every prompt and reference that a missing picture needs, each encoded once."""
        encoded = EncodedPairs(
            policy.adapter, policy.size_px, folder=self.output / CACHE, processes=self.processes
        )
        questions = self.questions
        wanted = dict.fromkeys((name.reference_id, name.number) for name in names)
        encoded.encode(
            self.benchmark.references,
            [questions[place].pair for place in wanted],
            is_quiet=not self.processes.is_main,
        )
        encoded.finish()
        return encoded


@dataclass(frozen=True)
class Making:
    """One entry while it answers."""

    studio: Studio
    entry: Entry
    policy: Policy
    encoded: EncodedPairs
    chooser: Chooser | None

    def pictures(self, missing: Sequence[PictureName], on_picture: OnPicture) -> None:
        """Make this process's share of the missing pictures."""
        processes, questions = self.studio.processes, self.studio.questions
        own = missing[processes.index :: processes.count]
        folder = self.studio.output / PICTURES / self.entry.name
        for name in tqdm(own, desc=self.entry.name, unit="picture", disable=not processes.is_main):
            picture = self.picture(questions[name.reference_id, name.number].pair, name.k)
            if not torch.isfinite(picture).all():
                raise ValueError(
                    f"{self.entry.name}: its picture {name.file} holds values that are not finite; try --dtype float32"
                )
            write_picture(folder / name.file, picture)
            on_picture(self.entry.name, name)

    def picture(self, pair: PromptPair, k: int) -> Tensor:
        """The k-th picture (3, H, W) for a question, float32 in [0, 1]."""
        settings, policy = self.studio.settings, self.policy
        job = PictureJob(pair=pair, sample=k, seed=settings.seed, stream=STREAM)
        conditioning = self.encoded.conditioning([pair])
        if self.entry.candidates is not None:
            assert self.chooser is not None
            count, steps = self.entry.candidates, settings.steps
            return best_of(policy, conditioning, job, count=count, steps=steps, chooser=self.chooser)
        if self.entry.text_noise is not None:
            share = self.entry.text_noise
            return sample_with_text_noise(policy, conditioning, job, share=share, steps=settings.steps)[0]
        noise = job.noise(policy.latent_shape)[None].to(policy.device)
        return policy.sample(conditioning, noise, steps=settings.steps)[0]


def missing_pictures(output: Path, model: str, names: Sequence[PictureName]) -> list[PictureName]:
    """The pictures of a model that are not there yet, in order."""
    folder = output / PICTURES / model
    return [name for name in names if not (folder / name.file).is_file()]
