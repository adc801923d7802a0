"""Muon in float32 takes torch's own steps, and makes matrices orthogonal."""

from __future__ import annotations

import pytest
import torch

from divrl_core.pocket.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(16, 48), (48, 16), (24, 24)])
def test_singular_values_come_near_one_and_singular_vectors_stay(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.T @ orthogonal(matrix) @ vh.T
    values = inner.diagonal()
    assert values.min() > 0.6 and values.max() < 1.25
    assert (inner - torch.diag(values)).abs().max() < 1e-3


@pytest.mark.parametrize("shape", [(16, 48), (48, 16)])
def test_steps_are_those_of_torch_to_bfloat16(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(shape, generator=generator)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    steps = (
        Muon([ours], lr=1e-2),
        torch.optim.Muon([theirs], lr=1e-2, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(3):
        gradient = torch.randn(shape, generator=generator)
        for weight, optimizer in zip((ours, theirs), steps, strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
    moved = (ours - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved
    assert set(steps[0].state[ours]) == set(steps[1].state[theirs]), (
        "a state saved by either loads in the other"
    )
