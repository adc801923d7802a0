"""VSM, visual semantic matching: is what stands for the subject's parts made to look like them?

Shapes: B pictures, N source cells of each, M target cells of the reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Agreement = Literal["anywhere", "match"]


@dataclass(frozen=True)
class Vsm:
    """VSM with its parts.

    score: (B,) in [0, 1], higher = the subject looks more like its reference; NaN = undefined.
    kept: bool (B, N), sources that found their part. agrees: bool (B, N), kept sources that also look like
    it. match: (B, N) index of a source's best semantic target, meaningful where kept. visual: (B, N) the visual
    similarity that was held against tau_v.
    """

    score: Tensor
    kept: Tensor
    agrees: Tensor
    match: Tensor
    visual: Tensor


def vsm(
    semantic_similarity: Tensor,
    visual_similarity: Tensor,
    *,
    source_mask: Tensor | None,
    target_mask: Tensor | None,
    tau_s: float,
    tau_v: float,
    agreement: Agreement = "anywhere",
    one_to_one: bool = True,
) -> Vsm:
    """Share of the semantically matched cells that agree visually (arXiv:2606.23950, eq. 3).

    A source is kept when its best semantic similarity is above tau_s; one to one, each target keeps only the
    best of the sources matched to it (the first of equals). ``VSM = (kept sources with visual agreement >
    tau_v) / kept``.

    Args:
        semantic_similarity: (B, N, M), source to target cells.
        visual_similarity: (B, N, M), likewise.
        source_mask: bool (B, N), the generated object's cells; None = all.
        target_mask: bool (M,), the reference object's cells; None = all.
        tau_s: semantic similarity a source must exceed.
        tau_v: visual similarity that counts as agreement when exceeded.
        agreement: where to look for visual agreement: "anywhere" among the target cells (eq. 3) or at the
            semantic "match" itself (stricter).
        one_to_one: whether a target may serve one source only.

    Returns:
        Scores in float32 or better; NaN where nothing is kept or a similarity in play is NaN.

    Raises:
        ValueError: shapes that differ, masks that are not bool, or an unknown agreement.
    """
    _check(semantic_similarity, visual_similarity, source_mask, target_mask, agreement)
    is_target = _all_true(semantic_similarity[0, 0]) if target_mask is None else target_mask
    is_source = _all_true(semantic_similarity[..., 0]) if source_mask is None else source_mask

    # The best semantic target of each source.
    semantic = semantic_similarity.masked_fill(~is_target, -torch.inf)
    best, match = semantic.max(dim=-1)
    kept = is_source & (best > tau_s)
    if one_to_one:
        kept = _best_source_per_target(best, match, kept, semantic.shape[-1])

    # Visual agreement of the kept.
    if agreement == "anywhere":
        visual = visual_similarity.masked_fill(~is_target, -torch.inf).amax(dim=-1)
    else:
        visual = visual_similarity.gather(-1, match[..., None])[..., 0]
    agrees = kept & (visual > tau_v)

    # 0/0 = NaN where nothing is kept; a comparison with NaN would otherwise pass for "no match".
    dtype = torch.promote_types(semantic_similarity.dtype, torch.float32)
    score = agrees.sum(dim=-1).to(dtype) / kept.sum(dim=-1)
    in_play = is_source[..., None] & is_target
    is_broken = ((semantic_similarity.isnan() | visual_similarity.isnan()) & in_play).any(dim=-1).any(dim=-1)
    return Vsm(score.masked_fill(is_broken, torch.nan), kept, agrees, match, visual)


def _best_source_per_target(best: Tensor, match: Tensor, kept: Tensor, targets: int) -> Tensor:
    """Of the kept sources that share a target, only the most similar; of equals, the first."""
    batch, sources = best.shape
    rivals = best.masked_fill(~kept, -torch.inf)
    top = best.new_full((batch, targets), -torch.inf).scatter_reduce(1, match, rivals, "amax")
    is_top = kept & (best == top.gather(1, match))
    order = torch.arange(sources, device=best.device).expand(batch, -1)
    candidates = order.masked_fill(~is_top, sources)
    first = match.new_full((batch, targets), sources).scatter_reduce(1, match, candidates, "amin")
    return is_top & (order == first.gather(1, match))


def _all_true(like: Tensor) -> Tensor:
    return torch.ones_like(like, dtype=torch.bool)


def _check(
    semantic: Tensor, visual: Tensor, source_mask: Tensor | None, target_mask: Tensor | None, agreement: str
) -> None:
    if semantic.ndim != 3 or visual.shape != semantic.shape or 0 in semantic.shape:
        raise ValueError(
            "vsm: both similarities must be (B, N, M) with at least one cell a side, "
            f"got semantic {tuple(semantic.shape)} and visual {tuple(visual.shape)}"
        )
    for name, mask, expected in (
        ("source_mask", source_mask, tuple(semantic.shape[:2])),
        ("target_mask", target_mask, tuple(semantic.shape[2:])),
    ):
        if mask is not None and (mask.dtype != torch.bool or tuple(mask.shape) != expected):
            raise ValueError(
                f"vsm: {name} must be bool {expected}, got {mask.dtype} {tuple(mask.shape)}; "
                "resize it with resize_mask() and flatten it"
            )
    if agreement not in ("anywhere", "match"):
        raise ValueError(f'vsm: agreement must be "anywhere" or "match", got {agreement!r}')
