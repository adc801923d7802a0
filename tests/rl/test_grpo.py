"""The clipped objective and the KL terms."""

from __future__ import annotations

import math

import pytest
import torch

from divrl_core.flow.sde import draw, flow_sde_gaussian, log_prob
from divrl_core.rl.grpo import clipped_policy_loss, gaussian_kl, policy_ratio, velocity_kl


def test_ratio_is_exactly_one_for_equal_log_probs():
    lp = torch.tensor([-1.234567, 0.0, 12.5])
    assert torch.equal(policy_ratio(lp, lp.clone()), torch.ones(3))


def test_loss_worked_by_hand():
    # c = .1. r = 1.2, A = 1: min(1.2, 1.1) = 1.1, clipped. r = 1.2, A = -1: min(-1.2, -1.1) = -1.2, not clipped.
    # r = .8, A = 1: min(.8, .9) = .8, not clipped. r = .8, A = -1: min(-.8, -.9) = -.9, clipped.
    lp = torch.tensor([1.2, 1.2, 0.8, 0.8]).log()
    term = clipped_policy_loss(lp, torch.zeros(4), torch.tensor([1.0, -1.0, 1.0, -1.0]), clip_range=0.1)
    torch.testing.assert_close(term.loss, torch.tensor([-1.1, 1.2, -0.8, 0.9]))
    torch.testing.assert_close(term.ratio, torch.tensor([1.2, 1.2, 0.8, 0.8]))
    assert term.clipped.tolist() == [True, False, False, True]


@pytest.mark.parametrize("advantage", [2.0, -2.0, 0.0])
def test_at_ratio_one_the_gradient_is_minus_the_advantage(advantage: float):
    lp = torch.zeros(1, requires_grad=True)
    term = clipped_policy_loss(lp, torch.zeros(1), torch.tensor([advantage]), clip_range=1e-4)
    term.loss.sum().backward()
    assert lp.grad.item() == -advantage
    assert not term.clipped.any()


def test_the_clip_takes_the_gradient_only_where_the_policy_has_gone_far_enough():
    lp = torch.tensor([0.01, 0.01, -0.01, -0.01], requires_grad=True)
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0])
    term = clipped_policy_loss(lp, torch.zeros(4), advantages, clip_range=1e-4)
    term.loss.sum().backward()
    assert torch.equal(lp.grad == 0, term.clipped)
    assert term.clipped.tolist() == [True, False, False, True]


def test_a_step_of_descent_makes_good_samples_likelier_and_bad_ones_less():
    generator = torch.Generator().manual_seed(0)
    x_t, v, z = (torch.randn(2, 8, 4, generator=generator) for _ in range(3))
    v.requires_grad_()
    times = {"t": 0.8, "t_next": 0.6, "noise_level": 0.7, "t_second": 0.9}
    gaussian = flow_sde_gaussian(x_t, v, **times)
    x_next = draw(gaussian, z, torch.float32).detach()
    old = log_prob(x_next, gaussian)
    clipped_policy_loss(old, old, torch.tensor([1.0, -1.0]), clip_range=1e-4).loss.mean().backward()
    with torch.no_grad():
        after = log_prob(x_next, flow_sde_gaussian(x_t, v - v.grad, **times))
    assert after[0] > old[0]
    assert after[1] < old[1]


def test_no_gradient_reaches_the_rollouts_log_probs_or_the_advantages():
    lp, lp_old, advantages = (torch.zeros(2, requires_grad=True) for _ in range(3))
    clipped_policy_loss(lp, lp_old, advantages + 1, clip_range=0.1).loss.sum().backward()
    assert lp.grad is not None
    assert lp_old.grad is None
    assert advantages.grad is None


def test_gaussian_kl_equals_torchs_own():
    generator = torch.Generator().manual_seed(1)
    mean, mean_ref = (torch.randn(3, 8, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, 0.3), normal(mean_ref, 0.3)).mean(dim=(1, 2))
    torch.testing.assert_close(gaussian_kl(mean, mean_ref, 0.3), expected)


def test_kl_terms_worked_by_hand_vanish_at_the_reference_and_pull_back_to_it():
    v = torch.full((1, 2, 2), 0.2, requires_grad=True)
    # (.2)^2 = .04; with std .1: .04 / .02 = 2
    assert velocity_kl(v, torch.zeros(1, 2, 2)).item() == pytest.approx(0.04)
    kl = gaussian_kl(v, torch.zeros(1, 2, 2), 0.1)
    assert kl.item() == pytest.approx(2.0)
    kl.sum().backward()
    assert bool((v.grad > 0).all())
    assert gaussian_kl(v, v, 0.1).item() == 0.0
    assert velocity_kl(v, v).item() == 0.0


def test_half_precision_is_refused_for_log_probs_and_raised_for_velocities():
    lp = torch.zeros(2, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="lp must be float32 or float64, got"):
        policy_ratio(lp, lp)
    v = torch.full((1, 2, 2), 1 / 3, dtype=torch.bfloat16)
    assert velocity_kl(v, torch.zeros_like(v)).dtype == torch.float32


def test_what_does_not_fit_is_refused():
    two, three = torch.zeros(2), torch.zeros(3)
    with pytest.raises(ValueError, match=r"lp_old must have lp's shape: expected \(2,\), got \(3,\)"):
        policy_ratio(two, three)
    with pytest.raises(ValueError, match="advantages must have lp's shape"):
        clipped_policy_loss(two, two, three, clip_range=0.1)
    with pytest.raises(ValueError, match="clip_range must be above 0"):
        clipped_policy_loss(two, two, two, clip_range=0.0)
    with pytest.raises(ValueError, match="expected std > 0"):
        gaussian_kl(two, two, 0.0)
    with pytest.raises(ValueError, match="both policies must give one shape"):
        velocity_kl(two, three)


def test_a_ratio_far_off_stays_finite_in_the_log_domain():
    assert policy_ratio(torch.tensor([-30.0]), torch.tensor([0.0])).item() == pytest.approx(math.exp(-30))
