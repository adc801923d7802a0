"""Which of a segmentation model's classes, and which of a picture's segments, are the subject.

The first of these rules that says something holds:

1. labels that the user names: every pixel of these classes;
2. a class named background: all the other classes;
3. (models that find segments) classes named as one of COCO's 80 things.

Without a label, a model that gives a class to each pixel answers with all pixels of its subject classes; of one that
finds segments the subject is the one segment that covers most of the picture, the middle counting more:
sum over its pixels of exp(-2 (u^2 + v^2)), u and v from -1 to 1 across the picture.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

BACKGROUND = "background"
SHOWN_NAMES = 40
COCO_THINGS = frozenset(
    name.strip()
    for name in [
        "\n    person",
        " bicycle",
        " car",
        " motorcycle",
        " airplane",
        " bus",
        " train",
        " truck",
        " boat",
        " traffic light",
        " fire hydrant",
        " stop sign",
        "\n    parking meter",
        " bench",
        " bird",
        " cat",
        " dog",
        " horse",
        " sheep",
        " cow",
        " elephant",
        " bear",
        " zebra",
        " giraffe",
        " backpack",
        " umbrella",
        " handbag",
        "\n    tie",
        " suitcase",
        " frisbee",
        " skis",
        " snowboard",
        " sports ball",
        " kite",
        " baseball bat",
        " baseball glove",
        " skateboard",
        " surfboard",
        "\n    tennis racket",
        " bottle",
        " wine glass",
        " cup",
        " fork",
        " knife",
        " spoon",
        " bowl",
        " banana",
        " apple",
        " sandwich",
        " orange",
        " broccoli",
        " carrot",
        "\n    hot dog",
        " pizza",
        " donut",
        " cake",
        " chair",
        " couch",
        " potted plant",
        " bed",
        " dining table",
        " toilet",
        " tv",
        " laptop",
        " mouse",
        " remote",
        "\n    keyboard",
        " cell phone",
        " microwave",
        " oven",
        " toaster",
        " sink",
        " refrigerator",
        " book",
        " clock",
        " vase",
        " scissors",
        " teddy bear",
        "\n    hair drier",
        " toothbrush",
    ]
)


def subject_classes(
    classes: Mapping[int, str], labels: Collection[str], *, name: str, finds_segments: bool
) -> frozenset[int]:
    """The numbers of the classes that may be the subject.

    `name` is the model's, for messages. Raises ValueError for a label that no class has, naming those there are, and
    where no rule says which classes are the subject.
    """
    if labels:
        return frozenset(number for label in labels for number in _named(classes, label, name))
    names = {number: _plain(text) for number, text in classes.items()}
    if BACKGROUND in names.values():
        return frozenset(number for number, text in names.items() if text != BACKGROUND)
    if finds_segments:
        things = frozenset(number for number in names if _synonyms(classes[number]) & COCO_THINGS)
        if things:
            return things
    raise ValueError(
        f"{name}: none of its classes is named {BACKGROUND}"
        f"{', none as a thing of COCO' if finds_segments else ''}: name the subject's by labels; it knows "
        f"{_listed(classes)}"
    )


def central_segment(segments: Tensor, numbers: Collection[int]) -> int | None:
    """The number of the segment that covers most of the picture, the middle counting more (see the top of the file).

    segments: (H, W), the number of each pixel's segment. numbers: those that are asked about; None where there is none.
    Of equals the first.
    """
    height, width = segments.shape
    weights = torch.exp(-2 * (_axis(height)[:, None] ** 2 + _axis(width)[None] ** 2))
    sums = {number: float(weights[segments == number].sum()) for number in numbers}
    return max(sums, key=lambda number: sums[number]) if sums else None


def _axis(count: int) -> Tensor:
    """The centres of so many pixels between -1 and 1, float64."""
    return (torch.arange(count, dtype=torch.float64) * 2 + 1) / count - 1


def _named(classes: Mapping[int, str], label: str, name: str) -> list[int]:
    numbers = [number for number, text in classes.items() if _plain(label) in _synonyms(text)]
    if numbers:
        return numbers
    known = {_plain(text): text for text in classes.values()}
    near = difflib.get_close_matches(_plain(label), list(known), n=1)
    hint = f" (did you mean {known[near[0]]}?)" if near else ""
    raise ValueError(f"{name}: labels: {label!r} is none of its classes{hint}; it knows {_listed(classes)}")


def _synonyms(text: str) -> set[str]:
    """A class's whole name, and each part of one such as "door, double door"."""
    return {_plain(text), *(_plain(part) for part in text.split(","))}


def _plain(text: str) -> str:
    return " ".join(text.lower().replace("_", " ").split())


def _listed(classes: Mapping[int, str]) -> str:
    names = [classes[number] for number in sorted(classes)]
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more
