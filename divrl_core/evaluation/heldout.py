"""Held-out evaluation: the same pictures from every model, measured alike.

A picture is named by (reference, prompt, number); its noise depends on that name and the seed only, so two models can
be compared picture by picture. Four measures (METHOD.md, section 4), each with its standard error:

- nssm: mean nSSM; higher = built more differently from the reference.
- vsm: mean VSM; higher = the same subject.
- consistency_ratio: share of pictures with VSM above the backbone's cut-off.
- diversity_over_consistency: mean nSSM over those pictures alone.

Where the world is known (the pocket's), three more say what is true, and no reward sees them:

- clean_share: share of pictures that are whole pictures of their figure.
- pose_change_deg: over the clean ones, how far view and joints have truly moved from the reference's.
- identity_error: mean distance to the nearest true picture of the figure.
- turned_share: share of pictures more than 12 degrees from the reference's pose; new_pose_share: these and whole.

Where a reference has several pictures, two tell how they differ from each other (set_diversity.py): set_distance, and
set_pose_deg where the world is known. Every other measure that a backbone gives is there by its name: those that the
reward is not made of are named in `held_out_measures`.

The row of an evaluation also holds `selection`, what the best LoRA is chosen by (see `selection_summary`).

Pictures of one reference resemble each other, so standard errors take references, not pictures, as independent:
se^2 = G / (G - 1) * sum over the G references of (sum of their pictures' influences)^2.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import torch

from ..rewards.nssm import reference_structure
from ..training.encoded_pairs import EncodedPairs
from ..training.policy import Policy
from ..training.processes import Processes
from ..training.references import PromptPair, ReferenceSet, Truth, known_world
from ..training.rewarding import Rewarder
from .generate import PictureJob, generate
from .heldout_reward import HeldOutGroups, pointwise_rewards
from .heldout_summary import (
    SampleScore,
    clustered_mean,
    held_out_measures,
    sample_row,
    selection_summary,
    summarise,
)
from .paired import Difference, paired_differences
from .set_diversity import Seen, set_values

STREAM = "heldout"


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """One evaluation of one model: how its pictures were made, the four measures, and every picture's scores."""

    settings: Mapping[str, Any]
    summary: Mapping[str, Any]
    samples: tuple[SampleScore, ...]

    def as_json(self) -> dict[str, Any]:
        """The content of heldout/update-NNNNNN.json."""
        samples = [sample_row(sample) for sample in self.samples]
        return {"settings": dict(self.settings), "summary": dict(self.summary), "samples": samples}


def evaluate(
    policy: Policy,
    encoded: EncodedPairs,
    rewarder: Rewarder,
    references: ReferenceSet,
    *,
    stage: str,
    update: int,
    images: int,
    steps: int,
    seed: int,
    batch_size: int,
    processes: Processes,
    on_progress: Callable[[int], None] = lambda made: None,
    on_pictures: Callable[[Sequence[PictureJob], torch.Tensor], None] = lambda jobs, pictures: None,
) -> HeldOut:
    """Make `images` held-out pictures with the policy as it is now, and measure them.

    `encoded` must hold the pairs of `heldout_jobs`. Of several processes each makes and measures its share, and all get
    the whole. `on_progress(pictures_made)` is called before each batch, `on_pictures(jobs, pictures)` after it.
    """
    jobs = heldout_jobs(references.pairs, images, seed=seed)
    places = {job: place for place, job in enumerate(jobs)}
    measured: list[tuple[int, SampleScore, Seen]] = []
    groups = HeldOutGroups() if rewarder.takes_groups else None
    for batch, pictures in generate(
        policy,
        encoded,
        jobs,
        steps=steps,
        batch_size=batch_size,
        on_progress=on_progress,
        processes=processes,
    ):
        for job, score, seen in zip(batch, *measure(batch, pictures, rewarder, references), strict=True):
            measured.append((places[job], score, seen))
        if groups is not None:
            groups.keep([places[job] for job in batch], pictures)
        on_pictures(batch, pictures)
    measured = sorted(processes.gather(measured), key=lambda one: one[0])
    samples = [score for _, score, _ in measured]
    if groups is not None:
        paid = groups.rewards(jobs, rewarder, references, processes)
        samples = [replace(sample, reward=reward) for sample, reward in zip(samples, paid, strict=True)]
    head = {"kind": "heldout", "stage": stage, "update": update, "steps": steps}
    cutoff = rewarder.consistency_cutoff
    summary = summarise(samples, consistency_cutoff=cutoff)
    seen_at = {place: seen for place, _, seen in measured}
    for name, rows in set_values(jobs, seen_at, known_world(references)).items():
        summary[name], summary[f"{name}_se"] = clustered_mean(rows)
    summary["held_out_measures"] = held_out_measures(rewarder.config, samples)
    selection = selection_summary(rewarder.config, samples, gates=rewarder.gates)
    return HeldOut(
        settings={
            "seed": seed,
            "steps": steps,
            "image_size_px": policy.size_px,
            "guidance_scale": policy.guidance,
            "dtype": str(policy.storage_dtype).removeprefix("torch."),
            "backbone": rewarder.sources[""],
            **{f"{name}backbone": source for name, source in rewarder.sources.items() if name},
            "consistency_cutoff": cutoff,
            "gate": rewarder.gates.get("vsm"),
            "gates": dict(rewarder.gates),
            "masks": references.mask_source,
        },
        summary=head | summary | selection,
        samples=tuple(samples),
    )


def measure(
    jobs: Sequence[PictureJob], pictures: torch.Tensor, rewarder: Rewarder, references: ReferenceSet
) -> tuple[list[SampleScore], list[Seen]]:
    """The scores of pictures (B, 3, H, W) made for these jobs, with what is true of them where that is known.

    And of each what is compared with the other pictures of its reference.
    """
    names = [job.pair.reference_id for job in jobs]
    scores, features = rewarder.scores_each(pictures, references, names)
    paid: Sequence[float | None] = [None] * len(jobs)
    if rewarder.judge is not None and not rewarder.takes_groups:
        paid = pointwise_rewards(jobs, pictures, rewarder, references, scores)
    world = known_world(references)
    truths: Sequence[Truth | None] = [None] * len(jobs)
    if world is not None:
        truths = world.truths(pictures, [job.pair for job in jobs])
    more = {name: values.tolist() for name, values in scores.more.items()}
    pool = rewarder.backbone.settings.score.nssm_pool
    samples, seen = [], []
    for row, (job, truth) in enumerate(zip(jobs, truths, strict=True)):
        samples.append(
            SampleScore(
                reference_id=job.pair.reference_id,
                prompt=job.pair.prompt,
                sample=job.sample,
                nssm=float(scores.nssm[row]),
                vsm=float(scores.vsm[row]),
                reward=paid[row],
                more={name: values[row] for name, values in more.items()},
                **_true_values(truth),
            )
        )
        mask = rewarder.reference(references, job.pair.reference_id).structure_mask
        seen.append(Seen(reference_structure(features.structure[row], mask, pool=pool), truth))
    return samples, seen


def _true_values(truth: Truth | None) -> dict[str, float]:
    if truth is None:
        return {}
    return {
        "clean": float(truth.is_clean),
        "identity_error": truth.identity_error,
        "pose_change_deg": truth.pose_change_deg,
    }


def heldout_jobs(pairs: Sequence[PromptPair], images: int, *, seed: int) -> tuple[PictureJob, ...]:
    """The first `images` pictures: every reference's first prompt, then every second one, ..., then number 1 of all."""
    by_reference: dict[str, list[PromptPair]] = defaultdict(list)
    for pair in pairs:
        by_reference[pair.reference_id].append(pair)
    rounds = zip_longest(*by_reference.values())
    in_turn = [pair for turn in rounds for pair in turn if pair is not None]
    return tuple(
        PictureJob(pair=in_turn[place % len(in_turn)], sample=place // len(in_turn), seed=seed, stream=STREAM)
        for place in range(images)
    )


def paired_difference(before: HeldOut, after: HeldOut) -> dict[str, Difference]:
    """The four measures' differences, after minus before, over the same pictures (see `paired.py`).

    Raises ValueError when the two were not measured with the same consistency cut-off.
    """
    cutoffs = [float(side.settings["consistency_cutoff"]) for side in (before, after)]
    if cutoffs[0] != cutoffs[1]:
        raise ValueError(
            f"paired_difference: both evaluations need one consistency cut-off, got {cutoffs[0]:g} and {cutoffs[1]:g}"
        )
    rows = [[sample_row(sample) for sample in side.samples] for side in (before, after)]
    return paired_differences(rows[0], rows[1], consistency_cutoff=cutoffs[0])
