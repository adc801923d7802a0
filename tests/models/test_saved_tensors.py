"""What a plan counts of a forward pass, against the tensors that autograd truly keeps in a real one."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from divrl_core.models.flux import FluxAdapter
from divrl_core.models.last_block import prepare_last_block
from divrl_core.models.live_tensors import LiveTensors
from divrl_core.models.lora import add_lora, lora_parameters
from divrl_core.models.lora_numbers import lora_numbers
from divrl_core.models.pipeline_config import pipeline_config
from divrl_core.models.pocket_parts import build_transformer
from divrl_core.models.published_configs import PUBLISHED_PARTS
from divrl_core.models.saved_tensors import SavedTensors, saved_tensors
from divrl_core.models.traced_model import TraceRequest, config_key, transformer_on_meta
from divrl_core.models.transformer_flops import transformer_flops
from divrl_core.models.transformer_trace import KINDS, trace_transformer

SIZE_PX, RANK = 64, 4
PUBLISHED = config_key(PUBLISHED_PARTS["transformer"])


def real_adapter(folder: Path, dtype: str, *, attention: str = "math") -> FluxAdapter:
    adapter = FluxAdapter.load(str(folder), dtype=dtype, attention=attention)
    add_lora(adapter.transformer, RANK, 8.0, "attention+ffn", seed=0)
    for name, weight in lora_parameters(adapter.transformer).items():
        if name.endswith("lora_B.weight"):
            nn.init.normal_(weight, std=0.02)
    return adapter


def run(adapter: FluxAdapter, batch: int, *, autocast: bool = False) -> torch.Tensor:
    shape = adapter.latent_shape(SIZE_PX, SIZE_PX)
    given = adapter.encode(["a toy fox on a blue floor"] * batch, torch.rand(batch, 3, SIZE_PX, SIZE_PX))
    ids = adapter.target_ids(SIZE_PX, SIZE_PX)
    with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        return adapter.velocity(torch.randn(batch, *shape), 0.5, given, ids, 2.5)


def blocks_of(transformer: nn.Module) -> dict[str, nn.Module]:
    return {
        f"{kind}.{place}": block
        for kind, name in KINDS.items()
        for place, block in enumerate(getattr(transformer, name))
    }


def really_saved(adapter: FluxAdapter, batch: int, *, autocast: bool = False) -> SavedTensors:
    with saved_tensors(adapter.transformer, blocks_of(adapter.transformer)) as saved:
        velocity = run(adapter, batch, autocast=autocast)
    velocity.sum().backward()
    return saved


def request(adapter: FluxAdapter, batch: int, **changed: Any) -> TraceRequest:
    settings: dict[str, Any] = {
        "config": config_key(adapter.transformer.config),  # type: ignore[arg-type]
        "dtype": adapter.dtype,
        "lora_rank": RANK,
        "lora_targets": "attention+ffn",
        "batch": batch,
        "image_tokens": 2 * adapter.token_count(SIZE_PX, SIZE_PX),
        "text_tokens": adapter.max_text_tokens,
        "target_tokens": adapter.token_count(SIZE_PX, SIZE_PX),
        "device": "cpu",
        "attention": "math",
    }
    return TraceRequest(**settings | changed)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_are_those_of_a_real_forward_pass(tiny_pipeline: Path, dtype: str, batch: int) -> None:
    adapter = real_adapter(tiny_pipeline, dtype)
    planned = trace_transformer(request(adapter, batch)).saved
    assert planned == pytest.approx(really_saved(adapter, batch).total, rel=0.02)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_checkpointed_activations_are_those_of_a_real_forward_pass(
    tiny_pipeline: Path, dtype: str, batch: int
) -> None:
    adapter = real_adapter(tiny_pipeline, dtype)
    every = really_saved(adapter, batch).by_part
    largest = max(size for part, size in every.items() if part in blocks_of(adapter.transformer))
    adapter.enable_gradient_checkpointing()
    between = really_saved(adapter, batch).total
    planned = trace_transformer(request(adapter, batch))
    assert planned.largest_block == pytest.approx(largest, rel=0.02)
    assert planned.checkpointed == pytest.approx(between + largest, rel=0.02)
    assert planned.checkpointed < planned.saved


def test_under_autocast_the_copies_that_it_makes_are_counted(tiny_pipeline: Path) -> None:
    adapter = real_adapter(tiny_pipeline, "bfloat16")
    planned = trace_transformer(request(adapter, 2, autocast=True)).saved
    assert planned == pytest.approx(really_saved(adapter, 2, autocast=True).total, rel=0.02)
    assert planned != trace_transformer(request(adapter, 2)).saved


def test_each_attention_kernel_keeps_what_it_keeps(tiny_pipeline: Path) -> None:
    math, flash = (real_adapter(tiny_pipeline, "float32", attention=name) for name in ("math", "flash"))
    planned = trace_transformer(request(math, 3, attention="auto")).saved
    assert planned == pytest.approx(really_saved(flash, 3).total, rel=0.02)
    many = {
        name: trace_transformer(request(math, 3, attention=name, image_tokens=1024, target_tokens=None)).saved
        for name in ("math", "auto")
    }
    weights = 3 * (1024 + math.max_text_tokens) ** 2 * 4  # of one head in each of the two blocks
    assert many["math"] - many["auto"] > weights


def test_blocks_that_were_not_run_count_like_the_second_of_their_kind(tiny_pipeline: Path) -> None:
    adapter = real_adapter(tiny_pipeline, "float32")
    adapter.transformer = build_transformer(seed=0, heads=1, double_blocks=4, single_blocks=5)
    prepare_last_block(adapter.transformer)
    add_lora(adapter.transformer, RANK, 8.0, "attention+ffn", seed=0)
    saved = really_saved(adapter, 2)
    planned = trace_transformer(request(adapter, 2))
    assert planned.saved == saved.total
    adapter.enable_gradient_checkpointing()
    assert planned.between == really_saved(adapter, 2).total


def test_memory_grows_on_a_straight_line_with_the_batch() -> None:
    few, more, many = (
        trace_transformer(replace(full_request(), batch=batch)).checkpointed for batch in (1, 2, 5)
    )
    assert many == few + 4 * (more - few)


def test_a_traced_peak_is_the_peak_of_real_tensors(tiny_pipeline: Path) -> None:
    adapter = real_adapter(tiny_pipeline, "float32")
    planned = trace_transformer(request(adapter, 3))
    parameters = list(adapter.transformer.parameters())
    adapter.encode(["warm"], torch.rand(1, 3, SIZE_PX, SIZE_PX))
    given = adapter.encode(["a toy fox"] * 3, torch.rand(3, 3, SIZE_PX, SIZE_PX))
    x_t, ids = torch.randn(3, *adapter.latent_shape(SIZE_PX, SIZE_PX)), adapter.target_ids(SIZE_PX, SIZE_PX)
    with torch.no_grad(), LiveTensors(parameters) as live:
        adapter.velocity(x_t, 0.5, given, ids, 2.5)
    assert planned.sampling == pytest.approx(live.peak, rel=0.1)


def test_a_live_storage_is_counted_from_birth_to_death() -> None:
    with LiveTensors() as live:
        first = torch.ones(1000)
        view = first.view(10, 100)
        second = first + 1
        del first
        assert live.live == 8000  # the view holds the first
        del view, second
        product = torch.ones(8, 16) @ torch.ones(16, 4)
        del product
    assert (live.peak, live.live) == (8000, 0)
    assert live.flops == {torch.float32: 2 * 8 * 16 * 4}


def test_operations_agree_with_torch_on_the_real_model(tiny_pipeline: Path) -> None:
    adapter = real_adapter(tiny_pipeline, "float32")
    adapter.transformer = build_transformer(seed=0, heads=1, double_blocks=3, single_blocks=4)
    prepare_last_block(adapter.transformer)
    add_lora(adapter.transformer, RANK, 8.0, "attention+ffn", seed=0)
    given = adapter.encode(["a toy fox"], torch.rand(1, 3, SIZE_PX, SIZE_PX))
    x_t, ids = torch.randn(1, *adapter.latent_shape(SIZE_PX, SIZE_PX)), adapter.target_ids(SIZE_PX, SIZE_PX)
    planned = transformer_flops(request(adapter, 1))
    with FlopCounterMode(display=False) as forward:
        velocity = adapter.velocity(x_t, 0.5, given, ids, 2.5)
    with FlopCounterMode(display=False) as backward:
        velocity.sum().backward()
    assert sum(planned.forward.values()) == forward.get_total_flops()
    assert sum(planned.training.values()) == forward.get_total_flops() + backward.get_total_flops()


def full_request() -> TraceRequest:
    return TraceRequest(
        config=PUBLISHED,
        dtype=torch.bfloat16,
        lora_rank=64,
        lora_targets="attention+ffn",
        batch=3,
        image_tokens=2048,
        text_tokens=128,
    )


def test_the_published_flux_has_its_known_size() -> None:
    transformer = transformer_on_meta(PUBLISHED, torch.bfloat16)
    assert sum(parameter.numel() for parameter in transformer.parameters()) == 11_901_408_320
    numbers = lora_numbers(PUBLISHED, "attention+ffn", 512)
    assert len(numbers) == 2 * 418
    assert sum(numbers) == pytest.approx(2.09e9, rel=0.01)


def test_a_lora_in_float32_makes_a_bfloat16_base_keep_float32_copies() -> None:
    plain, cast = (trace_transformer(replace(full_request(), autocast=on)).saved for on in (False, True))
    assert plain > 1.2 * cast


def test_eight_bit_layers_keep_their_inputs() -> None:
    plain, kept = (
        trace_transformer(replace(full_request(), keeps_inputs=on)).largest_block for on in (False, True)
    )
    assert kept > plain


def test_a_hub_id_that_cannot_be_reached_is_planned_as_published_or_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    found = pipeline_config("black-forest-labs/FLUX.1-Kontext-dev")
    assert found.layout == "kontext"
    assert found.blocks == (19, 38)
    assert "published configuration" in (found.remark or "")
    with pytest.raises(FileNotFoundError, match="the hub cannot be reached"):
        pipeline_config("somebody/another-model")
    with pytest.raises(FileNotFoundError, match="no folder"):
        pipeline_config("nowhere")
