"""The last block answers for the target alone, with the numbers that diffusers' own block gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock

from divrl_core.models.flux import FluxAdapter
from divrl_core.models.last_block import LastBlock
from divrl_core.models.lora import add_lora, lora_parameters

SIZE_PX = 64


def conditions(adapter: FluxAdapter) -> tuple[torch.Tensor, torch.Tensor, object]:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(2, 3, SIZE_PX, SIZE_PX, generator=generator)
    given = adapter.encode(["a toy fox", "a toy robot"], pictures)
    x_t = torch.randn(2, *adapter.latent_shape(SIZE_PX, SIZE_PX), generator=generator)
    return x_t, adapter.target_ids(SIZE_PX, SIZE_PX), given


def with_lora(path: Path, attention: str, *, is_whole: bool) -> FluxAdapter:
    adapter = FluxAdapter.load(str(path), attention=attention)
    if is_whole:  # diffusers' own class again
        for block in adapter.transformer.single_transformer_blocks:  # type: ignore[union-attr]
            block.__class__ = FluxSingleTransformerBlock
    add_lora(adapter.transformer, 4, 8.0, "attention+ffn", seed=0)
    for name, weight in lora_parameters(adapter.transformer).items():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(1))
    return adapter


@pytest.mark.parametrize("attention", ["math", "flash"])
@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_velocity_and_gradient_are_those_of_the_whole_block(
    tiny_pipeline: Path, attention: str, is_checkpointed: bool
) -> None:
    results = []
    for is_whole in (False, True):
        adapter = with_lora(tiny_pipeline, attention, is_whole=is_whole)
        blocks = list(adapter.transformer.single_transformer_blocks)  # type: ignore[arg-type]
        assert isinstance(blocks[-1], LastBlock) is not is_whole
        if is_checkpointed:
            adapter.enable_gradient_checkpointing()
        x_t, ids, given = conditions(adapter)
        velocity = adapter.velocity(x_t, 0.4, given, ids, 2.5)  # type: ignore[arg-type]
        velocity.square().mean().backward()
        gradients = [p.grad for p in lora_parameters(adapter.transformer).values()]
        results.append((velocity.detach(), torch.cat([g.flatten() for g in gradients if g is not None])))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-5)
    assert torch.allclose(results[0][1], results[1][1], rtol=1e-3, atol=1e-6)
    assert results[1][1].abs().max() > 1e-4


def test_the_whole_canvas_is_answered_where_it_is_asked_for(tiny_pipeline: Path) -> None:
    adapter = FluxAdapter.load(str(tiny_pipeline))
    x_t, ids, given = conditions(adapter)
    with torch.no_grad():
        part = adapter.velocity(x_t, 0.4, given, ids, 2.5)  # type: ignore[arg-type]
        canvas, whole = adapter.canvas_velocity(x_t, 0.4, given, ids, 2.5)  # type: ignore[arg-type]
        again = adapter.velocity(x_t, 0.4, given, ids, 2.5)  # type: ignore[arg-type]
    assert whole.shape[1] == canvas.tokens.shape[1] == 2 * x_t.shape[1]
    assert torch.allclose(whole[:, : x_t.shape[1]], part, atol=1e-5)
    assert torch.equal(part, again)


def test_weights_and_names_stay_diffusers_own(tiny_pipeline: Path) -> None:
    adapter = FluxAdapter.load(str(tiny_pipeline))
    own = FluxTransformer2DModel.from_pretrained(tiny_pipeline / "transformer")
    mine = adapter.transformer.state_dict()
    assert mine.keys() == own.state_dict().keys()
    assert all(torch.equal(value, mine[name]) for name, value in own.state_dict().items())
