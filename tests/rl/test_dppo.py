"""Flow-DPPO's loss: worked by hand, inert on-policy, and the clip's gradient where nothing is dropped."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from divrl_core.rl.dppo import dppo_policy_loss
from divrl_core.rl.grpo import PolicyTerm, clipped_policy_loss


def term(
    ratio: list[float], advantages: list[float], moved: list[float], threshold: float
) -> tuple[PolicyTerm, Tensor]:
    """Steps of std .5 whose means moved by a constant, and the log-probabilities, ready for backward."""
    lp = torch.tensor(ratio).log().requires_grad_()
    mean_old = torch.ones(len(ratio), 2, 3)
    mean = mean_old + torch.tensor(moved)[:, None, None]
    found = dppo_policy_loss(
        lp,
        torch.zeros(len(ratio)),
        torch.tensor(advantages),
        mean=mean,
        mean_old=mean_old,
        std=0.5,
        threshold=threshold,
    )
    return found, lp


def test_loss_worked_by_hand() -> None:
    # D = moved^2 / (2 * .25): .1 gives .02, .2 gives .08. With tau = .05 only the last four have gone too far;
    # of these A > 0 with rho > 1 and A < 0 with rho < 1 go further out and are dropped.
    ratio, advantages = [1.2, 0.8, 1.2, 1.2, 0.8, 0.8], [2.0, -2.0, 2.0, -2.0, 2.0, -2.0]
    found, lp = term(ratio, advantages, [0.1, 0.1, 0.2, 0.2, 0.2, 0.2], 0.05)
    torch.testing.assert_close(found.loss, torch.tensor([-2.4, 1.6, 0.0, 2.4, -1.6, 0.0]))
    torch.testing.assert_close(found.ratio, torch.tensor(ratio))
    assert found.clipped.tolist() == [False, False, True, False, False, True]
    # The gradient of -A rho in the log-probability is the loss itself.
    found.loss.sum().backward()
    torch.testing.assert_close(lp.grad, found.loss.detach())


def test_the_threshold_itself_drops() -> None:
    assert term([2.0], [1.0], [0.5], 0.5)[0].clipped.tolist() == [True]  # .25 / .5 = .5 exactly
    assert term([2.0], [1.0], [0.5], 0.5001)[0].clipped.tolist() == [False]


@settings(deadline=None)
@given(advantage=st.floats(-5, 5, width=32))
def test_on_policy_nothing_is_dropped_however_small_the_threshold(advantage: float) -> None:
    found, lp = term([1.0], [advantage], [0.0], 1e-30)
    found.loss.sum().backward()
    assert not found.clipped.any()
    assert lp.grad is not None and lp.grad.item() == -advantage


@settings(deadline=None)
@given(
    ratio=st.floats(0.5, 1.75, width=32),
    advantage=st.floats(-5, 5, width=32),
    moved=st.floats(0, 0.125, width=32),
)
def test_where_nothing_is_dropped_or_clipped_loss_and_gradient_are_the_clips(
    ratio: float, advantage: float, moved: float
) -> None:
    found, lp = term([ratio], [advantage], [moved], 0.05)
    other_lp = lp.detach().clone().requires_grad_()
    other = clipped_policy_loss(other_lp, torch.zeros(1), torch.tensor([advantage]), clip_range=0.95)
    assert not found.clipped.any() and not other.clipped.any()
    for one in (found, other):
        one.loss.sum().backward()
    assert torch.equal(found.loss, other.loss) and torch.equal(lp.grad, other_lp.grad)


def test_no_gradient_flows_through_the_divergence_or_into_the_rollout() -> None:
    lp, lp_old, advantages = (torch.zeros(2, requires_grad=True) for _ in range(3))
    mean, mean_old = (torch.ones(2, 2, 3, requires_grad=True) for _ in range(2))
    found = dppo_policy_loss(
        lp, lp_old, advantages + 1, mean=mean * 2, mean_old=mean_old, std=1.0, threshold=0.1
    )
    found.loss.sum().backward()
    assert lp.grad is not None
    assert [given.grad for given in (lp_old, advantages, mean, mean_old)] == [None] * 4


def test_what_does_not_fit_is_refused() -> None:
    two, means = torch.zeros(2), {"mean": torch.zeros(2, 3), "mean_old": torch.zeros(2, 3)}
    with pytest.raises(ValueError, match=r"threshold must be above 0, got 0\.0"):
        dppo_policy_loss(two, two, two, **means, std=1.0, threshold=0.0)
    with pytest.raises(ValueError, match=r"advantages must have lp's shape: expected \(2,\), got \(3,\)"):
        dppo_policy_loss(two, two, torch.zeros(3), **means, std=1.0, threshold=1e-5)
    with pytest.raises(ValueError, match="both policies must give one shape"):
        dppo_policy_loss(
            two, two, two, mean=torch.zeros(2, 3), mean_old=torch.zeros(2, 4), std=1.0, threshold=1e-5
        )
    with pytest.raises(ValueError, match="expected std > 0"):
        dppo_policy_loss(two, two, two, **means, std=0.0, threshold=1e-5)
