"""What files of finished pictures are called, and which picture each is.

REFERENCE/NUMBER_K.png     as this program lays them out, and DreamBench++ below its tgt_image
REFERENCE_NUMBER_K.png     all in one folder
REFERENCE_K.png            all in one folder, where every reference has one prompt

NUMBER is the prompt's among those of its reference, K the picture's among those of the prompt; both count from 0.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from ...training.folder_files import nearest
from .base import PictureName, Question

_NUMBERED = re.compile(r"(?P<reference>.+)[/_](?P<number>[0-9]+)_(?P<k>[0-9]+)")
_SHORT = re.compile(r"(?P<reference>.+)_(?P<k>[0-9]+)")


class FileNames:
    """The names that pictures of these questions may have. is_part: they are not all that a reference is asked."""

    def __init__(self, questions: Sequence[Question], *, is_part: bool = False) -> None:
        self._prompts = Counter(question.reference_id for question in questions)
        self._reads_short = not is_part and set(self._prompts.values()) == {1}

    @property
    def forms(self) -> str:
        """How files may be named, in words."""
        short = " or REFERENCE_K.png" if self._reads_short else ""
        return f"REFERENCE/NUMBER_K.png or REFERENCE_NUMBER_K.png{short}, counted from 0"

    def picture(self, stem: str) -> PictureName | str:
        """The picture that a file is, or why it is none; `stem` is its path in the folder, `/` between, no ending."""
        readings = self._readings(stem)
        known = [name for name in readings if name.reference_id in self._prompts]
        asked = [name for name in known if name.number < self._prompts[name.reference_id]]
        if len(asked) == 1:
            return asked[0]
        if asked:
            return f"may be of {asked[0].reference_id!r} or of {asked[1].reference_id!r}; use folders"
        if known:
            count = self._prompts[known[0].reference_id]
            return f"{known[0].reference_id!r} has {count} {'prompt' if count == 1 else 'prompts'}, from 0"
        if not readings:
            return "not so named"
        return f"no reference {readings[0].reference_id!r}{nearest(readings[0].reference_id, self._prompts)}"

    def _readings(self, stem: str) -> list[PictureName]:
        """All pictures that a name could mean."""
        numbered, short = _NUMBERED.fullmatch(stem), _SHORT.fullmatch(stem)
        readings = []
        if numbered:
            number, k = int(numbered["number"]), int(numbered["k"])
            readings.append(PictureName(reference_id=numbered["reference"], number=number, k=k))
        if short and self._reads_short:
            readings.append(PictureName(reference_id=short["reference"], number=0, k=int(short["k"])))
        return readings
