"""Rollouts and the update that learns from them: keyed noise, what is remembered, the ratio law, invalid samples."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from divrl_core.config import GrpoConfig, OptimConfig, RolloutConfig, TrainConfig
from divrl_core.flow.sde import ode_step
from divrl_core.models.flux import FluxAdapter
from divrl_core.models.lora import add_lora, load_lora_state, lora_state
from divrl_core.settings import list_settings
from divrl_core.training.encoded_pairs import EncodedPairs, pairs_of_run
from divrl_core.training.judged import Judged
from divrl_core.training.pair_order import pick_pairs
from divrl_core.training.placement import units_of_process
from divrl_core.training.policy import Policy
from divrl_core.training.processes import Processes
from divrl_core.training.rollout import MicroBatch, SamplingPlan, roll_out, sampling_plan
from divrl_core.training.stepper import Stepper
from divrl_core.training.update import Learner, UpdateStats

from .tiny_run import SIZE_PX, ToyReferences

REFERENCES = ToyReferences(("ant", "bee"))
PAIR = REFERENCES.pairs[0]
STILL = OptimConfig(lr=1e-60, weight_decay=0.0, max_grad_norm=1e30)  # a step that moves no weight


@pytest.fixture(scope="module")
def adapter(tiny_pipeline: Path) -> FluxAdapter:
    adapter = FluxAdapter.load(str(tiny_pipeline))
    add_lora(adapter.transformer, 4, 8.0, "attention+ffn", seed=0)
    return adapter


@pytest.fixture(scope="module")
def encoded(adapter: FluxAdapter) -> EncodedPairs:
    encoded = EncodedPairs(adapter, SIZE_PX)
    encoded.encode(REFERENCES, REFERENCES.pairs, is_quiet=True)
    encoded.finish()
    return encoded


@pytest.fixture
def policy(adapter: FluxAdapter) -> Iterator[Policy]:
    policy = Policy(adapter=adapter, size_px=SIZE_PX, guidance=2.5)
    start = lora_state(adapter.transformer)
    yield policy
    load_lora_state(adapter.transformer, start)


def plan_of(policy: Policy, **changes: object) -> SamplingPlan:
    config = RolloutConfig(**{"steps": 4, "stochastic_steps": (0, 1), **changes})  # type: ignore[arg-type]
    return sampling_plan(config, policy.times(config.steps), seed=0, update=0)


def rolled_out(
    policy: Policy, plan: SamplingPlan, encoded: EncodedPairs, *, micro_batch: int = 2, update: int = 0
) -> list[MicroBatch]:
    units = units_of_process(0, 1, groups=1, group_size=4, micro_batch=micro_batch)
    given = encoded.conditioning([PAIR]).repeat(micro_batch)
    return [roll_out(policy, plan, given, PAIR, unit, seed=0, update=update) for unit in units]


def learner(policy: Policy, **changes: object) -> Learner:
    config = GrpoConfig(**{"group_size": 4, "micro_batch": 2, "groups_per_update": 2, **changes})  # type: ignore[arg-type]
    processes = Processes(Accelerator())
    return Learner(
        policy=policy,
        stepper=Stepper(STILL, policy.parameters, processes),
        config=config,
        processes=processes,
        after_step=lambda: None,
    )


def gradient(
    policy: Policy, plan: SamplingPlan, encoded: EncodedPairs, judged: list[Judged], **changes: object
) -> tuple[dict[str, torch.Tensor], UpdateStats]:
    """The gradient that the optimizer is given, taken from its place just before the step."""
    learn = learner(policy, **changes)
    seen: dict[str, torch.Tensor] = {}

    def take(*_: object) -> None:
        seen.update({name: weight.grad.clone() for name, weight in policy.parameters.items()})  # type: ignore[union-attr]

    learn.stepper.optimizer.register_step_pre_hook(take)
    stats = learn.learn(plan, encoded, judged, on_progress=lambda made: None)
    return seen, stats


def test_only_trained_steps_are_remembered_and_the_last_step_is_the_ode(
    policy: Policy, encoded: EncodedPairs
) -> None:
    plan = plan_of(policy, stochastic_steps=(0, 2))
    (batch, _) = rolled_out(policy, plan, encoded)
    assert [step.step for step in batch.steps] == [0, 2]
    # From step 2's outcome the clean latent follows without noise.
    conditioning = encoded.conditioning([PAIR]).repeat(2)
    with torch.no_grad():
        v = policy.velocity(batch.steps[1].x_next, plan.times[3], conditioning)
    assert torch.equal(batch.tokens, ode_step(batch.steps[1].x_next, v, plan.times[3], plan.times[4]))


def test_noise_belongs_to_the_sample_and_not_to_its_micro_batch(
    policy: Policy, encoded: EncodedPairs
) -> None:
    plan = plan_of(policy)
    twos, fours = rolled_out(policy, plan, encoded), rolled_out(policy, plan, encoded, micro_batch=4)
    starts = torch.cat([batch.steps[0].x_t for batch in twos])
    assert torch.equal(starts, fours[0].steps[0].x_t)
    finished = torch.cat([batch.tokens for batch in twos])
    assert torch.allclose(finished, fours[0].tokens, atol=1e-4)
    assert not torch.allclose(finished[0], finished[1], atol=0.1), "samples of a group differ"


def test_an_update_draws_its_own_noise_again_and_another_update_draws_other(
    policy: Policy, encoded: EncodedPairs
) -> None:
    plan = plan_of(policy)
    first, again = rolled_out(policy, plan, encoded)[0], rolled_out(policy, plan, encoded)[0]
    other = rolled_out(policy, plan, encoded, update=1)[0]
    assert torch.equal(first.tokens, again.tokens)
    assert not torch.allclose(first.steps[0].x_t, other.steps[0].x_t, atol=0.1)


def test_a_choice_of_trained_steps_is_seeded_and_leaves_all_stochastic_steps_noisy(policy: Policy) -> None:
    config = RolloutConfig(steps=6, trained_steps_per_update=2)
    plans = [sampling_plan(config, policy.times(6), seed=0, update=update) for update in range(40)]
    again = [sampling_plan(config, policy.times(6), seed=0, update=update) for update in range(40)]
    assert plans == again
    assert all(set(plan.noise_levels) == set(range(5)) and len(plan.trained) == 2 for plan in plans)
    assert frozenset().union(*(plan.trained for plan in plans)) == frozenset(range(5))


def test_each_stochastic_step_can_have_a_noise_of_its_own(policy: Policy) -> None:
    times = policy.times(6)
    config = RolloutConfig(steps=6, stochastic_steps=(0, 2), noise_levels=(0.8, 0.4))
    plan = sampling_plan(config, times, seed=0, update=0)
    assert plan.noise_levels == {0: 0.8, 2: 0.4}
    x_t, v = torch.zeros(1, 2, 3), torch.ones(1, 2, 3)
    for step, level in plan.noise_levels.items():
        alone = sampling_plan(
            RolloutConfig(steps=6, stochastic_steps=(step,), noise_level=level), times, seed=0, update=0
        )
        assert plan.gaussian(x_t, v, step).std == alone.gaussian(x_t, v, step).std


@pytest.mark.parametrize("solver", ["flow_sde", "cps"])
def test_only_the_steps_of_the_updates_window_are_noisy_and_trained(
    policy: Policy, encoded: EncodedPairs, solver: str
) -> None:
    config = RolloutConfig(steps=4, window_size=2, window_every_updates=5, solver=solver)  # type: ignore[arg-type]
    times = policy.times(4)
    first, second = (sampling_plan(config, times, seed=0, update=update) for update in (4, 5))
    assert (first.trained, second.trained) == (frozenset({0, 1}), frozenset({1, 2}))
    assert second.noise_levels == {1: 0.8, 2: 0.8}
    batch = rolled_out(policy, second, encoded, update=5)[0]
    assert [step.step for step in batch.steps] == [1, 2]
    # The first step is the ODE from the sample's own noise, to which no noise was added.
    start = rolled_out(policy, first, encoded, update=5)[0].steps[0].x_t
    with torch.no_grad():
        v = policy.velocity(start, times[0], encoded.conditioning([PAIR]).repeat(2))
    assert torch.equal(batch.steps[0].x_t, ode_step(start, v, times[0], times[1]))
    learner(policy).check(second, encoded, batch)


def test_a_choice_of_trained_steps_is_made_within_the_window(policy: Policy) -> None:
    config = RolloutConfig(steps=6, window_size=3, window_every_updates=4, trained_steps_per_update=1)
    plans = [sampling_plan(config, policy.times(6), seed=0, update=update) for update in range(24)]
    for update, plan in enumerate(plans):
        assert set(plan.noise_levels) == set(config.steps_of(update))
        assert plan.trained < set(plan.noise_levels)
    assert frozenset().union(*(plan.trained for plan in plans)) == frozenset(range(5))


def test_training_finds_the_rollouts_log_probabilities_bit_for_bit(
    policy: Policy, encoded: EncodedPairs
) -> None:
    plan = plan_of(policy)
    batch = rolled_out(policy, plan, encoded)[0]
    learner(policy).check(plan, encoded, batch)


def test_the_ratio_law_is_broken_when_the_weights_moved_in_between(
    policy: Policy, encoded: EncodedPairs
) -> None:
    plan = plan_of(policy)
    batch = rolled_out(policy, plan, encoded)[0]
    weights = lora_state(policy.adapter.transformer)
    moved = {name: value + 1e-4 for name, value in weights.items()}
    with (
        policy.with_weights(moved),
        pytest.raises(ValueError, match=r"ratio law: .* at step 0 of ant#0") as caught,
    ):
        learner(policy).check(plan, encoded, batch)
    assert "start a new run with" in str(caught.value)
    named = set(re.findall(r"\b[a-z]+\.[a-z_]+", str(caught.value)))
    known = {row.name for row in list_settings(TrainConfig)}
    assert named and named <= known, "the advice names settings that there are"


GENTLER = r"new run with run\.init_lora=<RUN>/lora/last\.safetensors and a lower optim\.lr"


def test_a_policy_that_broke_is_answered_with_what_a_new_run_can_do(
    policy: Policy, encoded: EncodedPairs
) -> None:
    plan = plan_of(policy)
    judged = judge(rolled_out(policy, plan, encoded), [1.0] * 4, [True] * 4)
    weights = lora_state(policy.adapter.transformer)
    with policy.with_weights({name: value * torch.nan for name, value in weights.items()}):
        with pytest.raises(ValueError, match=f"rollout: .*{GENTLER}"):
            rolled_out(policy, plan, encoded)
        with pytest.raises(ValueError, match=f"update: the policy loss .*{GENTLER}"):
            gradient(policy, plan, encoded, judged)


def test_weights_lent_for_an_evaluation_are_given_back_bit_for_bit(policy: Policy) -> None:
    before = lora_state(policy.adapter.transformer)
    with policy.with_weights({name: value + 1 for name, value in before.items()}):
        inside = lora_state(policy.adapter.transformer)
    after = lora_state(policy.adapter.transformer)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(torch.equal(before[name], inside[name]) for name in before)


def judge(batches: list[MicroBatch], advantages: list[float], valid: list[bool]) -> list[Judged]:
    judged, start = [], 0
    for batch in batches:
        rows = slice(start, start + len(batch.unit.samples))
        start = rows.stop
        judged.append(
            Judged(batch=batch, advantages=torch.tensor(advantages[rows]), valid=torch.tensor(valid[rows]))
        )
    return judged


def test_the_gradient_is_that_of_the_mean_over_valid_samples_and_trained_steps(
    policy: Policy, encoded: EncodedPairs
) -> None:
    plan, advantages = plan_of(policy), [1.0, -0.5, 2.0, 7.0]
    batches = rolled_out(policy, plan, encoded)
    found, stats = gradient(policy, plan, encoded, judge(batches, advantages, [True, True, True, False]))

    # At ratio 1 the gradient of -min(r A, clip(r) A) is -A times that of the log-probability: written out, all at once.
    conditioning = encoded.conditioning([PAIR]).repeat(2)
    objective = torch.zeros(())
    for place, batch in enumerate(batches):
        for step in batch.steps:
            v = policy.velocity(step.x_t, plan.times[step.step], conditioning)
            log_prob = plan.log_prob(step.x_next, plan.gaussian(step.x_t, v, step.step))
            weights = torch.tensor([[1.0, -0.5], [2.0, 0.0]][place])
            objective = objective - (weights * log_prob).sum() / (3 * len(batch.steps))
    expected = torch.autograd.grad(objective, list(policy.parameters.values()))
    largest = max(value.abs().max().item() for value in expected)
    for value, (name, seen) in zip(expected, found.items(), strict=True):
        assert torch.allclose(seen, value, rtol=1e-3, atol=1e-4 * largest), name
    assert stats.ratio_mean == 1 and stats.ratio_max_deviation == 0
    assert stats.grad_rms == pytest.approx(
        math.sqrt(sum(float(v.square().sum()) for v in expected) / sum(v.numel() for v in expected)), rel=1e-3
    )


def test_an_invalid_sample_changes_nothing_whatever_its_advantage(
    policy: Policy, encoded: EncodedPairs
) -> None:
    plan, valid = plan_of(policy), [True, False, True, True]
    batches = rolled_out(policy, plan, encoded)
    one, _ = gradient(policy, plan, encoded, judge(batches, [1.0, 0.0, -1.0, 0.5], valid))
    other, _ = gradient(policy, plan, encoded, judge(batches, [1.0, 99.0, -1.0, 0.5], valid))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_no_step_is_made_when_no_sample_teaches_anything(policy: Policy, encoded: EncodedPairs) -> None:
    plan = plan_of(policy)
    seen, stats = gradient(
        policy, plan, encoded, judge(rolled_out(policy, plan, encoded), [0.0] * 4, [True] * 4)
    )
    assert not seen and stats.optimizer_steps == 0 and math.isnan(stats.ratio_mean)


@pytest.mark.parametrize("kind", ["mean", "velocity"])
def test_kl_to_the_base_is_zero_at_the_start_and_positive_after_the_weights_moved(
    policy: Policy, encoded: EncodedPairs, kind: str
) -> None:
    plan, changes = plan_of(policy), {"kl_weight": 1.0, "kl_kind": kind}
    judged = judge(rolled_out(policy, plan, encoded), [0.0] * 4, [True] * 4)
    _, at_start = gradient(policy, plan, encoded, judged, **changes)
    weights = lora_state(policy.adapter.transformer)
    with policy.with_weights({name: value + 0.02 for name, value in weights.items()}):
        pulled, moved = gradient(policy, plan, encoded, judged, **changes)
    assert at_start.kl == 0
    assert moved.kl > 1e-8 and max(value.abs().max().item() for value in pulled.values()) > 0


def test_kl_at_early_steps_alone_is_measured_averaged_and_pulls_there_alone(
    policy: Policy, encoded: EncodedPairs
) -> None:
    plan = plan_of(policy)  # trains steps 0 and 1
    batches = rolled_out(policy, plan, encoded)
    judged = judge(batches, [0.0] * 4, [True] * 4)
    early = judge([replace(batch, steps=batch.steps[:1]) for batch in batches], [0.0] * 4, [True] * 4)
    weights = lora_state(policy.adapter.transformer)
    with policy.with_weights({name: value + 0.02 for name, value in weights.items()}):
        _, at_all = gradient(policy, plan, encoded, judged, kl_weight=1.0)
        pull, limited = gradient(policy, plan, encoded, judged, kl_weight=1.0, kl_steps=1)
        alone, of_first = gradient(policy, plan, encoded, early, kl_weight=1.0)
    assert limited.kl == pytest.approx(of_first.kl, rel=1e-6) and limited.kl != at_all.kl
    # The mean over two trained steps, of which one is held: half the pull of that step by itself.
    largest = max(value.abs().max().item() for value in alone.values())
    for name, value in pull.items():
        assert torch.allclose(2 * value, alone[name], rtol=1e-3, atol=1e-5 * largest), name


def test_where_kl_holds_no_trained_step_flat_groups_teach_nothing(
    policy: Policy, encoded: EncodedPairs
) -> None:
    plan = plan_of(policy, stochastic_steps=(1, 2))
    judged = judge(rolled_out(policy, plan, encoded), [0.0] * 4, [True] * 4)
    seen, stats = gradient(policy, plan, encoded, judged, kl_weight=1.0, kl_steps=1)
    assert not seen and stats.optimizer_steps == 0 and math.isnan(stats.kl)


def test_dppo_gives_the_clips_gradient_where_neither_takes_anything_away(
    policy: Policy, encoded: EncodedPairs
) -> None:
    """On-policy, where both are inert, and after the weights moved, under bounds that nothing reaches."""
    kept = replace(plan_of(policy), keeps_means=True)
    judged = judge(rolled_out(policy, kept, encoded), [1.0, -0.5, 2.0, -1.0], [True] * 4)
    dppo = {"objective": "dppo", "dppo_threshold": 1e-12}
    clipped, on_policy = gradient(policy, kept, encoded, judged)
    dropped, inert = gradient(policy, kept, encoded, judged, **dppo)
    assert all(torch.equal(clipped[name], dropped[name]) for name in clipped)
    assert on_policy.clip_share == inert.clip_share == 0, "D is exactly 0, below any threshold"

    weights = lora_state(policy.adapter.transformer)
    with policy.with_weights({name: value + 0.02 for name, value in weights.items()}):
        clipped, free = gradient(policy, kept, encoded, judged, clip_range=0.999)
        dropped, also_free = gradient(policy, kept, encoded, judged, **dppo | {"dppo_threshold": 1e9})
        _, some = gradient(policy, kept, encoded, judged, **dppo)
    assert all(torch.equal(clipped[name], dropped[name]) for name in clipped)
    assert free.ratio_max_deviation == also_free.ratio_max_deviation > 0
    assert free.clip_share == also_free.clip_share == 0
    assert 0 < some.clip_share < 1, "what moves back towards the rollout's policy is kept"


def test_means_are_kept_where_the_plan_asks_for_them(policy: Policy, encoded: EncodedPairs) -> None:
    plan = plan_of(policy)
    assert all(step.mean is None for step in rolled_out(policy, plan, encoded)[0].on_host().steps)
    batch = rolled_out(policy, replace(plan, keeps_means=True), encoded)[0].on_host()
    given = encoded.conditioning([PAIR]).repeat(2)
    for step in batch.steps:
        with torch.no_grad():
            v = policy.velocity(step.x_t, plan.times[step.step], given)
        assert step.mean is not None
        assert torch.equal(step.mean, plan.gaussian(step.x_t, v, step.step).mean)


def test_the_pairs_of_a_run_are_those_that_its_updates_pick() -> None:
    pairs = ToyReferences(tuple("abcdefghij")).pairs
    picked = {pair for update in range(4) for pair in pick_pairs(pairs, 3, seed=5, update=update)}
    assert set(pairs_of_run(pairs, groups_per_update=3, updates=4, seed=5)) == picked
    assert set(pairs_of_run(pairs, groups_per_update=3, updates=7, seed=5)) == set(pairs)


def test_trajectories_on_the_host_are_the_same_and_hold_a_latent_once(
    policy: Policy, encoded: EncodedPairs
) -> None:
    batch = rolled_out(policy, plan_of(policy), encoded)[0]
    kept = batch.on_host()
    for step, before in zip(kept.steps, batch.steps, strict=True):
        assert step.x_t.device.type == "cpu"
        assert torch.equal(step.x_t, before.x_t) and torch.equal(step.x_next, before.x_next)
    assert kept.steps[0].x_next is kept.steps[1].x_t
