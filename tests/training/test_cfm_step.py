"""One forward of masked conditional flow matching: what is drawn, and the loss against explicit computations."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from divrl_core.config_cfm import ObjectiveConfig
from divrl_core.models.flux import FluxAdapter
from divrl_core.models.last_block import answer_for
from divrl_core.training.cfm_batches import BatchPart, SizedPair, sized_pairs
from divrl_core.training.cfm_step import FlowBatch, draw_batch, flow_loss, flow_losses
from divrl_core.training.latent_cache import LatentCache
from divrl_core.training.pair_set import PairSet
from divrl_core.training.validation import validate

from .alone import ALONE
from .tiny_cfm import CAPTIONS, tiny_cfm, toy_pairs

GUIDANCE = 1.0
SIDE_PX = 64  # with panels of 48 x 80 px, too; at 32 px all are squares
TOYS = toy_pairs("abcd", wide="cd")


@pytest.fixture(scope="module")
def adapter(tiny_pipeline: Path) -> FluxAdapter:
    return FluxAdapter.load(str(tiny_pipeline), layout="width")


@pytest.fixture(scope="module")
def cache(adapter: FluxAdapter, tmp_path_factory: pytest.TempPathFactory) -> LatentCache:
    folder = tmp_path_factory.mktemp("cache")
    made = LatentCache(folder, adapter)
    panels = [panel for item in toys() for panel in (item.target, item.reference)]
    made.encode(TOYS, panels, ["", *CAPTIONS], is_quiet=True)
    return made


def toys(names: str = "abcd") -> list[SizedPair]:
    every = sized_pairs(TOYS, SIDE_PX, aspect_buckets=True)
    return [item for name in names for item in every if item.pair.pair_id == name]


def draw(
    adapter: FluxAdapter,
    cache: LatentCache,
    pairs: Sequence[SizedPair],
    number: int = 0,
    *,
    seed: int = 0,
    source: PairSet = TOYS,
    **objective: Any,
) -> FlowBatch:
    config = ObjectiveConfig(**{"caption_dropout": 0.0, **objective})
    return draw_batch(
        BatchPart(number, 0, tuple(pairs)),
        source=source,
        cache=cache,
        adapter=adapter,
        config=config,
        seed=seed,
    )


def loss_of(adapter: FluxAdapter, batch: FlowBatch) -> Tensor:
    with torch.no_grad():
        return flow_loss(adapter, batch, guidance=GUIDANCE, autocast=contextlib.nullcontext)


def tensors(batch: FlowBatch) -> list[Tensor]:
    given = batch.conditioning
    return [
        batch.x_0,
        batch.eps,
        batch.t,
        batch.weights,
        given.prompt_embeds,
        given.pooled,
        given.reference_tokens,
    ]


# What is drawn


def test_a_batch_depends_on_seed_and_number_alone(adapter: FluxAdapter, cache: LatentCache) -> None:
    settings = {"caption_dropout": 0.3, "reference_dropout": 0.3, "loss": "full"}
    one = draw(adapter, cache, toys("ab") * 4, 5, seed=2, **settings)
    torch.manual_seed(123)
    draw(adapter, cache, toys("ba"), 6, seed=2, **settings)
    again = draw(adapter, cache, toys("ab") * 4, 5, seed=2, **settings)
    assert one.names == tuple("abababab")
    assert all(mine.equal(other) for mine, other in zip(tensors(one), tensors(again), strict=True))
    assert one.reference_eps is not None and again.reference_eps is not None
    assert one.reference_eps.equal(again.reference_eps)
    for number, seed in ((6, 2), (5, 3)):
        other = draw(adapter, cache, toys("ab") * 4, number, seed=seed, **settings)
        assert other.x_0.equal(one.x_0)
        assert not other.eps.equal(one.eps) and not other.t.equal(one.t)


def test_the_same_pair_at_another_place_has_other_noise_and_another_time(
    adapter: FluxAdapter, cache: LatentCache
) -> None:
    batch = draw(adapter, cache, toys("aaaa"), loss="full")
    assert batch.reference_eps is not None
    draws = [*batch.eps, *batch.reference_eps]
    assert all(not draws[one].equal(draws[other]) for one in range(8) for other in range(one))
    assert len(set(batch.t.tolist())) == 4
    # A place keeps its draws whatever stands beside it: a smaller batch is the start of a larger one.
    smaller = draw(adapter, cache, toys("aab"), loss="full")
    assert smaller.eps[:2].equal(batch.eps[:2]) and smaller.t[:2].equal(batch.t[:2])
    # And another pair at the same place has its own.
    assert not smaller.eps[2].equal(batch.eps[2]) and smaller.t[2] != batch.t[2]


def test_a_batch_holds_clean_targets_and_references_of_its_panels(
    adapter: FluxAdapter, cache: LatentCache
) -> None:
    pairs = toys("cd")
    batch = draw(adapter, cache, pairs)
    assert (batch.height, batch.width) == (pairs[0].height, pairs[0].width) == (48, 80)
    tokens = batch.height * batch.width // 256
    assert batch.x_0.shape == batch.eps.shape == batch.conditioning.reference_tokens.shape == (2, tokens, 64)
    assert (
        batch.x_0.dtype == batch.eps.dtype == batch.t.dtype == torch.float32 and batch.reference_eps is None
    )
    for place, item in enumerate(pairs):
        assert batch.x_0[place].equal(cache.latent(TOYS, item.target)[0])
        assert batch.conditioning.reference_tokens[place].equal(cache.latent(TOYS, item.reference)[0])
    many = torch.cat([draw(adapter, cache, toys("cd") * 8, number).eps.flatten() for number in range(4)])
    assert abs(many.mean().item()) < 5 / math.sqrt(len(many)) and many.std().item() == pytest.approx(
        1, abs=0.03
    )


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_share_of_empty_captions_is_that_of_the_settings(
    adapter: FluxAdapter, cache: LatentCache, share: float
) -> None:
    count = 200
    batch = draw(adapter, cache, toys("ab") * (count // 2), caption_dropout=share)
    told = {text: cache.caption(text) for text in ("", *CAPTIONS)}
    seen = {
        text: sum(
            row.equal(known.prompt_embeds[0]) and pooled.equal(known.pooled[0])
            for row, pooled in zip(batch.conditioning.prompt_embeds, batch.conditioning.pooled, strict=True)
        )
        for text, known in told.items()
    }
    assert sum(seen.values()) == count
    assert abs(seen[""] - share * count) <= 5 * math.sqrt(count * share * (1 - share))
    each = (count - seen[""]) / len(CAPTIONS)  # a pair's captions are drawn alike
    assert all(abs(seen[text] - each) <= 5 * math.sqrt(each / 2) for text in CAPTIONS)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_reference_that_is_left_out_is_all_zeros(
    adapter: FluxAdapter, cache: LatentCache, share: float
) -> None:
    count, pairs = 100, toys("a") * 100
    batch = draw(adapter, cache, pairs, reference_dropout=share)
    shown = cache.latent(TOYS, pairs[0].reference)[0]
    assert shown.abs().max() > 0
    zeros = sum(not row.any() for row in batch.conditioning.reference_tokens)
    whole = sum(row.equal(shown) for row in batch.conditioning.reference_tokens)
    assert zeros + whole == count
    assert abs(zeros - share * count) <= 5 * math.sqrt(count * share * (1 - share))


def test_the_density_of_times_is_that_of_the_settings(adapter: FluxAdapter, cache: LatentCache) -> None:
    pairs = toys("ab") * 100

    def times(**objective: Any) -> Tensor:
        return draw(adapter, cache, pairs, **objective).t.double()

    z = times().logit()  # the logit-normal of mean 0 and spread 1 is the default
    assert abs(z.mean().item()) < 0.3 and z.std().item() == pytest.approx(1, abs=0.2)
    moved = times(time_mean=0.5, time_std=0.5)
    assert torch.allclose(moved, torch.sigmoid(0.5 + 0.5 * z), atol=1e-5)
    u = times(time_density="uniform")
    assert (
        0.001 <= u.min() < 0.05 and 0.95 < u.max() < 0.9991 and u.mean().item() == pytest.approx(0.5, abs=0.1)
    )
    for mu in (-1.0, 0.0, 2.0):
        shifted = times(time_density="shifted", time_shift=mu)
        assert torch.allclose(shifted, 1 / (1 + math.exp(-mu) * (1 / u - 1)), atol=1e-5)
    own = times(time_density="shifted")
    mu = adapter.schedule_mu(pairs[0].height, pairs[0].width)
    assert torch.allclose(own, 1 / (1 + math.exp(-mu) * (1 / u - 1)), atol=1e-5)
    assert not torch.allclose(own, u, atol=1e-3)


def test_the_weights_are_those_of_the_settings_at_the_times_drawn(
    adapter: FluxAdapter, cache: LatentCache
) -> None:
    t = draw(adapter, cache, toys("ab") * 10).t
    expected = {"none": torch.ones(20), "sigma_sqrt": t**-2, "cosmap": 2 / math.pi / (t**2 + (1 - t) ** 2)}
    for name, weights in expected.items():
        batch = draw(adapter, cache, toys("ab") * 10, weighting=name)
        assert batch.t.equal(t) and torch.allclose(batch.weights, weights, rtol=1e-5)


# The loss


def whole_prediction(adapter: FluxAdapter, batch: FlowBatch) -> Tensor:
    """What the transformer says of target and reference, asked without the adapter; ids of the layout "width"."""
    rows, columns = batch.height // 16, batch.width // 16
    ids = [
        (0, row, column + side * columns)
        for side in (0, 1)
        for row in range(rows)
        for column in range(columns)
    ]
    given, t = batch.conditioning, batch.t[:, None, None]
    answer_for(adapter.transformer, None)  # the fixture is shared with tests that asked for the target alone
    with torch.no_grad():
        return adapter.transformer(
            hidden_states=torch.cat([(1 - t) * batch.x_0 + t * batch.eps, given.reference_tokens], dim=1),
            timestep=batch.t,
            guidance=torch.full((len(batch.t),), GUIDANCE),
            pooled_projections=given.pooled,
            encoder_hidden_states=given.prompt_embeds,
            txt_ids=torch.zeros(given.prompt_embeds.shape[1], 3),
            img_ids=torch.tensor(ids, dtype=torch.float32),
            return_dict=False,
        )[0]


@pytest.mark.parametrize("weighting", ["none", "cosmap"])
def test_the_masked_loss_is_the_mean_squared_error_on_the_targets_tokens(
    adapter: FluxAdapter, cache: LatentCache, weighting: str
) -> None:
    batch = draw(adapter, cache, toys("cd"), weighting=weighting)
    tokens = batch.x_0.shape[1]
    error = whole_prediction(adapter, batch)[:, :tokens] - (batch.eps - batch.x_0)
    each = error.double().square().mean(dim=(1, 2))
    assert each.min() > 0.1  # an untrained model
    loss = loss_of(adapter, batch)
    assert loss.shape == () and loss.dtype == torch.float32
    assert loss.item() == pytest.approx((batch.weights * each).mean().item(), rel=1e-5)
    with torch.no_grad():
        alone = flow_losses(adapter, batch, guidance=GUIDANCE, autocast=contextlib.nullcontext)
    assert torch.allclose(alone.double(), each, rtol=1e-5)


@pytest.mark.parametrize("weighting", ["none", "cosmap"])
def test_the_full_loss_counts_the_references_tokens_too(
    adapter: FluxAdapter, cache: LatentCache, weighting: str
) -> None:
    batch = draw(adapter, cache, toys("cd"), loss="full", weighting=weighting)
    assert batch.reference_eps is not None and batch.reference_eps.shape == batch.x_0.shape
    wanted = torch.cat(
        [batch.eps - batch.x_0, batch.reference_eps - batch.conditioning.reference_tokens], dim=1
    )
    each = (whole_prediction(adapter, batch) - wanted).double().square().mean(dim=(1, 2))
    assert loss_of(adapter, batch).item() == pytest.approx((batch.weights * each).mean().item(), rel=1e-5)
    masked = draw(adapter, cache, toys("cd"), weighting=weighting)
    assert all(mine.equal(other) for mine, other in zip(tensors(batch), tensors(masked), strict=True))
    assert loss_of(adapter, masked).item() != pytest.approx(loss_of(adapter, batch).item(), rel=1e-3)


@pytest.mark.parametrize("loss", ["masked", "full"])
def test_without_a_reference_none_is_read_and_the_loss_is_the_targets(
    tiny_pipeline: Path, tmp_path: Path, loss: str
) -> None:
    alone = FluxAdapter.load(str(tiny_pipeline), layout="none")
    cache = LatentCache(tmp_path, alone)
    pairs = toys("ab")
    cache.encode(TOYS, [item.target for item in pairs], ["", *CAPTIONS], is_quiet=True)
    with pytest.raises(FileNotFoundError):
        cache.latent(TOYS, pairs[0].reference)
    batch = draw(alone, cache, pairs, loss=loss)  # reading one would raise
    assert batch.conditioning.reference_tokens.shape == (2, 0, 64)
    with torch.no_grad():
        ids = alone.target_ids(batch.height, batch.width)
        x_t = (1 - batch.t)[:, None, None] * batch.x_0 + batch.t[:, None, None] * batch.eps
        predicted = alone.velocity(x_t, batch.t, batch.conditioning, ids, GUIDANCE)
    expected = (predicted - (batch.eps - batch.x_0)).square().mean().item()
    assert loss_of(alone, batch).item() == pytest.approx(expected, rel=1e-5)
    config = tiny_cfm(tiny_pipeline, model={"layout": "none"})
    row = validate(
        alone, pairs, TOYS, cache, config, update=0, autocast=contextlib.nullcontext, processes=ALONE
    )
    assert math.isfinite(row["validation_loss"])
