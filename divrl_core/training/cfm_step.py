"""One forward of masked conditional flow matching: what is drawn for a micro-batch, and its loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config_cfm import ObjectiveConfig
from ..flow.loss import masked_flow_loss
from ..flow.noise import keyed_noise, keyed_seed
from ..flow.path import interpolate, velocity_target
from ..flow.times import logit_normal_times, loss_weights, shifted_times, uniform_times
from ..models.conditioning import Conditioning, TextEmbeddings
from ..models.flux import FluxAdapter
from ..models.layout import NO_REFERENCE
from .cfm_batches import BatchPart
from .latent_cache import LatentCache
from .pair_set import PairSet

NO_CAPTION = ""


@dataclass(frozen=True, kw_only=True)
class FlowBatch:
    """B samples of one panel size: clean targets, their noise, times and weights, and what the model is told."""

    names: tuple[str, ...]
    x_0: Tensor
    """Clean target tokens (B, N, C), float32."""
    eps: Tensor
    """Noise (B, N, C), float32."""
    t: Tensor
    """Times (B,), float32; 1 is noise."""
    weights: Tensor
    """Weight of each sample's loss (B,)."""
    reference_eps: Tensor | None
    """Noise of the reference's tokens (B, M, C), where the loss counts these too; else None."""
    conditioning: Conditioning
    height: int
    width: int


def draw_batch(
    part: BatchPart,
    *,
    source: PairSet,
    cache: LatentCache,
    adapter: FluxAdapter,
    config: ObjectiveConfig,
    seed: int,
) -> FlowBatch:
    """A micro-batch or a part of one, all of its randomness keyed by (seed, number, pair, place in the batch)."""
    pairs, number = part.pairs, part.number
    height, width = pairs[0].height, pairs[0].width
    mu = config.time_shift
    if mu is None:
        mu = adapter.schedule_mu(height, width)
    captions, references, targets, noise, reference_noise, times = [], [], [], [], [], []
    for place, item in enumerate(pairs, start=part.first):
        key = {"seed": seed, "update": number, "group": item.pair.pair_id, "sample": place}
        draws = _draws(keyed_seed(stream="cfm draws", **key))  # type: ignore[arg-type]
        times.append(_time(config, draws, mu))
        names = item.pair.captions
        is_blank = draws.caption_dropout < config.caption_dropout
        captions.append(cache.caption(NO_CAPTION if is_blank else names[int(draws.caption * len(names))]))
        targets.append(cache.latent(source, item.target))
        is_left_out = adapter.layout == NO_REFERENCE or draws.reference_dropout < config.reference_dropout
        references.append(
            torch.zeros_like(targets[-1]) if is_left_out else cache.latent(source, item.reference)
        )
        shape = targets[-1].shape[1:]
        noise.append(keyed_noise(shape, stream="cfm noise", **key))  # type: ignore[arg-type]
        if config.loss == "full":
            reference_noise.append(keyed_noise(shape, stream="cfm reference noise", **key))  # type: ignore[arg-type]
    t = torch.stack(times)
    return flow_batch(
        adapter,
        names=tuple(item.pair.pair_id for item in pairs),
        captions=captions,
        references=torch.cat(references),
        x_0=torch.cat(targets).float(),
        eps=torch.stack(noise),
        t=t,
        weights=loss_weights(t, config.weighting),
        reference_eps=torch.stack(reference_noise) if reference_noise else None,
        height=height,
        width=width,
    )


def flow_batch(
    adapter: FluxAdapter,
    *,
    names: tuple[str, ...],
    captions: Sequence[TextEmbeddings],
    references: Tensor,
    x_0: Tensor,
    eps: Tensor,
    t: Tensor,
    weights: Tensor,
    reference_eps: Tensor | None,
    height: int,
    width: int,
) -> FlowBatch:
    """Put B samples together and move them to the model's device."""
    device = adapter.device
    text = TextEmbeddings(
        prompt_embeds=torch.cat([caption.prompt_embeds for caption in captions]),
        pooled=torch.cat([caption.pooled for caption in captions]),
    ).to(device)
    return FlowBatch(
        names=names,
        x_0=x_0.to(device),
        eps=eps.to(device),
        t=t.to(device),
        weights=weights.to(device),
        reference_eps=None if reference_eps is None else reference_eps.to(device),
        conditioning=adapter.conditioning(text, references.to(device), height=height, width=width),
        height=height,
        width=width,
    )


def flow_loss(
    adapter: FluxAdapter,
    batch: FlowBatch,
    *,
    guidance: float,
    autocast: Callable[[], AbstractContextManager[None]],
) -> Tensor:
    """The loss of a batch, a scalar in float32 (arXiv:2511.08061): on the target's tokens, or on all of them.

    With `reference_eps` the model is asked for ``eps_ref - z_ref`` on the reference's tokens, though it sees z_ref
    clean: this is the objective without the mask, which the paper's ablation calls full loss.
    """
    x_t = interpolate(batch.x_0, batch.eps, batch.t)
    ids = adapter.target_ids(batch.height, batch.width)
    with autocast():
        canvas, predicted = adapter.canvas_velocity(x_t, batch.t, batch.conditioning, ids, guidance)
    wanted = velocity_target(batch.x_0, batch.eps)
    if batch.reference_eps is not None and not bool(canvas.is_target.all()):
        beside = velocity_target(batch.conditioning.reference_tokens, batch.reference_eps)
        return masked_flow_loss(predicted, torch.cat([wanted, beside], dim=1), None, batch.weights)
    nothing = torch.zeros_like(predicted[:, wanted.shape[1] :])  # never counted
    return masked_flow_loss(predicted, torch.cat([wanted, nothing], dim=1), canvas.is_target, batch.weights)


def flow_losses(
    adapter: FluxAdapter,
    batch: FlowBatch,
    *,
    guidance: float,
    autocast: Callable[[], AbstractContextManager[None]],
) -> Tensor:
    """The masked loss of each sample (B,), unweighted."""
    x_t = interpolate(batch.x_0, batch.eps, batch.t)
    with autocast():
        ids = adapter.target_ids(batch.height, batch.width)
        predicted = adapter.velocity(x_t, batch.t, batch.conditioning, ids, guidance)
    wanted = velocity_target(batch.x_0, batch.eps)
    each = [
        masked_flow_loss(one[None], other[None], None) for one, other in zip(predicted, wanted, strict=True)
    ]
    return torch.stack(each)


@dataclass(frozen=True)
class _Draws:
    """A sample's numbers: one normal, four uniform."""

    normal: Tensor
    uniform: Tensor
    caption: float
    caption_dropout: float
    reference_dropout: float


def _draws(seed: int) -> _Draws:
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn((), generator=generator)
    uniform = torch.rand(4, generator=generator)
    return _Draws(normal, uniform[0], uniform[1].item(), uniform[2].item(), uniform[3].item())


def _time(config: ObjectiveConfig, draws: _Draws, mu: float) -> Tensor:
    if config.time_density == "logit_normal":
        return logit_normal_times(draws.normal, mean=config.time_mean, std=config.time_std)
    if config.time_density == "uniform":
        return uniform_times(draws.uniform)
    return shifted_times(draws.uniform, mu)
