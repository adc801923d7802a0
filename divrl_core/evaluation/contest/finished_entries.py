"""Finished pictures of other systems into the evaluation's own folder, so that all models lie alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from ...training.files import write_atomic_bytes
from ...training.pictures import decode_picture
from ...training.processes import Processes
from ..benchmarks.base import PictureName
from ..comparison import write_picture
from .evaluated import PICTURES


def take_over(
    output: Path,
    model: str,
    files: Mapping[PictureName, Path],
    missing: Sequence[PictureName],
    processes: Processes,
) -> None:
    """Copy the missing pictures of a finished model into OUTPUT/pictures/MODEL, as PNG; of processes each its share."""
    own = missing[processes.index :: processes.count]
    for name in tqdm(own, desc=model, unit="picture", disable=not processes.is_main):
        place = output / PICTURES / model / name.file
        if _is_plain_png(files[name]):
            write_atomic_bytes(place, files[name].read_bytes())
        else:
            write_picture(place, decode_picture(files[name]).rgb)


def _is_plain_png(path: Path) -> bool:
    """Whether the file can stand as it is: PNG in RGB, which no reader turns or lays on white."""
    with Image.open(path) as file:
        turned = file.getexif().get(0x0112, 1) != 1
        return file.format == "PNG" and file.mode == "RGB" and not turned and "transparency" not in file.info
