"""The validation loss: held-out pairs at fixed times with fixed noise, so that two updates can be compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from ..config_cfm import CfmConfig
from ..flow.noise import keyed_noise
from ..models.flux import FluxAdapter
from ..models.layout import NO_REFERENCE
from .cfm_batches import SizedPair
from .cfm_step import FlowBatch, flow_batch, flow_losses
from .latent_cache import LatentCache
from .pair_set import PairSet
from .placement import turns
from .processes import Processes

SEED = 0  # of the noise: the same in every run, so that runs of different seeds compare


@torch.no_grad()
def validate(
    adapter: FluxAdapter,
    pairs: Sequence[SizedPair],
    source: PairSet,
    cache: LatentCache,
    config: CfmConfig,
    *,
    update: int,
    autocast: Callable[[], AbstractContextManager[None]],
    processes: Processes,
    on_progress: Callable[[int], None] = lambda made: None,
) -> dict[str, Any]:
    """The row of held-out measures: the masked loss with its standard error over pairs, and by time.

    Each pair is validated alone, with its first caption and its reference, at all of run.validation_times at once; the
    loss is always the masked one, whatever is trained. Of several processes each takes its share of the pairs, and all
    get the whole. `on_progress(pairs_done)` is called before each.
    """
    times = config.run.validation_times
    losses = torch.zeros(len(pairs), len(times), dtype=torch.float64)
    for row, is_stand_in in turns(
        len(pairs), processes.index, processes.count, in_lockstep=processes.in_lockstep
    ):
        on_progress(row)
        batch = _batch(pairs[row], times, source, cache, adapter)
        each = flow_losses(adapter, batch, guidance=config.model.guidance_scale, autocast=autocast)
        if not is_stand_in:
            losses[row] = each.double().cpu()
    losses = processes.sum(losses)
    per_pair = losses.mean(dim=1)
    if not bool(torch.isfinite(losses).all()):
        broken = pairs[int((~torch.isfinite(per_pair)).nonzero()[0])].pair.pair_id
        raise ValueError(
            f"validation: the loss of {broken} is not finite; try a smaller optim.lr, or model.dtype=float32"
        )
    error = per_pair.std().item() / math.sqrt(len(pairs)) if len(pairs) > 1 else math.nan
    return {
        "kind": "heldout",
        "stage": "cfm",
        "update": update,
        "n": len(pairs),
        "validation_loss": per_pair.mean().item(),
        "validation_loss_se": error,
        "by_time": {f"{time:g}": losses[:, column].mean().item() for column, time in enumerate(times)},
    }


def _batch(
    item: SizedPair, times: Sequence[float], source: PairSet, cache: LatentCache, adapter: FluxAdapter
) -> FlowBatch:
    """One pair at every time, each with noise of its own."""
    count = len(times)
    x_0 = cache.latent(source, item.target).float()
    noise = [
        keyed_noise(x_0.shape[1:], seed=SEED, stream="validation", group=item.pair.pair_id, step=column)
        for column in range(count)
    ]
    reference = x_0 if adapter.layout == NO_REFERENCE else cache.latent(source, item.reference)
    return flow_batch(
        adapter,
        names=(item.pair.pair_id,) * count,
        captions=[cache.caption(item.pair.captions[0])] * count,
        references=reference.repeat(count, 1, 1),
        x_0=x_0.repeat(count, 1, 1),
        eps=torch.stack(noise),
        t=torch.tensor(times),
        weights=torch.ones(count),
        reference_eps=None,
        height=item.height,
        width=item.width,
    )
