"""Compiled blocks (backend aot_eager: dynamo and autograd are real, no kernels are generated): near the plain ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from divrl_core.models import transformer_load
from divrl_core.models.flux import FluxAdapter
from divrl_core.models.lora import add_lora, disabled_lora

from .held_base import gradient, moved_lora, velocity

TARGETS = r"(single_)?transformer_blocks\.0\.attn\.to_[qv]"  # few: tracing is what takes the time here


@pytest.fixture(autouse=True)
def no_generated_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(transformer_load, "COMPILE_BACKEND", "aot_eager")


def test_compiled_blocks_obey_checkpointing_adapters_and_the_kernel(tiny_pipeline: Path) -> None:
    plain = FluxAdapter.load(str(tiny_pipeline))
    compiled = FluxAdapter.load(str(tiny_pipeline), compile=True)
    for adapter in (plain, compiled):
        add_lora(adapter.transformer, 4, 8.0, TARGETS, seed=1)
        moved_lora(adapter.transformer)
        adapter.enable_gradient_checkpointing()
    with torch.no_grad():
        rollout, expected = velocity(compiled), velocity(plain)
    assert counters["frames"]["ok"] >= 2, "a double and a single block were compiled"
    assert torch.allclose(rollout, expected, atol=1e-5)
    (v, gradients), (_, true_gradients) = gradient(compiled), gradient(plain)
    assert (v - rollout).abs().max() < 1e-5
    for name, value in true_gradients.items():
        assert torch.allclose(gradients[name], value, atol=1e-4 * value.abs().max().item())
    with torch.no_grad(), disabled_lora(compiled.transformer), disabled_lora(plain.transformer):
        base = velocity(compiled)
        assert torch.allclose(base, velocity(plain), atol=1e-5)
    assert not torch.allclose(base, rollout, atol=1e-4)
    moved_lora(compiled.transformer, seed=6)
    moved_lora(plain.transformer, seed=6)
    frames = counters["frames"]["total"]
    with torch.no_grad():
        assert torch.allclose(velocity(compiled), velocity(plain), atol=1e-5), "new weights, the same graphs"
    assert counters["frames"]["total"] == frames, "switched back and moved on without compiling again"
    assert not counters["graph_break"]
