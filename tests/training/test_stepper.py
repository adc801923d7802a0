"""The optimizer beside the weights and in host memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from divrl_core.config import OptimConfig
from divrl_core.training.checkpoint import latest_checkpoint, load_checkpoint
from divrl_core.training.grpo_loop import train
from divrl_core.training.stepper import Stepper

from .alone import ALONE
from .tiny_run import tiny_config, toy_data


def weights(seed: int = 0) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return {name: nn.Parameter(torch.randn(3, 4, generator=generator)) for name in ("a", "b")}


def steps(stepper: Stepper, parameters: dict[str, nn.Parameter], count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        stepper.lr = 1e-2 / (number + 1)
        for place, parameter in enumerate(parameters.values()):
            generator = torch.Generator().manual_seed(100 * number + place)
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        stepper.step()
        stepper.zero_grad()


@pytest.mark.parametrize("name", ["adamw", "prodigy"])
def test_an_optimizer_in_host_memory_makes_the_same_steps(name: str) -> None:
    config = OptimConfig(name=name)  # type: ignore[arg-type]
    beside, away = weights(), weights()
    one = Stepper(config, beside, ALONE)
    other = Stepper(OptimConfig(name=name, offload=True), away, ALONE)  # type: ignore[arg-type]
    steps(one, beside, 3)
    steps(other, away, 3)
    for key, parameter in beside.items():
        assert torch.equal(parameter, away[key])
        assert away[key].grad is None
    saved, again = one.tensors(), other.tensors()
    assert saved.keys() == again.keys()
    assert all(torch.equal(saved[key], again[key]) for key in saved)


def test_a_stepper_in_host_memory_holds_no_moments_by_the_parameters_themselves() -> None:
    parameters = weights()
    stepper = Stepper(OptimConfig(offload=True), parameters, ALONE)
    steps(stepper, parameters, 1)
    held = set(stepper.optimizer.state)
    assert len(held) == 2 and not held & set(parameters.values())


@pytest.mark.parametrize("is_offloaded", [False, True])
def test_a_stepper_goes_on_exactly_from_what_it_saved(is_offloaded: bool) -> None:
    config = OptimConfig(offload=is_offloaded)
    unbroken, broken = weights(), weights()
    steps(Stepper(config, unbroken, ALONE), unbroken, 4)
    first = Stepper(config, broken, ALONE)
    steps(first, broken, 2)
    second = Stepper(config, broken, ALONE)
    second.load(first.tensors())
    steps(second, broken, 2, first=2)
    assert all(torch.equal(unbroken[key], broken[key]) for key in unbroken)


def test_a_run_with_its_optimizer_in_host_memory_is_the_same_run(tiny_pipeline: Path, tmp_path: Path) -> None:
    states = []
    for is_offloaded in (False, True):
        output = tmp_path / str(is_offloaded)
        config = tiny_config(tiny_pipeline, optim={"offload": is_offloaded}, run={"updates": 2})
        train(config, output, data=toy_data())
        states.append(load_checkpoint(latest_checkpoint(output / "checkpoint")))  # type: ignore[arg-type]
    for name, value in states[0].parameters.items():
        assert torch.equal(value, states[1].parameters[name])
