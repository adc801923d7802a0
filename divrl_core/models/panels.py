"""Pictures in panels: the size of a panel, the target that fills it, the reference that is fitted into it.

One canvas has two panels of one size. The target is resized until it covers its panel and its middle is kept; the
reference is letterboxed: all of it stays, nothing is stretched, and the bars take the mean colour of the two edges
they touch. Trainer, samplers and the diffusers pipeline call the same functions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate

MOST_ELONGATED = 2.0  # the longest side of a panel over its shortest
LEAST_AREA = 0.75  # of a panel, as a share of the area asked for
STEP_PX = 16  # a token's side: every size accepted puts the mask's boundary between two tokens


def panel_size(height: int, width: int, area_side_px: int) -> tuple[int, int]:
    """(height, width) of the panel for a picture of that size: its aspect, an area of at most area_side_px squared.

    Sides are multiples of a sixteenth of the area's side, at least of a token (16 px: pocket 16, 512 px 32, 1024 px
    64), at most twice as long as wide. A square picture gets the square.

    Raises ValueError when the picture is empty, or the area's side is no multiple of 16.
    """
    if height < 1 or width < 1:
        raise ValueError(f"panel_size: a picture must have pixels, got {height} x {width}")
    if area_side_px < STEP_PX or area_side_px % STEP_PX:
        raise ValueError(f"panel_size: the side must be a multiple of {STEP_PX} px, got {area_side_px}")
    wanted = math.log(height / width)
    return min(_panels(area_side_px), key=lambda panel: (abs(math.log(panel[0] / panel[1]) - wanted), panel))


def cover(image: Tensor, height: int, width: int) -> Tensor:
    """Resize a picture (C, H, W) so that it covers the panel, and keep its middle; (C, height, width) in [0, 1]."""
    _check_picture(image)
    scale = max(height / image.shape[1], width / image.shape[2])
    rows, columns = max(height, round(image.shape[1] * scale)), max(width, round(image.shape[2] * scale))
    resized = _resize(image, rows, columns)
    top, left = (rows - height) // 2, (columns - width) // 2
    return resized[:, top : top + height, left : left + width]


def letterbox(image: Tensor, height: int, width: int) -> Tensor:
    """Fit a whole picture (C, H, W) into the panel without stretching it; (C, height, width) in [0, 1].

    The bars at both sides (or above and below) have the mean colour of the picture's two edges that they touch.
    """
    _check_picture(image)
    top, left, rows, columns = _fitted(image.shape[1], image.shape[2], height, width)
    resized = _resize(image, rows, columns)
    if (rows, columns) == (height, width):
        return resized
    edges = resized[:, [0, -1], :] if rows < height else resized[:, :, [0, -1]]
    panel = edges.flatten(1).mean(dim=1)[:, None, None].repeat(1, height, width)
    panel[:, top : top + rows, left : left + columns] = resized
    return panel


def letterbox_mask(mask: Tensor, height: int, width: int) -> Tensor:
    """The mask (H, W), bool, of a picture as `letterbox` places it: (height, width), False on the bars."""
    top, left, rows, columns = _fitted(mask.shape[0], mask.shape[1], height, width)
    panel = torch.zeros(height, width, dtype=torch.bool, device=mask.device)
    resized = interpolate(mask[None, None].float(), size=(rows, columns), mode="area")[0, 0]
    panel[top : top + rows, left : left + columns] = resized > 0.5
    return panel


def _fitted(rows: int, columns: int, height: int, width: int) -> tuple[int, int, int, int]:
    """(top, left, rows, columns) of a picture of that size within the panel."""
    scale = min(height / rows, width / columns)
    fitted_rows, fitted_columns = (
        min(height, max(1, round(rows * scale))),
        min(width, max(1, round(columns * scale))),
    )
    return (height - fitted_rows) // 2, (width - fitted_columns) // 2, fitted_rows, fitted_columns


def _panels(area_side_px: int) -> list[tuple[int, int]]:
    """The square, and for each height the widest panel within the area, upright and lying."""
    step_px = max(STEP_PX, area_side_px // 16 // STEP_PX * STEP_PX)
    steps = area_side_px // step_px
    panels = {(area_side_px, area_side_px)}
    for rows in range(1, steps + 1):
        columns = min(steps * steps // rows, math.floor(rows * MOST_ELONGATED))
        # Low panels, cut by the elongation, would be small ones.
        if rows * columns > LEAST_AREA * steps * steps:
            panels |= {(rows * step_px, columns * step_px), (columns * step_px, rows * step_px)}
    return sorted(panels)


def _resize(image: Tensor, rows: int, columns: int) -> Tensor:
    if image.shape[1:] == (rows, columns):
        return image.clone()
    resized = interpolate(
        image[None].float(), size=(rows, columns), mode="bicubic", antialias=True, align_corners=False
    )
    return resized[0].clamp(0, 1)


def _check_picture(image: Tensor) -> None:
    if image.ndim != 3 or not torch.is_floating_point(image):
        raise ValueError(
            f"a picture must be (C, H, W) in [0, 1], got {tuple(image.shape)} of {image.dtype}; divide bytes by 255"
        )
