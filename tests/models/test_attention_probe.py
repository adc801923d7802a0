"""Attention read from a running model, against a computation from the blocks' own inputs and weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from divrl_core.models.attention_probe import (
    BlockAttention,
    attention_probe,
    block_names,
    check_blocks,
    default_blocks,
)
from divrl_core.models.conditioning import Conditioning
from divrl_core.models.flux import FluxAdapter
from divrl_core.models.hub import open_pipeline
from divrl_core.models.layout import LAYOUTS, grid_ids, text_ids
from divrl_core.models.pocket_parts import POOLED_WIDTH, TEXT_WIDTH, build_transformer

PROMPTS = ["a toy fox on a blue floor", "a robot in the snow"]
TEXT, TARGET, REFERENCE = 5, (3, 4), (2, 4)
HEIGHT, WIDTH = 48, 64
BLOCKS = ("double.0", "double.1", "single.0", "single.1")
TOKENS = (7, 0, 11)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def transformer() -> FluxTransformer2DModel:
    """Two heads and two blocks of each kind."""
    with torch.random.fork_rng():
        return build_transformer(seed=3, heads=2, double_blocks=2, single_blocks=2).requires_grad_(False)


@pytest.fixture(scope="module")
def adapter(tiny_pipeline: Path) -> FluxAdapter:
    return FluxAdapter.load(str(tiny_pipeline))


def run(transformer: FluxTransformer2DModel, layout: str) -> Tensor:
    """Two samples whose target has 3 x 4 tokens and whose reference has 2 x 4."""
    ids = torch.cat([grid_ids(*TARGET), LAYOUTS[layout](REFERENCE, TARGET)])
    return transformer(
        hidden_states=randn(2, len(ids), 64),
        timestep=torch.tensor([0.3, 0.8]),
        guidance=torch.tensor([1.0, 2.5]),
        pooled_projections=randn(2, POOLED_WIDTH, seed=1),
        encoder_hidden_states=randn(2, TEXT, TEXT_WIDTH, seed=2),
        txt_ids=text_ids(TEXT),
        img_ids=ids,
        return_dict=False,
    )[0]


def probe_of(transformer: nn.Module, **changed: Any) -> Any:
    given = {"blocks": BLOCKS, "target_tokens": TOKENS, "text_count": TEXT, "target_count": 12}
    return attention_probe(transformer, **(given | changed))


def attention_module(transformer: nn.Module, block: str) -> nn.Module:
    kind, place = block.split(".")
    blocks = {"double": transformer.transformer_blocks, "single": transformer.single_transformer_blocks}[kind]
    return blocks[int(place)].attn


# Agreement with an independent computation


@contextmanager
def inputs_of(transformer: nn.Module) -> Iterator[dict[str, dict[str, Any]]]:
    """What each block's attention module is called with."""
    seen: dict[str, dict[str, Any]] = {}
    handles = [
        attention_module(transformer, block).register_forward_pre_hook(
            lambda _module, _args, kwargs, block=block: seen.update({block: kwargs}), with_kwargs=True
        )
        for block in BLOCKS
    ]
    yield seen
    for handle in handles:
        handle.remove()


def turned(vectors: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of (B, S, H, D): neighbouring numbers are a complex number, turned by an angle."""
    pairs = torch.view_as_complex(vectors.unflatten(-1, (-1, 2)).contiguous())
    turn = torch.complex(cos[:, ::2], sin[:, ::2])
    return torch.view_as_real(pairs * turn[None, :, None]).flatten(-2)


def whole_attention(module: Any, given: Mapping[str, Any]) -> Tensor:
    """The whole matrix (B, H, S, S), in float64, from the module's own projections, norms and angles."""
    image, text = given["hidden_states"], given.get("encoder_hidden_states")
    query = module.norm_q(module.to_q(image).unflatten(-1, (2, -1)))
    key = module.norm_k(module.to_k(image).unflatten(-1, (2, -1)))
    if text is not None:
        text_query = module.norm_added_q(module.add_q_proj(text).unflatten(-1, (2, -1)))
        text_key = module.norm_added_k(module.add_k_proj(text).unflatten(-1, (2, -1)))
        query, key = torch.cat([text_query, query], dim=1), torch.cat([text_key, key], dim=1)
    cos, sin = (part.double() for part in given["image_rotary_emb"])
    query, key = turned(query.double(), cos, sin), turned(key.double(), cos, sin)
    return (torch.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5).softmax(dim=-1)


@pytest.mark.parametrize("layout", ["kontext", "width", "diagonal"])
def test_attention_is_that_of_the_blocks_own_queries_and_keys(
    transformer: FluxTransformer2DModel, layout: str
) -> None:
    with torch.no_grad(), inputs_of(transformer) as given, probe_of(transformer, per_head=True) as found:
        run(transformer, layout)
    assert tuple(found) == BLOCKS
    for block, attention in found.items():
        whole = whole_attention(attention_module(transformer, block), given[block])
        rows = whole[:, :, [TEXT + token for token in TOKENS]]
        reference = rows[..., TEXT + 12 :]
        assert reference.std() > 1e-3, "the attention is even: the test would see no place"
        torch.testing.assert_close(attention.heads.double(), reference, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(attention.to_reference.double(), reference.mean(1), atol=1e-6, rtol=1e-4)
        shares = rows.mean(1).split_with_sizes([TEXT, 12, 8], dim=-1)
        found_shares = (attention.text_share, attention.target_share, attention.reference_share)
        for own, expected in zip(found_shares, shares, strict=True):
            torch.testing.assert_close(own.double(), expected.sum(-1), atol=1e-6, rtol=1e-4)


class OneKey(nn.Module):
    """Attention whose keys are all zero but one, in the reference, and whose queries are but one, in the target."""

    def forward(self) -> Tensor:
        query, key = torch.zeros(1, 1, 25, 4), torch.zeros(1, 1, 25, 4)
        query[..., TEXT + 7, 0], key[..., TEXT + 12 + 3, 0] = 2.3, 3.1
        return nn.functional.scaled_dot_product_attention(query, key, key)


@pytest.mark.parametrize("is_autocast", [False, True])
def test_a_key_in_the_references_place_is_found_there_in_float32(is_autocast: bool) -> None:
    """Worked by hand: the query gives its key e^(2.3 * 3.1 / sqrt 4) parts of its attention, each of 24 others 1."""
    block, model = nn.Module(), nn.Module()
    block.attn = OneKey()
    model.transformer_blocks, model.single_transformer_blocks = nn.ModuleList(), nn.ModuleList([block])
    with torch.autocast("cpu", enabled=is_autocast), probe_of(model, blocks=("single.0",)) as found:
        block.attn()
    attention = found["single.0"]
    strong = math.exp(2.3 * 3.1 / 2)
    assert attention.to_reference[0, 0, 3].item() == pytest.approx(strong / (strong + 24))
    assert attention.to_reference[0, 0, 2].item() == pytest.approx(1 / (strong + 24))
    assert attention.text_share[0, 0].item() == pytest.approx(5 / (strong + 24))
    assert attention.target_share[0, 0].item() == pytest.approx(12 / (strong + 24))
    assert attention.reference_share[0, 1].item() == pytest.approx(8 / 25)


# Laws


def velocity(adapter: FluxAdapter, given: Conditioning) -> Tensor:
    x_t = randn(2, *adapter.latent_shape(HEIGHT, WIDTH))
    with torch.no_grad():
        return adapter.velocity(x_t, 0.6, given, adapter.target_ids(HEIGHT, WIDTH), 2.5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", ["kontext", "width"])
def test_the_models_answer_is_the_same_bit_for_bit_and_shares_sum_to_one(
    tiny_pipeline: Path, layout: str, dtype: str
) -> None:
    adapter = FluxAdapter.load(str(tiny_pipeline), layout=layout, dtype=dtype)
    given = adapter.encode(PROMPTS, randn(2, 3, HEIGHT, WIDTH).sigmoid())
    without = velocity(adapter, given)
    text_count = given.prompt_embeds.shape[1]
    with probe_of(
        adapter.transformer, blocks=("single.0", "double.0"), text_count=text_count, per_head=True
    ) as found:
        within = velocity(adapter, given)
    assert torch.equal(within, without)
    assert torch.equal(velocity(adapter, given), without)
    assert set(found) == {"single.0", "double.0"}
    for attention in found.values():
        assert attention.to_reference.shape == (2, 3, 12)
        assert attention.to_reference.dtype == torch.float32
        whole = attention.text_share + attention.target_share + attention.reference_share
        torch.testing.assert_close(whole, torch.ones(2, 3))
        torch.testing.assert_close(attention.to_reference.sum(-1), attention.reference_share)
        torch.testing.assert_close(attention.heads.mean(1), attention.to_reference)


def test_what_is_read_carries_no_gradient_and_takes_none_away(transformer: FluxTransformer2DModel) -> None:
    weight = attention_module(transformer, "single.0").to_q.weight.requires_grad_(True)
    (without,) = torch.autograd.grad(run(transformer, "width").sum(), weight)
    with probe_of(transformer) as found:
        (within,) = torch.autograd.grad(run(transformer, "width").sum(), weight)
    weight.requires_grad_(False)
    assert torch.equal(within, without)
    assert not found["single.1"].to_reference.requires_grad


def test_a_tokens_row_does_not_depend_on_which_others_are_asked_for(
    transformer: FluxTransformer2DModel,
) -> None:
    def rows(*tokens: int) -> BlockAttention:
        with torch.no_grad(), probe_of(transformer, target_tokens=tokens) as found:
            run(transformer, "kontext")
        return found["single.1"]

    torch.testing.assert_close(rows(7, 2).to_reference[:, 1], rows(2).to_reference[:, 0])
    assert rows(2).heads is None


# Blocks by name


def test_blocks_are_named_in_the_order_they_run(tiny_pipeline: Path) -> None:
    assert block_names(open_pipeline(str(tiny_pipeline))) == ("double.0", "single.0")
    pocket = block_names(open_pipeline("pocket"))
    assert pocket == ("double.0", "double.1", "single.0", "single.1", "single.2", "single.3")
    assert default_blocks(pocket) == ("double.0", "single.1", "single.3")
    assert default_blocks(("double.0", "single.0")) == ("double.0", "single.0")
    assert default_blocks(("double.0",)) == ("double.0",)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("double.2",), r"no block 'double\.2'; there are double\.0 to double\.1 and single\.0"),
        ((), r"blocks must be different ones and at least one, got \[\]"),
        (("single.0", "single.0"), "must be different"),
    ],
)
def test_unknown_blocks_are_named_with_those_there_are(asked: tuple[str, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_blocks(asked, ("double.0", "double.1", "single.0"))


# What cannot be read


class ByHand:
    """A processor that never calls torch's attention, as the kernels of some diffusers backends do not."""

    def __call__(self, attn: Any, hidden_states: Tensor, *_: object, **__: object) -> Tensor:
        return hidden_states


def test_a_kernel_that_cannot_be_read_is_an_error(transformer: FluxTransformer2DModel) -> None:
    module = attention_module(transformer, "single.1")
    own = module.processor
    module.set_processor(ByHand())
    try:
        with (
            pytest.raises(ValueError, match=r"single\.1 ran, and not through torch's scaled_dot"),
            torch.no_grad(),
            probe_of(transformer),
        ):
            run(transformer, "kontext")
    finally:
        module.set_processor(own)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"blocks": ("double.7",)}, r"no block 'double\.7'; there are double\.0 to double\.1 and single\.0"),
        ({"target_tokens": (12,)}, r"target_tokens must be at least one from 0 to 11, got \[12\]"),
        ({"target_tokens": ()}, r"at least one from 0 to 11, got \[\]"),
        ({"target_count": 20}, "has 25 queries and 25 keys; .* a reference need more than 25"),
    ],
)
def test_what_is_not_there_is_an_error_in_one_line(
    transformer: FluxTransformer2DModel, changed: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words) as error, torch.no_grad(), probe_of(transformer, **changed):
        run(transformer, "kontext")
    assert "\n" not in str(error.value)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in transformer.modules())


def test_a_transformer_that_does_not_run_is_an_error(transformer: FluxTransformer2DModel) -> None:
    words = r"double\.0 did not run; call the transformer inside the block"
    with pytest.raises(ValueError, match=words), probe_of(transformer):
        pass


def test_attention_that_is_not_finite_is_an_error() -> None:
    with torch.random.fork_rng():
        broken = build_transformer(seed=3, heads=2, double_blocks=1, single_blocks=0)
    torch.nn.init.constant_(broken.transformer_blocks[0].attn.to_k.weight, float("nan"))
    words = r"the attention of double\.0 is not finite"
    with pytest.raises(ValueError, match=words), torch.no_grad(), probe_of(broken, blocks=("double.0",)):
        run(broken, "width")
