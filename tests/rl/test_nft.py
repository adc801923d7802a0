"""DiffusionNFT's loss: worked by hand, its laws at the old policy, and which way it pulls."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from divrl_core.flow.path import interpolate
from divrl_core.rl.nft import nft_loss, old_decay, optimality


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_advantages_become_a_share_between_0_and_1() -> None:
    # a = 5: -5 and below 0, 0 a half, 2 is 2/10 + 1/2.
    found = optimality(torch.tensor([-9.0, -5.0, 0.0, 2.0, 5.0, 9.0]), 5.0)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.0, 0.5, 0.7, 1.0, 1.0]))
    with pytest.raises(ValueError, match="a must be above 0"):
        optimality(torch.zeros(1), 0.0)


def test_loss_worked_by_hand() -> None:
    # One token of two channels. t = .5, x_0 = (1, 2), eps = (0, 0): x_t = (.5, 1). v = (1, 0), v_old = (0, 0), b = .5:
    # v+ = (.5, 0), v- = 1.5 v_old - .5 v = (-.5, 0). x0+ = x_t - .5 v+ = (.25, 1): error (-.75, -1), w+ = .875,
    # mean square (.5625 + 1)/2 = .78125. x0- = (.75, 1): error (-.25, -1), w- = .625, mean square .53125.
    # r = .7, a = 5: (5/.5)(.7 .78125/.875 + .3 .53125/.625) = 10 (.625 + .255) = 8.8.
    x_0, x_t = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[0.5, 1.0]]])
    v = torch.tensor([[[1.0, 0.0]]], requires_grad=True)
    loss = nft_loss(v, torch.zeros(1, 1, 2), x_0=x_0, x_t=x_t, t=0.5, r=torch.tensor([0.7]), a=5.0, b=0.5)
    torch.testing.assert_close(loss, torch.tensor([8.8]))
    # Its gradient with w held: 10 (.7 2 (-.75)(-.25)/.875/2 + .3 2 (-.25)(.25)/.625/2) in the first channel,
    # d x0+/dv = -t b = -.25, d x0-/dv = .25: 10 (.15 - .03) = 1.2; in the second 10 (.7 .25/.875 - .3 .25/.625) = .8.
    loss.sum().backward()
    torch.testing.assert_close(v.grad, torch.tensor([[[1.2, 0.8]]]))


def gradient(
    r: float, *, b: float, moved: float = 0.0, t: float = 0.6, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """The loss's gradient in v at v_old (or beside it), and the pull ``eps - x_0 - v``, in float64."""
    x_0, eps, v_old, way = (randn(1, 4, 3, seed=4 * seed + k) for k in range(4))
    v = (v_old + moved * way).requires_grad_()
    x_t = interpolate(x_0, eps, t)
    r_of_sample = torch.tensor([r], dtype=torch.float64)
    nft_loss(v, v_old, x_0=x_0, x_t=x_t, t=t, r=r_of_sample, a=5.0, b=b).sum().backward()
    assert v.grad is not None
    return v.grad, eps - x_0 - v.detach()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_at_r_one_half_and_the_old_policy_the_gradient_is_exactly_0(dtype: torch.dtype) -> None:
    v_old = randn(2, 4, 3, seed=1).to(dtype)
    v = v_old.clone().requires_grad_()
    x_0, x_t = randn(2, 4, 3, seed=2).float(), randn(2, 4, 3, seed=3).float()
    t, r = torch.tensor([0.3, 1.0]), torch.full((2,), 0.5)
    nft_loss(v, v_old, x_0=x_0, x_t=x_t, t=t, r=r, a=5.0, b=1.0).sum().backward()
    assert v.grad is not None and not v.grad.any()


@settings(deadline=None, max_examples=25)
@given(r=st.floats(0, 1), b=st.sampled_from([0.1, 0.5, 1.0]), t=st.floats(0.1, 1.0), seed=st.integers(0, 50))
def test_at_the_old_policy_the_gradient_is_along_the_pull_times_one_minus_2r_whatever_b(
    r: float, b: float, t: float, seed: int
) -> None:
    found, pull = gradient(r, b=b, t=t, seed=seed)
    # d/dv (a/b)[r |p+|^2/w + (1 - r)|p-|^2/w]/n at p+ = p- = t pull: -2 a t (2r - 1) t pull / (w n), w = mean |t pull|.
    error = t * pull
    expected = -2 * 5.0 * t * (2 * r - 1) * error / (error.abs().mean() * error.numel())
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("r", "sign"), [(1.0, 1), (0.0, -1)])
def test_a_good_sample_pulls_the_velocity_to_it_and_a_bad_one_pushes_it_away(r: float, sign: int) -> None:
    found, pull = gradient(r, b=0.5)
    cosine = torch.nn.functional.cosine_similarity(-found.flatten(), pull.flatten(), dim=0)
    assert cosine.item() == pytest.approx(sign)


def test_r_one_half_holds_the_velocity_to_the_old_one() -> None:
    """Beside v_old a step of descent leads back, whichever way the velocity had gone."""
    for seed in range(8):
        found, _ = gradient(0.5, b=1.0, moved=1e-3, seed=seed)
        way = randn(1, 4, 3, seed=4 * seed + 3)
        assert (found * way).sum() > 0


def test_a_smaller_b_moves_the_best_velocity_further_away() -> None:
    """Along the pull of a sample of r = 1 the loss is least where v+ is eps - x_0, at 1/b of the way."""
    x_0, eps, v_old = (randn(1, 4, 3, seed=k) for k in range(3))
    x_t, shares = interpolate(x_0, eps, 0.6), torch.linspace(0, 4, 81, dtype=torch.float64)

    def best(b: float) -> float:
        losses = [
            nft_loss(
                v_old + share * (eps - x_0 - v_old),
                v_old,
                x_0=x_0,
                x_t=x_t,
                t=0.6,
                r=torch.ones(1, dtype=torch.float64),
                a=5.0,
                b=b,
            ).item()
            for share in shares
        ]
        return shares[losses.index(min(losses))].item()

    assert [best(b) for b in (1.0, 0.5)] == pytest.approx([1.0, 2.0])


def test_no_gradient_flows_into_the_old_policy_and_the_weight_has_a_floor() -> None:
    x_0 = randn(1, 4, 3, seed=0)
    v_old = randn(1, 4, 3, seed=1).requires_grad_()
    v = v_old.detach().clone().requires_grad_()
    # x_t chosen so that v points at x_0 exactly: no error, and no division by 0.
    x_t = x_0 + 0.5 * v.detach()
    loss = nft_loss(v, v_old, x_0=x_0, x_t=x_t, t=0.5, r=torch.ones(1), a=5.0, b=1.0)
    loss.sum().backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-12) and v.grad is not None and v_old.grad is None


def test_the_old_policy_is_the_policy_at_first_and_lags_later() -> None:
    found = [old_decay(step, rate=0.001, most=0.5) for step in (0, 1, 100, 500, 9000)]
    assert found == pytest.approx([0.0, 0.001, 0.1, 0.5, 0.5])


def test_what_does_not_fit_is_refused() -> None:
    good = torch.zeros(2, 3, 4)
    fitting = {"x_0": good, "x_t": good, "t": 0.5, "r": torch.zeros(2), "a": 5.0, "b": 1.0}
    nft_loss(good, good, **fitting)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"one shape \(B, N, C\) and r \(B,\): got .*\(2, 3, 5\)"):
        nft_loss(good, torch.zeros(2, 3, 5), **fitting)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"and r \(B,\)"):
        nft_loss(good, good, **fitting | {"r": torch.zeros(3)})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a and b must be above 0"):
        nft_loss(good, good, **fitting | {"b": 0.0})  # type: ignore[arg-type]
