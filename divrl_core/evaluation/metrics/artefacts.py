"""Artefacts inside the mask, without a network: what a model may do to the subject that no reward sees.

Each compares the subject's pixels in the picture with the reference's, both at the picture's shape (shown.py):

- **detail change** = log2(E_picture / E_reference), E = mean of (Y - Y blurred by 3 x 3)^2 over pixels whose eight
  neighbours are inside the mask, Y the luma of BT.601. Above 0 = more fine detail: arXiv:2606.23950, appendix F.2,
  reports high-frequency noise "within the subject's identity region"; below 0 = smoothed.
- **saturation change** = log2 of the ratio of mean chroma in OKLab (Björn Ottosson, 2020): above 0 = gaudier.
- **clipped change** = share of pixels with a channel below 1/255 or above 254/255, less the reference's.
- **size change** = log2 of the ratio of the mask's share of the picture: below 0 = smaller, or in part erased.

Ours, not the paper's; 0 is best. The picture's own mask is needed: undefined without. A subject that is merely larger
in the frame has less fine detail, so read detail and size together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from ...models.features.colour import oklab
from .base import Metric, Shot, Subject, Values
from .shown import Columns, Shape, batches, reference_at

LUMA = (0.299, 0.587, 0.114)
LEAST_PIXELS = 16
LEAST_DETAIL = 1e-6
"""Below this mean square (a thousandth of black to white, squared) the reference has no detail to compare with."""
LEAST_CHROMA = 0.02
"""Below this mean chroma in OKLab the reference is grey."""


def _metric(name: str, label: str, meaning: str) -> Metric:
    return Metric(
        name=name, label=label, meaning=meaning, better="neither", family="quality", counts_style=False
    )


METRICS = (
    _metric("detail_change", "detail", "fine detail of the subject against the reference's, in doublings"),
    _metric("saturation_change", "saturation", "chroma of the subject against the reference's, in doublings"),
    _metric("clipped_change", "clipped", "share of the subject that is burnt out or black, less the reference's"),
    _metric("size_change", "size", "share of the picture that is the subject against the reference's, in doublings"),
)  # fmt: skip


@dataclass(frozen=True)
class Surface:
    """What is measured of a subject's pixels: B values each, NaN = undefined.

    detail: E, at least 0. chroma: mean, in OKLab's unit. clipped: share in [0, 1]. size: share of the picture in [0,
    1].
    """

    detail: Tensor
    chroma: Tensor
    clipped: Tensor
    size: Tensor


def surface(images: Tensor, masks: Tensor) -> Surface:
    """Of pictures (B, 3, H, W) in [0, 1] inside masks, bool (B, H, W); undefined where too few pixels are inside."""
    images = images.to(torch.promote_types(images.dtype, torch.float32))
    luma = (images * images.new_tensor(LUMA)[:, None, None]).sum(dim=1, keepdim=True)
    fine = (luma - F.avg_pool2d(luma, 3, stride=1, padding=1))[:, 0].square()
    lightness_chroma = oklab(images)
    chroma = lightness_chroma[:, 1:].norm(dim=1)
    clipped = ((images < 1 / 255) | (images > 254 / 255)).any(dim=1).to(images.dtype)
    return Surface(
        detail=_mean_inside(fine, inner(masks)),
        chroma=_mean_inside(chroma, masks),
        clipped=_mean_inside(clipped, masks),
        size=masks.to(images.dtype).mean(dim=(1, 2)),
    )


def inner(masks: Tensor) -> Tensor:
    """The pixels of masks (B, H, W) whose eight neighbours are inside too, and inside the picture."""
    outside = F.pad((~masks).float()[:, None], (1, 1, 1, 1), value=1.0)
    return F.max_pool2d(outside, 3, stride=1)[:, 0] == 0


def artefacts(generated: Surface, reference: Surface) -> dict[str, Tensor]:
    """The columns of B pictures against one reference (a `Surface` of one picture)."""
    nothing_fine = reference.detail < LEAST_DETAIL
    grey = reference.chroma < LEAST_CHROMA
    return {
        "detail_change": _doublings(generated.detail, reference.detail.masked_fill(nothing_fine, torch.nan)),
        "saturation_change": _doublings(generated.chroma, reference.chroma.masked_fill(grey, torch.nan)),
        "clipped_change": generated.clipped - reference.clipped,
        "size_change": _doublings(generated.size, reference.size),
    }


@dataclass
class PreparedSurface:
    """One reference, measured once a shape."""

    subject: Subject
    shapes: dict[Shape, Surface] = field(default_factory=dict)


class ArtefactScorer:
    """All four, of pictures whose subject's mask is known."""

    name = "artefacts"
    source = "pixels inside the masks of the references and of the pictures, no network"
    metrics = METRICS

    def prepare(self, subject: Subject) -> PreparedSurface:
        """Measured when the pictures' shape is known."""
        return PreparedSurface(subject)

    def score(self, shots: Sequence[Shot], prepared: object) -> Values:
        """Undefined without a mask; left out where no picture has one."""
        assert isinstance(prepared, PreparedSurface)
        columns = Columns(len(shots))
        for batch in batches(shots):
            if batch.masks is None:
                continue
            if batch.shape not in prepared.shapes:
                reference = reference_at(prepared.subject, batch.shape)
                prepared.shapes[batch.shape] = surface(reference.image[None], reference.mask[None])
            columns.put(
                batch.rows, artefacts(surface(batch.images, batch.masks), prepared.shapes[batch.shape])
            )
        return columns.found


def _mean_inside(values: Tensor, masks: Tensor) -> Tensor:
    count = masks.sum(dim=(1, 2))
    mean = values.masked_fill(~masks, 0).double().sum(dim=(1, 2)) / count
    return mean.masked_fill(count < LEAST_PIXELS, torch.nan)


def _doublings(value: Tensor, of: Tensor) -> Tensor:
    """log2 of a ratio; undefined where either is 0."""
    ratio = value.double() / of.double()
    return ratio.masked_fill(~(ratio > 0) | ratio.isinf(), torch.nan).log2()
