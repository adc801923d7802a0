"""The validation loss: the same number whenever it is asked for, and the one it says it is."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from divrl_core.config_cfm import CfmConfig
from divrl_core.flow.noise import keyed_noise
from divrl_core.models.flux import FluxAdapter
from divrl_core.training.cfm_batches import SizedPair, sized_pairs
from divrl_core.training.latent_cache import LatentCache
from divrl_core.training.validation import validate

from .alone import ALONE
from .tiny_cfm import CAPTIONS, tiny_cfm, toy_pairs

SIDE_PX = 64  # with panels of 48 x 80 px, too; at 32 px all are squares
TOYS = toy_pairs("xyz", wide="y")
PAIRS = sized_pairs(TOYS, SIDE_PX, aspect_buckets=True)


@pytest.fixture(scope="module")
def adapter(tiny_pipeline: Path) -> FluxAdapter:
    return FluxAdapter.load(str(tiny_pipeline), layout="width")


@pytest.fixture(scope="module")
def cache(adapter: FluxAdapter, tmp_path_factory: pytest.TempPathFactory) -> LatentCache:
    made = LatentCache(tmp_path_factory.mktemp("cache"), adapter)
    panels = [panel for item in PAIRS for panel in (item.target, item.reference)]
    made.encode(TOYS, panels, CAPTIONS[:1], is_quiet=True)  # the first caption alone is asked for
    return made


@pytest.fixture
def config(tiny_pipeline: Path) -> CfmConfig:
    return tiny_cfm(tiny_pipeline)


def row_of(
    adapter: FluxAdapter,
    cache: LatentCache,
    config: CfmConfig,
    pairs: tuple[SizedPair, ...] = PAIRS,
    **given: Any,
) -> dict[str, Any]:
    return validate(
        adapter,
        pairs,
        TOYS,
        cache,
        config,
        update=3,
        autocast=contextlib.nullcontext,
        processes=ALONE,
        **given,
    )


def test_the_number_is_the_same_twice_and_in_every_run_of_other_seeds_and_objectives(
    adapter: FluxAdapter, cache: LatentCache, config: CfmConfig, tiny_pipeline: Path
) -> None:
    row = row_of(adapter, cache, config)
    torch.manual_seed(99)
    assert row_of(adapter, cache, config) == row
    others = (
        {"run": {"seed": 7}},
        {"objective": {"loss": "full", "caption_dropout": 0.9, "weighting": "cosmap", "batch_size": 5}},
        {"objective": {"time_density": "uniform", "reference_dropout": 0.9}},
    )
    for changed in others:
        assert row_of(adapter, cache, tiny_cfm(tiny_pipeline, **changed)) == row


def test_the_row_agrees_with_an_explicit_computation(
    adapter: FluxAdapter, cache: LatentCache, config: CfmConfig
) -> None:
    losses = torch.zeros(3, 2, dtype=torch.float64)
    for row, item in enumerate(PAIRS):
        x_0 = cache.latent(TOYS, item.target)
        given = adapter.conditioning(
            cache.caption(CAPTIONS[0]),
            cache.latent(TOYS, item.reference),
            height=item.height,
            width=item.width,
        )
        for column, t in enumerate((0.3, 0.7)):
            eps = keyed_noise(
                x_0.shape[1:], seed=0, stream="validation", group=item.pair.pair_id, step=column
            )
            with torch.no_grad():
                ids = adapter.target_ids(item.height, item.width)
                predicted = adapter.velocity((1 - t) * x_0 + t * eps, t, given, ids, 1.0)
            losses[row, column] = (predicted - (eps - x_0)).double().square().mean()
    found = row_of(adapter, cache, config)
    by_pair = losses.mean(dim=1)
    assert (found["kind"], found["stage"], found["update"], found["n"]) == ("heldout", "cfm", 3, 3)
    assert found["validation_loss"] == pytest.approx(by_pair.mean().item(), rel=1e-5)
    assert found["validation_loss_se"] == pytest.approx(by_pair.std().item() / math.sqrt(3), rel=1e-3)
    assert list(found["by_time"]) == ["0.3", "0.7"]
    assert list(found["by_time"].values()) == pytest.approx(losses.mean(dim=0).tolist(), rel=1e-5)


def test_a_pair_counts_the_same_whatever_is_validated_beside_it(
    adapter: FluxAdapter, cache: LatentCache, config: CfmConfig
) -> None:
    each = [row_of(adapter, cache, config, (item,)) for item in PAIRS]
    assert all(math.isnan(row["validation_loss_se"]) and row["n"] == 1 for row in each)
    together = row_of(adapter, cache, config, PAIRS[::-1])["validation_loss"]
    assert together == pytest.approx(sum(row["validation_loss"] for row in each) / 3, rel=1e-12)


def test_progress_is_told_before_each_pair_and_may_stop_it(
    adapter: FluxAdapter, cache: LatentCache, config: CfmConfig
) -> None:
    told: list[int] = []

    def stop_at_two(done: int) -> None:
        told.append(done)
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        row_of(adapter, cache, config, on_progress=stop_at_two)
    assert told == [0, 1, 2]


def test_a_loss_that_is_not_finite_names_its_pair(
    adapter: FluxAdapter, cache: LatentCache, config: CfmConfig, tiny_pipeline: Path
) -> None:
    broken = FluxAdapter.load(str(tiny_pipeline), layout="width")
    with torch.no_grad():
        broken.transformer.proj_out.bias.fill_(float("nan"))  # type: ignore[union-attr, operator]
    with pytest.raises(ValueError, match=r"validation: the loss of x is not finite; try a smaller optim\.lr"):
        row_of(broken, cache, config)
