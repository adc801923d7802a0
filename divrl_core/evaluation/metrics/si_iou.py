"""si-IoU, scale-invariant intersection over union: have two masks one outline, wherever they are and however large?

Both masks are cropped to their tight boxes, the generated one's box is resized to the reference's (a pixel is inside
when at least half of its area is), and the intersection is divided by the union. Source: arXiv:2606.23950, appendix
A.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...rewards.similarity import resize_mask
from .base import Metric, Shot, Subject, Values
from .shown import check_mask

SI_IOU = Metric(
    name="si_iou",
    label="Scale-inv IoU",
    meaning="how well the outline of the subject fits the reference's, size and place aside",
    better="lower",
    family="structure",
)


def scale_invariant_iou(generated: Tensor, reference: Tensor) -> float:
    """si-IoU of two masks, bool (H, W) each of its own size: in [0, 1], 1 = the same outline; NaN where one is empty.

    Raises ValueError for masks that are not bool (H, W).
    """
    for name, mask in (("generated", generated), ("reference", reference)):
        if mask.dtype != torch.bool or mask.ndim != 2:
            raise ValueError(
                f"scale_invariant_iou: the {name} mask must be bool (H, W), got {mask.dtype} {tuple(mask.shape)}"
            )
    if not (generated.any() and reference.any()):
        return float("nan")
    ours, theirs = tight_box(generated), tight_box(reference)
    ours = resize_mask(ours, (theirs.shape[0], theirs.shape[1]))
    return float((ours & theirs).sum() / (ours | theirs).sum())


def tight_box(mask: Tensor) -> Tensor:
    """A mask (H, W), not empty, cut to the smallest box that holds it."""
    rows, columns = mask.any(dim=1).nonzero().flatten(), mask.any(dim=0).nonzero().flatten()
    return mask[int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]


class SiIouScorer:
    """si-IoU of pictures whose subject's mask is known; no network."""

    name = "si_iou"
    source = "the masks of the references and of the pictures"
    metrics = (SI_IOU,)

    def prepare(self, subject: Subject) -> Tensor:
        """The reference's mask, cut to its box. Raises ValueError, naming the reference, where it is empty."""
        if not subject.mask.any():
            raise ValueError(
                f"{subject.reference_id}: its mask is empty; si-IoU needs the reference's outline"
            )
        return tight_box(subject.mask)

    def score(self, shots: Sequence[Shot], prepared: object) -> Values:
        """Undefined without a mask; left out where no picture has one."""
        assert isinstance(prepared, Tensor)
        if all(shot.mask is None for shot in shots):
            return {}
        values = []
        for shot in shots:
            check_mask(shot)
            values.append(float("nan") if shot.mask is None else scale_invariant_iou(shot.mask, prepared))
        return {SI_IOU.name: torch.tensor(values, dtype=torch.float32)}
