"""Offloaded blocks: the same bits as at home on the device, copies that come and go, adapters that stay."""

from __future__ import annotations

import gc
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from divrl_core.config import ModelConfig
from divrl_core.models.flux import FluxAdapter
from divrl_core.models.lora import (
    add_lora,
    disabled_lora,
    freeze_reference,
    lora_parameters,
    lora_state,
    using_adapter,
)
from divrl_core.models.offload import blocks_in_order, offload_blocks, visited_device
from divrl_core.models.pocket_parts import build_transformer
from divrl_core.training.preflight import base_problems

from .held_base import gradient, moved_lora, velocity


@pytest.fixture(scope="module")
def pipeline(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pipeline with two double and two single blocks."""
    folder = tmp_path_factory.mktemp("blocks") / "pipeline"
    shutil.copytree(tiny_pipeline, folder)
    shutil.rmtree(folder / "transformer")
    build_transformer(seed=0, double_blocks=2, single_blocks=2).save_pretrained(folder / "transformer")
    return folder


def with_lora(pipeline: Path, blocks: int, **options: Any) -> FluxAdapter:
    adapter = FluxAdapter.load(str(pipeline), offload_blocks=blocks, **options)
    add_lora(adapter.transformer, 4, 8.0, "attention+ffn", seed=1)
    moved_lora(adapter.transformer)
    adapter.enable_gradient_checkpointing()
    return adapter


class Copies(TorchDispatchMode):
    """Counts copies of one weight's shape, and remembers which of them are alive."""

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.shape, self.made, self.alive = like.shape, 0, weakref.WeakSet[Tensor]()
        self.most_alive = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and made.shape == self.shape:
            self.made += 1
            self.alive.add(made)
            self.most_alive = max(self.most_alive, len(self.alive))
        return made


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("blocks", [1, 3, 4])
def test_offloaded_blocks_give_the_same_bits(pipeline: Path, blocks: int, dtype: str) -> None:
    here, away = with_lora(pipeline, 0, dtype=dtype), with_lora(pipeline, blocks, dtype=dtype)
    with torch.no_grad():
        assert torch.equal(velocity(here), velocity(away))
        with disabled_lora(here.transformer), disabled_lora(away.transformer):
            assert torch.equal(velocity(here), velocity(away))
    (v, gradients), (v_away, gradients_away) = gradient(here), gradient(away)
    assert torch.equal(v, v_away)
    assert gradients.keys() == gradients_away.keys()
    assert all(torch.equal(gradients[name], gradients_away[name]) for name in gradients)
    assert all(
        torch.equal(a, b) for a, b in zip(here.transformer.parameters(), away.transformer.parameters())
    )


def test_copies_are_made_at_each_visit_and_freed_after_it(pipeline: Path) -> None:
    adapter = with_lora(pipeline, 3)
    velocity(adapter).sum()  # encoders and caches first
    weight = blocks_in_order(adapter.transformer)[1].get_submodule("norm1.linear").weight
    assert sum(p.shape == weight.shape for p in adapter.transformer.parameters()) == 4  # two a double block
    with torch.no_grad(), Copies(weight) as rollout:
        velocity(adapter)
    gc.collect()
    assert rollout.made == 2, "of the one double block that is away, once each"
    assert not rollout.alive
    with Copies(weight) as training:
        loss = velocity(adapter).square().mean()
        gc.collect()
        assert training.made == 2 and not training.alive, "a checkpointed forward holds on to nothing"
        loss.backward()
        assert training.made == 4, "made again for the backward pass"
        del loss
    gc.collect()
    assert not training.alive


def test_one_block_visits_at_a_time(pipeline: Path) -> None:
    adapter = with_lora(pipeline, 4)
    velocity(adapter)
    weight = blocks_in_order(adapter.transformer)[0].get_submodule("norm1.linear").weight
    with Copies(weight) as seen:
        velocity(adapter).square().mean().backward()
    assert seen.made == 8 and seen.most_alive <= 2, "two such weights a double block"


def test_the_lora_and_its_reference_stay_and_names_do_not_change(pipeline: Path) -> None:
    here, away = with_lora(pipeline, 0), with_lora(pipeline, 4)
    assert lora_state(here.transformer).keys() == lora_state(away.transformer).keys()
    assert [name for name, _ in here.transformer.named_modules()] == [
        name for name, _ in away.transformer.named_modules()
    ]
    assert (
        visited_device(away.transformer) == torch.device("cpu") and visited_device(here.transformer) is None
    )
    weight = next(iter(lora_parameters(away.transformer).values()))
    with Copies(weight) as seen, torch.no_grad():
        velocity(away)
    assert not seen.made
    freeze_reference(away.transformer)
    with torch.no_grad(), using_adapter(away.transformer, "reference"):
        assert torch.equal(velocity(away), velocity(here))


def test_a_step_of_the_optimizer_is_seen_at_the_next_visit(pipeline: Path) -> None:
    here, away = with_lora(pipeline, 0), with_lora(pipeline, 4)
    for adapter in (here, away):
        parameters = list(lora_parameters(adapter.transformer).values())
        optimizer = torch.optim.AdamW(parameters, lr=1e-2)
        velocity(adapter).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        assert torch.equal(velocity(here), velocity(away))


def test_more_blocks_than_there_are_is_an_error_that_names_the_count(pipeline: Path) -> None:
    words = r"model\.offload_blocks=5: this transformer has 4 blocks; set it to at most 4"
    with pytest.raises(ValueError, match=words):
        _ = FluxAdapter.load(str(pipeline), offload_blocks=5).transformer
    with pytest.raises(ValueError, match=words):
        offload_blocks(build_transformer(seed=0, double_blocks=2, single_blocks=2), 5, torch.device("cpu"))
    [line] = base_problems(ModelConfig(offload_blocks=5), pipeline / "transformer")
    assert line == "model.offload_blocks=5: this transformer has 4 blocks; set it to at most 4"
    assert not base_problems(ModelConfig(offload_blocks=4), pipeline / "transformer")
    [line] = base_problems(ModelConfig(offload_blocks=1, gradient_checkpointing=False), None)
    assert line.startswith("model.offload_blocks=1 needs model.gradient_checkpointing=true")
