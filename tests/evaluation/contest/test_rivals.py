"""The rivals that train nothing: what noise is put on a prompt, and which candidate is chosen."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from divrl_core.config import BackboneConfig
from divrl_core.evaluation.contest.choosing import Chooser, best_of
from divrl_core.evaluation.contest.settings import STREAM
from divrl_core.evaluation.contest.text_noise import noise_weight, noisy_text, sample_with_text_noise
from divrl_core.evaluation.generate import PictureJob
from divrl_core.evaluation.sheets import to_picture
from divrl_core.models.flux import FluxAdapter
from divrl_core.pocket.references import PocketReferences
from divrl_core.selection.choice import choose
from divrl_core.selection.judge import Judge
from divrl_core.training.policy import Policy

from .stand_ins import benchmark_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy(adapter=FluxAdapter.load("pocket"), size_px=64, guidance=2.5)


@pytest.fixture(scope="module")
def references() -> PocketReferences:
    return PocketReferences(split="held_out", count=1)


def job_of(references: PocketReferences, k: int = 0) -> PictureJob:
    return PictureJob(pair=references.pairs[0], sample=k, seed=0, stream=STREAM)


def conditioning_of(policy: Policy, references: PocketReferences):
    pair = references.pairs[0]
    image = references.load(pair.reference_id, policy.size_px).image
    return policy.adapter.encode([pair.prompt], image[None])


def test_noise_on_the_prompt_fades_between_two_times() -> None:
    assert [noise_weight(t) for t in (1.0, 0.9, 0.6, 0.0)] == pytest.approx([1, 1, 0, 0], abs=1e-7)
    # gamma(.75) = (.9 - .75) / .3 = 1/2
    assert noise_weight(0.75) == pytest.approx(math.sqrt(0.5))


def test_noise_has_the_share_of_the_embeddings_deviation(policy, references) -> None:
    given, job = conditioning_of(policy, references), job_of(references)
    noisy = noisy_text(given, job, share=0.2, step=0)
    for name in ("prompt_embeds", "pooled"):
        clean, changed = getattr(given, name).float(), getattr(noisy, name).float()
        assert float((changed - clean).std()) == pytest.approx(0.2 * float(clean.std()), rel=0.15)
    assert torch.equal(noisy.reference_tokens, given.reference_tokens)


def test_noise_on_the_prompt_belongs_to_the_picture_and_the_step(policy, references) -> None:
    given = conditioning_of(policy, references)
    first = noisy_text(given, job_of(references), share=0.2, step=0).prompt_embeds
    again = noisy_text(given, job_of(references), share=0.2, step=0).prompt_embeds
    other = noisy_text(given, job_of(references, 1), share=0.2, step=0).prompt_embeds
    later = noisy_text(given, job_of(references), share=0.2, step=1).prompt_embeds
    assert torch.equal(first, again)
    assert not torch.equal(first, other) and not torch.equal(first, later)


def test_a_share_of_nothing_is_the_models_own_sampling_bit_for_bit(policy, references) -> None:
    given, job = conditioning_of(policy, references), job_of(references)
    noise = job.noise(policy.latent_shape)[None]
    plain = policy.sample(given, noise, steps=3)
    assert torch.equal(sample_with_text_noise(policy, given, job, share=0.0, steps=3), plain)
    assert not torch.equal(sample_with_text_noise(policy, given, job, share=0.5, steps=3), plain)


def test_the_choice_is_the_one_of_the_node(policy, references) -> None:
    chooser = Chooser.load(BackboneConfig(), benchmark_of(references), policy.size_px, CPU)
    given, job = conditioning_of(policy, references), job_of(references)
    best = best_of(policy, given, job, count=4, steps=3, chooser=chooser)
    candidates = torch.cat(
        [
            policy.sample(given, job.noise(policy.latent_shape, candidate=number)[None], steps=3)
            for number in range(4)
        ]
    )
    reference = references.load(job.pair.reference_id, policy.size_px)
    backbone = chooser.measurer.backbone
    judge = Judge(backbone, to_picture(reference.image), reference.mask.numpy())
    measured = judge.measured(candidates, with_distances=False)
    (place,) = choose(measured, mode="reward", keep=1, gate=backbone.settings.gate).kept
    assert torch.equal(best, candidates[place])


def test_the_first_candidate_is_made_of_the_noise_that_all_models_see(references, tmp_path: Path) -> None:
    job = job_of(references, 2)
    assert torch.equal(job.noise((4, 8)), job.noise((4, 8), candidate=0))
    assert not torch.equal(job.noise((4, 8)), job.noise((4, 8), candidate=1))
    others = [job_of(references, k).noise((4, 8)) for k in range(9)]
    assert not any(torch.equal(job.noise((4, 8), candidate=1), other) for other in others)
