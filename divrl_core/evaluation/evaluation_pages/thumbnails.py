"""Small pictures for a page of thousands: as large as the page's size allows, as WebP inside the page.

The size is chosen by trying: of a few pictures spread over all, the largest side at which all together stay below the
budget. Where not even the smallest does, fewer pictures are shown, and the page says how many.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from .contact import opened

BUDGET_BYTES = 8_200_000
QUALITIES = {256: 70, 208: 66, 176: 62, 144: 58, 120: 54, 96: 50, 80: 45}
SIDES_PX = tuple(QUALITIES)
_TRIED = 16
_MARGIN = 1.15  # the pictures that were not tried may be larger
_AS_TEXT = 4 / 3


@dataclass(frozen=True, kw_only=True)
class Size:
    """side_px: of a thumbnail. shown: how many cards fit."""

    side_px: int
    shown: int


def size_for(files: Sequence[Path], cards: int, budget_bytes: float = BUDGET_BYTES) -> Size:
    """The size at which `files`, the pictures of all cards, fit. Cards are taken to be alike."""
    if not files:
        return Size(side_px=SIDES_PX[0], shown=cards)
    tried = [opened(path) for path in files[:: max(1, len(files) // _TRIED)]]
    needed = 0.0
    for side in SIDES_PX:
        mean = sum(len(encoded(picture, side)) for picture in tried) / len(tried)
        needed = mean * _AS_TEXT * _MARGIN * len(files)
        if needed <= budget_bytes:
            return Size(side_px=side, shown=cards)
    return Size(side_px=SIDES_PX[-1], shown=max(1, int(cards * budget_bytes / needed)))


def data_urls(paths: Sequence[Path], side_px: int) -> dict[Path, str]:
    """Thumbnails as they stand in a page, by their files. Raises ValueError naming a file that is no picture."""
    distinct = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(max_workers=8) as pool:
        return dict(zip(distinct, pool.map(lambda path: data_url(path, side_px), distinct), strict=True))


def data_url(path: Path, side_px: int) -> str:
    """A thumbnail as it stands in a page."""
    text = base64.b64encode(encoded(opened(path), side_px)).decode("ascii")
    return f"data:image/webp;base64,{text}"


def encoded(picture: Image.Image, side_px: int) -> bytes:
    """WebP bytes of a picture whose longer side is at most this, one of SIDES_PX."""
    small = picture.copy()
    small.thumbnail((side_px, side_px), Image.Resampling.LANCZOS, reducing_gap=3.0)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=QUALITIES[side_px], method=4)
    return buffer.getvalue()
