"""Pictures in the layout of DreamBench++'s own generator, so that its scripts score them unchanged.

samples/METHOD/src_image/live_subject_animal_00_kitten/0_0.jpg    the reference, once for each picture
samples/METHOD/text/live_subject_animal_00_kitten/0_0.txt         the prompt
samples/METHOD/tgt_image/live_subject_animal_00_kitten/0_0.jpg    the picture: PROMPT_K, both from 0
samples/METHOD/negative_prompt.txt                                empty: none was used

Its scripts for CLIP and DINO walk the three folders side by side and need the same names in each; those that ask a
language model open PROMPT_0.jpg by that very name. So pictures are JPEG, of quality 95 without chroma subsampling (its
own are of Pillow's default quality, 75). `finished.py` reads the same layout.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path

from PIL import Image

from ...training.files import write_atomic_folder
from ...training.picture_references import PictureReferences
from ...training.pictures import decode_picture
from ...training.references import SomePairs
from .base import Benchmark, PictureName, Question
from .reference_ids import id_problem

SOURCES, TEXTS, TARGETS = "src_image", "text", "tgt_image"
NEGATIVE_PROMPT = "negative_prompt.txt"
JPEG_QUALITY = 95


def write_samples(
    pictures: Mapping[PictureName, Path],
    benchmark: Benchmark,
    method: str,
    output: Path,
    *,
    finish: Callable[[Path], object] = lambda folder: None,
) -> Path:
    """Write pictures of one model to output/method, in place of what is there; it appears complete or not at all.

    Args:
        pictures: of one model, by name; of an evaluation `find_finished(EVALUATION/pictures/MODEL, ...).pictures`.
        benchmark: what they answer. Its references go to src_image as they are, not cropped.
        method: the folder's name, which DreamBench++'s METHODS (constants.py) then gives.
        output: its folder `samples`.
        finish: adds what else belongs into the folder before it appears.

    Raises ValueError for a benchmark without picture files, a method that is no folder's name, a picture of another
    benchmark, or one that cannot be read.
    """
    if id_problem(method) or "/" in method:
        raise ValueError(f"the method names one folder in {output}, got {method!r}")
    questions = _answered(pictures, benchmark)
    references = _picture_references(benchmark)

    def fill(folder: Path) -> None:
        (folder / NEGATIVE_PROMPT).touch()
        sources: dict[str, bytes] = {}
        for name, path in pictures.items():
            if name.reference_id not in sources:
                sources[name.reference_id] = _jpeg(references.decoded(name.reference_id)[0].rgb)
            _write_sample(folder, name, sources[name.reference_id], questions[name], path)
        finish(folder)

    return write_atomic_folder(output / method, fill)


def _answered(pictures: Mapping[PictureName, Path], benchmark: Benchmark) -> dict[PictureName, Question]:
    """The question of each picture."""
    asked = {(question.reference_id, question.number): question for question in benchmark.questions}
    strange = [name for name in pictures if (name.reference_id, name.number) not in asked]
    if strange or not pictures:
        got = f"{len(strange)} of other questions, such as {strange[0].file}" if strange else "none"
        raise ValueError(f"samples are pictures that answer {benchmark.name}'s questions, got {got}")
    return {name: asked[name.reference_id, name.number] for name in pictures}


def _picture_references(benchmark: Benchmark) -> PictureReferences:
    references = benchmark.references
    whole = references.references if isinstance(references, SomePairs) else references
    if not isinstance(whole, PictureReferences):
        raise ValueError(
            f"samples hold the references' own pictures; those of {benchmark.name} are no picture files"
        )
    return whole


def _write_sample(folder: Path, name: PictureName, source: bytes, question: Question, picture: Path) -> None:
    try:
        target = _jpeg(decode_picture(picture).rgb)
    except ValueError as error:
        raise ValueError(f"{picture}: {error}") from error
    stem = f"{name.number}_{name.k}"
    contents = {
        f"{SOURCES}/{name.reference_id}/{stem}.jpg": source,
        f"{TEXTS}/{name.reference_id}/{stem}.txt": question.pair.prompt.encode("utf-8"),
        f"{TARGETS}/{name.reference_id}/{stem}.jpg": target,
    }
    for file, content in contents.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(content)


def _jpeg(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return stream.getvalue()
