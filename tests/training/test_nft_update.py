"""DiffusionNFT's rollouts and updates: who draws, what is remembered, the gradient, how the old policy follows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from divrl_core.config import GrpoConfig, NftConfig, OptimConfig, RolloutConfig, TrainConfig
from divrl_core.flow.noise import keyed_noise
from divrl_core.flow.path import interpolate
from divrl_core.flow.sde import ode_step
from divrl_core.models.flux import FluxAdapter
from divrl_core.models.lora import (
    OLD,
    add_lora,
    freeze_reference,
    load_lora_state,
    lora_parameters,
    lora_state,
)
from divrl_core.rl.nft import nft_loss, optimality
from divrl_core.training.encoded_pairs import EncodedPairs
from divrl_core.training.judged import Judged
from divrl_core.training.nft_update import NftLearner, NftStats, nft_plan
from divrl_core.training.placement import units_of_process
from divrl_core.training.policy import Policy
from divrl_core.training.processes import Processes
from divrl_core.training.rollout import MicroBatch, SamplingPlan, roll_out
from divrl_core.training.stepper import Stepper

from .tiny_run import SIZE_PX, ToyReferences

REFERENCES = ToyReferences(("ant",))
PAIR = REFERENCES.pairs[0]
STILL = OptimConfig(lr=1e-60, weight_decay=0.0, max_grad_norm=1e30)  # a step that moves no weight


@pytest.fixture(scope="module")
def adapter(tiny_pipeline: Path) -> FluxAdapter:
    adapter = FluxAdapter.load(str(tiny_pipeline))
    add_lora(adapter.transformer, 4, 8.0, "attention+ffn", seed=0)
    freeze_reference(adapter.transformer, adapter=OLD)
    return adapter


@pytest.fixture(scope="module")
def encoded(adapter: FluxAdapter) -> EncodedPairs:
    encoded = EncodedPairs(adapter, SIZE_PX)
    encoded.encode(REFERENCES, REFERENCES.pairs, is_quiet=True)
    encoded.finish()
    return encoded


@pytest.fixture
def policy(adapter: FluxAdapter) -> Iterator[Policy]:
    """A policy that has moved from its old one."""
    transformer = adapter.transformer
    start = lora_state(transformer)
    load_lora_state(transformer, {name: value + 0.02 for name, value in start.items()})
    yield Policy(adapter=adapter, size_px=SIZE_PX, guidance=2.5)
    for name in ("policy", OLD):
        load_lora_state(transformer, start, adapter=name)


def plan_of(policy: Policy, *, update: int = 0, **nft: object) -> SamplingPlan:
    config = TrainConfig.explore(
        rollout=RolloutConfig(steps=4, stochastic_steps=(0, 1)),
        nft=NftConfig(**nft),  # type: ignore[arg-type]
    )
    return nft_plan(replace(config, algorithm="nft"), policy.times(4), update)


def rolled_out(policy: Policy, plan: SamplingPlan, encoded: EncodedPairs) -> list[MicroBatch]:
    units = units_of_process(0, 1, groups=1, group_size=4, micro_batch=2)
    given = encoded.conditioning([PAIR]).repeat(2)
    with policy.as_old():
        return [roll_out(policy, plan, given, PAIR, unit, seed=0, update=plan.update) for unit in units]


def learner(policy: Policy, optim: OptimConfig = STILL, **nft: object) -> NftLearner:
    processes = Processes(Accelerator())
    return NftLearner(
        policy=policy,
        stepper=Stepper(optim, policy.parameters, processes),
        config=NftConfig(**{"times_per_sample": 2, **nft}),  # type: ignore[arg-type]
        groups=GrpoConfig(group_size=4, micro_batch=2, groups_per_update=2),
        processes=processes,
        after_step=lambda: None,
        seed=0,
    )


def judge(batches: list[MicroBatch], advantages: list[float], valid: list[bool]) -> list[Judged]:
    judged, start = [], 0
    for batch in batches:
        rows = slice(start, start + len(batch.unit.samples))
        start = rows.stop
        judged.append(
            Judged(batch=batch, advantages=torch.tensor(advantages[rows]), valid=torch.tensor(valid[rows]))
        )
    return judged


def gradient(
    learn: NftLearner, plan: SamplingPlan, encoded: EncodedPairs, judged: list[Judged]
) -> tuple[dict[str, torch.Tensor], NftStats]:
    """The gradient that the optimizer is given, taken just before the step; the old policy is put back after it."""
    transformer = learn.policy.adapter.transformer
    old = lora_state(transformer, adapter=OLD)
    seen: dict[str, torch.Tensor] = {}

    def take(*_: object) -> None:
        seen.update({name: weight.grad.clone() for name, weight in learn.policy.parameters.items()})  # type: ignore[union-attr]

    learn.stepper.optimizer.register_step_pre_hook(take)
    stats = learn.learn(plan, encoded, judged, on_progress=lambda made: None)
    load_lora_state(transformer, old, adapter=OLD)
    return seen, stats


def test_the_old_policy_draws_by_the_ode_and_clean_latents_alone_are_kept(
    policy: Policy, encoded: EncodedPairs
) -> None:
    plan = plan_of(policy)
    batch = rolled_out(policy, plan, encoded)[0]
    assert batch.steps == () and not plan.noise_levels
    given = encoded.conditioning([PAIR]).repeat(2)
    x_t = torch.stack(
        [
            keyed_noise(policy.latent_shape, seed=0, stream="rollout", group=PAIR.group_id, sample=sample)
            for sample in batch.unit.samples
        ]
    )
    for t, t_next in zip(plan.times, plan.times[1:], strict=False):
        x_t = ode_step(x_t, policy.old_velocity(x_t, t, given), t, t_next)
    assert torch.equal(batch.tokens, x_t)
    assert not torch.allclose(batch.tokens[0], batch.tokens[1], atol=0.1), (
        "each sample has a start of its own"
    )


def test_noise_on_the_way_is_drawn_where_it_is_asked_for(policy: Policy, encoded: EncodedPairs) -> None:
    plain, noisy = plan_of(policy), plan_of(policy, noisy_rollout=True)
    assert set(noisy.noise_levels) == {0, 1} and not noisy.trained
    batches = [rolled_out(policy, plan, encoded)[0] for plan in (plain, noisy)]
    assert batches[1].steps == ()
    assert not torch.allclose(batches[0].tokens, batches[1].tokens, atol=0.1)


@pytest.mark.parametrize("times", ["schedule", "uniform"])
@pytest.mark.parametrize("kl_weight", [0.0, 0.5])
def test_the_gradient_is_that_of_the_mean_over_valid_samples_and_times(
    policy: Policy, encoded: EncodedPairs, times: str, kl_weight: float
) -> None:
    plan, advantages = plan_of(policy, update=3), torch.tensor([1.0, -0.5, 2.0, 7.0])
    batches = rolled_out(policy, plan, encoded)
    learn = learner(policy, times=times, kl_weight=kl_weight, beta=0.5)
    found, stats = gradient(
        learn, plan, encoded, judge(batches, advantages.tolist(), [True, True, True, False])
    )

    # Written out sample by sample, in batches of one.
    given, objective, losses = encoded.conditioning([PAIR]), torch.zeros(()), []
    for place, batch in enumerate(batches):
        drawn = learn._times(plan, batch)
        for row in range(2):
            if 2 * place + row == 3:
                continue
            for number in range(2):
                t, eps = drawn[row, number].item(), learn._noise(plan, batch, number)[row, None]
                x_0 = batch.tokens[row, None]
                x_t = interpolate(x_0, eps, t)
                v = policy.velocity(x_t, t, given)
                r = optimality(advantages[2 * place + row, None], 5.0)
                v_old = policy.old_velocity(x_t, t, given)
                loss = nft_loss(v, v_old, x_0=x_0, x_t=x_t, t=t, r=r, a=5.0, b=0.5).sum()
                losses.append(loss.item())
                v_ref = policy.reference_velocity(x_t, t, given)
                objective = objective + (loss + kl_weight * (v - v_ref).square().mean()) / 6
    expected = torch.autograd.grad(objective, list(policy.parameters.values()))
    largest = max(value.abs().max().item() for value in expected)
    for value, (name, seen) in zip(expected, found.items(), strict=True):
        assert torch.allclose(seen, value, rtol=1e-3, atol=1e-4 * largest), name
    assert stats.policy_loss == pytest.approx(sum(losses) / 6, rel=1e-5)
    assert stats.optimality == pytest.approx((0.6 + 0.45 + 0.7) / 3)
    assert stats.old_distance > 0 and math.isnan(stats.kl) == (kl_weight == 0)
    # Four samples at two times: 3 with a gradient, 1 of the old policy, 1 of the reference if there is one.
    assert stats.model_evaluations == 4 * 2 * (5 if kl_weight else 4)


def test_times_are_keyed_by_sample_and_update_and_differ_within_a_sample(
    policy: Policy, encoded: EncodedPairs
) -> None:
    plan = plan_of(policy)
    batch = rolled_out(policy, plan, encoded)[0]
    every = learner(policy, times_per_sample=4)._times(plan, batch)
    assert [sorted(row) for row in every.tolist()] == [sorted(torch.tensor(plan.times[:-1]).tolist())] * 2
    uniform = learner(policy, times="uniform", times_per_sample=5)
    drawn, again = (uniform._times(plan, batch) for _ in range(2))
    assert torch.equal(drawn, again) and 0 < drawn.min() < drawn.max() < 1 and not torch.equal(*drawn)
    other = uniform._times(plan_of(policy, update=1), batch)
    assert not torch.equal(drawn, other)
    alone = replace(batch, unit=replace(batch.unit, samples=batch.unit.samples[1:]))
    assert torch.equal(uniform._times(plan, alone)[0], drawn[1]), "whatever micro-batch it is in"


def test_where_old_and_new_are_one_their_velocities_are_bit_for_bit(
    policy: Policy, encoded: EncodedPairs
) -> None:
    transformer = policy.adapter.transformer
    load_lora_state(transformer, lora_state(transformer), adapter=OLD)
    x_t, t = torch.randn(2, *policy.latent_shape), torch.tensor([0.9, 0.3])
    given = encoded.conditioning([PAIR]).repeat(2)
    assert torch.equal(policy.velocity(x_t, t, given), policy.old_velocity(x_t, t, given))
    assert all(parameter.requires_grad for parameter in policy.parameters.values())
    assert not any(value.requires_grad for value in lora_parameters(transformer, adapter=OLD).values())


def test_an_invalid_sample_changes_nothing_whatever_its_advantage(
    policy: Policy, encoded: EncodedPairs
) -> None:
    plan, valid = plan_of(policy), [True, False, True, True]
    batches = rolled_out(policy, plan, encoded)
    one, _ = gradient(learner(policy), plan, encoded, judge(batches, [1.0, 0.0, -1.0, 0.5], valid))
    other, _ = gradient(learner(policy), plan, encoded, judge(batches, [1.0, 4.0, -1.0, 0.5], valid))
    assert one and all(torch.equal(one[name], other[name]) for name in one)


def test_a_share_in_which_every_group_is_flat_is_passed_over(policy: Policy, encoded: EncodedPairs) -> None:
    plan = plan_of(policy)
    judged = judge(rolled_out(policy, plan, encoded), [0.0] * 4, [True] * 4)
    seen, stats = gradient(learner(policy, kl_weight=1.0), plan, encoded, judged)
    assert (
        not seen and stats.optimizer_steps == 0 == stats.model_evaluations and math.isnan(stats.policy_loss)
    )


def test_after_an_update_the_old_policy_follows_by_the_steps_that_were_made(
    policy: Policy, encoded: EncodedPairs
) -> None:
    plan = plan_of(policy)
    judged = judge(rolled_out(policy, plan, encoded), [1.0, -1.0, 0.5, -0.5], [True] * 4)
    learn = learner(policy, OptimConfig(lr=1e-3), old_decay_rate=0.25, old_decay_most=0.5)
    transformer = policy.adapter.transformer
    for step, decay in enumerate([0.25, 0.5, 0.5], start=1):
        before = lora_state(transformer, adapter=OLD)
        learn.learn(plan, encoded, judged, on_progress=lambda made: None)
        after, now = lora_state(transformer, adapter=OLD), lora_state(transformer)
        for name, value in after.items():
            torch.testing.assert_close(value, decay * before[name] + (1 - decay) * now[name])
        kept = learn.kept()
        assert kept["old_steps"] == step
        assert all(torch.equal(kept["old"][name], value) for name, value in after.items())


def test_a_policy_that_broke_names_the_sample(policy: Policy, encoded: EncodedPairs) -> None:
    plan = plan_of(policy)
    judged = judge(rolled_out(policy, plan, encoded), [1.0, -1.0, 0.5, -0.5], [True] * 4)
    broken = {name: value * torch.nan for name, value in lora_state(policy.adapter.transformer).items()}
    with (
        policy.with_weights(broken),
        pytest.raises(ValueError, match="update: the policy loss of sample 0 of ant#0 is not finite"),
    ):
        gradient(learner(policy), plan, encoded, judged)
