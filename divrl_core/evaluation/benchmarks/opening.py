"""A benchmark from what a user names: the layout is found by what is there.

dreambench   a folder with images/ and captions/, or with a data/ that has them       dreambench.py
folder       pictures with prompts in .txt files or a metadata.jsonl, as for training  plain_folder.py
list         a .json file: [{"prompt": ..., "image_paths": [...]}, ...]                json_list.py
pocket       the word pocket, or pocket:24                                             pocket_world.py
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...config import SegmenterConfig
from ...models.model_names import POCKET
from .base import Benchmark

if TYPE_CHECKING:
    from .picture_benchmark import Reading

LAYOUTS = (
    "DreamBench++ (a folder with images/ and captions/, in it or in its data/)",
    "a folder of pictures with prompts (fox.png with fox.txt, or a metadata.jsonl)",
    'a .json list ([{"prompt": "...", "image_paths": ["..."]}])',
    f"{POCKET} or {POCKET}:24 (24 figures of the embedded world)",
)


def open_benchmark(
    spec: str,
    *,
    references: int | None = None,
    prompts: int | None = None,
    segmenter: SegmenterConfig | None = None,
    size_px: int | None = None,
    seed: int = 0,
) -> Benchmark:
    """Open the benchmark that `spec` names: a folder, a .json list, or the pocket world.

    Args:
        spec: see the top of the file. A folder called pocket is ./pocket.
        references: ask at most so many, as even over the collections as they come; None: all.
        prompts: ask the first so many prompts of each reference; None: all.
        segmenter: what makes masks of pictures that bring none (later: `training.model_masks.make_masks`); None: there
            the whole picture counts. The pocket world's masks are exact.
        size_px: a subject whose mask vanishes at this side is a problem; None: not looked at.
        seed: of the pocket world's figures; pictures do not depend on it.

    Raises:
        FileNotFoundError: nothing of that name is there.
        ValueError: no layout that is known, a limit below 1; as DataProblems everything that is wrong in the data.
    """
    from .limits import Limits
    from .picture_benchmark import Reading

    limits = Limits(references=references, prompts=prompts)
    if spec.partition(":")[0] == POCKET:
        from .pocket_world import open_pocket_world

        if segmenter is not None and segmenter.model is not None:
            raise ValueError("a segmenter says nothing about the pocket world, whose masks are exact")
        return open_pocket_world(spec, limits, seed=seed)
    reading = Reading(limits=limits, segmenter=segmenter, size_px=size_px)
    if not spec.strip():
        raise ValueError(f"a benchmark is {_known()}; got nothing")
    return _open_path(Path(spec).expanduser(), reading)


def _open_path(path: Path, reading: Reading) -> Benchmark:
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {path}; a benchmark is {_known()}")
    if path.is_file():
        if path.suffix.lower() != ".json":
            raise ValueError(f"{path} is no benchmark{_hint_of_file(path)}; a benchmark is {_known()}")
        from .json_list import open_json_list

        return open_json_list(path, reading)
    return _open_folder(path, reading)


def _open_folder(folder: Path, reading: Reading) -> Benchmark:
    from ...training.folder_files import METADATA_NAME, is_picture
    from .dreambench import dreambench_root, open_dreambench
    from .plain_folder import open_plain_folder

    if dreambench_root(folder) is not None:
        return open_dreambench(folder, reading)
    if (folder / METADATA_NAME).is_file() or any(is_picture(path) for path in folder.iterdir()):
        return open_plain_folder(folder, reading)
    raise ValueError(f"{folder} is no benchmark: {_inside(folder)}; a benchmark is {_known()}")


def _known() -> str:
    return f"{'; '.join(LAYOUTS[:-1])}; or {LAYOUTS[-1]}"


def _hint_of_file(path: Path) -> str:
    if path.suffix.lower() == ".jsonl":
        return f": of rows in a .jsonl give the folder, {path.parent}, and call it metadata.jsonl"
    return ""


def _inside(folder: Path) -> str:
    """What is in a folder instead of a benchmark."""
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir() if path.name[0] != ".")
    if not names:
        return "it is empty"
    if "tgt_image/" in names:
        return "it holds the finished pictures of a system"
    halves = [name for name in ("images/", "captions/") if name in names]
    if len(halves) == 1:
        return f"it has {halves[0]} and no {'captions/' if halves[0] == 'images/' else 'images/'}"
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"it holds {', '.join(names[:5])}{more}"
