"""Copy-paste: whether a picture is nearer to the reference than another true picture of the subject is.

Letters: ``r`` the reference, ``t`` another true picture of the subject, ``g`` the generated one; theta_ab the angle
between what a network sees of two pictures.

    M_CP = (theta_gt - theta_gr) / theta_tr                    MultiID-Bench, arXiv:2510.14975

in [-1, 1] by the triangle inequality: 1 = the reference itself, -1 = the other picture itself, 0 = as near to one as to
the other. Beside it the plain difference that can be read without a second angle:

    copy excess = cos theta_gr - cos theta_tr

above 0 where the picture is more like the reference than another true picture of the subject is. MultiID-Bench takes
face embeddings; here the angle is DINOv2's between class tokens, or that between two self-similarity maps, whose cosine
is Pearson's correlation, 1 - nSSM. MultiID-Bench calls M_CP 0 where t and r coincide; here it is undefined.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Metric

LEAST_ANGLE = 1e-3
"""Radians between the reference and the other picture below which nothing can be told."""


def copy_paste(to_reference: Tensor, to_view: Tensor, view_to_reference: Tensor) -> Tensor:
    """``M_CP`` of pictures, mean over the views: (B,) in [-1, 1]; lower = less of a copy.

    Args:
        to_reference: cosines (B,) of the pictures with the reference.
        to_view: cosines (B, V) of the pictures with each view.
        view_to_reference: cosines (V,) of each view with the reference.

    Returns float64; NaN where a cosine is undefined, or every view coincides with the reference.
    """
    angle_gr, angle_gt = _angle(to_reference)[:, None], _angle(to_view)
    angle_tr = _angle(view_to_reference)
    angle_tr = angle_tr.masked_fill(angle_tr < LEAST_ANGLE, torch.nan)
    return ((angle_gt - angle_gr) / angle_tr).clamp(-1, 1).nanmean(dim=1)


def copy_excess(to_reference: Tensor, view_to_reference: Tensor) -> Tensor:
    """``cos theta_gr - cos theta_tr``, mean over the views: (B,) in [-2, 2]; above 0 = more a copy than a view is.

    to_reference: cosines (B,). view_to_reference: cosines (V,).
    """
    return (to_reference.double()[:, None] - view_to_reference.double()).nanmean(dim=1)


def copy_metrics(prefix: str, of: str) -> tuple[Metric, Metric]:
    """Both columns. of: what the angle is between, in tables."""
    return (
        Metric(
            name=f"{prefix}copy_paste",
            label=f"copy-paste ({of})",
            meaning=f"how much nearer it is to the reference than to another true picture of the subject ({of})",
            better="lower",
            family="structure",
            counts_style=False,
        ),
        Metric(
            name=f"{prefix}copy_excess",
            label=f"copy excess ({of})",
            meaning=f"its likeness to the reference less that of another true picture of the subject ({of})",
            better="lower",
            family="structure",
            counts_style=False,
        ),
    )


def copy_columns(
    prefix: str, to_reference: Tensor, to_view: Tensor, view_to_reference: Tensor
) -> dict[str, Tensor]:
    """The values of `copy_metrics`."""
    return {
        f"{prefix}copy_paste": copy_paste(to_reference, to_view, view_to_reference).float(),
        f"{prefix}copy_excess": copy_excess(to_reference, view_to_reference).float(),
    }


def _angle(cosine: Tensor) -> Tensor:
    return cosine.double().clamp(-1, 1).arccos()
