"""What people answered, on disk: a line an answer, appended and flushed before the next pair is shown.

OUTPUT/blind/JUDGE.jsonl
    {"left": "base", "right": "suppress", "reference": "fox", "number": 0, "k": 2, "answer": "left", "seconds": 4.2}
    {"undo": true}                      takes back the last answer that still holds
    {"ended": true}                     the judge has seen whose pictures were which, and judges no more

A last line cut off by a kill is left out.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ..contest.records import Place

BLIND = "blind"
Verdict = Literal["left", "right", "tie", "bad"]
VERDICTS: tuple[str, ...] = get_args(Verdict)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One pair as it was judged. seconds: from when it was seen."""

    left: str
    right: str
    place: Place
    answer: Verdict
    seconds: float

    @property
    def key(self) -> tuple[frozenset[str], Place]:
        """What was judged, whatever the sides."""
        return frozenset((self.left, self.right)), self.place

    @property
    def winner(self) -> str | None:
        """The model preferred; None for a tie and where both are bad."""
        return {"left": self.left, "right": self.right}.get(self.answer)


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """All that one judge answered, in order, without what was taken back."""

    judge: str
    answers: tuple[Answer, ...]
    is_ended: bool


def answers_file(folder: Path, judge: str) -> Path:
    """The file of a judge in an evaluation's folder. Raises ValueError for a name that is no file's."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", judge):
        raise ValueError(
            f"a judge's name is a file's: letters, digits, _ . and - are needed, got {judge!r}; take another"
        )
    return folder / BLIND / f"{judge}.jsonl"


def read_judgement(path: Path) -> Judgement:
    """A judge's file; nothing where there is none. Raises ValueError, with the line, for one that is no answer."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    answers: list[Answer] = []
    is_ended = False
    for number, line in enumerate(text[: text.rfind("\n") + 1].splitlines(), start=1):
        try:
            found = json.loads(line)
            if found.get("undo"):
                answers.pop()
            elif found.get("ended"):
                is_ended = True
            else:
                answers.append(_answer(found))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(
                f"{path}:{number}: is no answer of a blind comparison ({error}); mend or delete the line"
            ) from error
    return Judgement(judge=path.stem, answers=tuple(answers), is_ended=is_ended)


def read_judgements(folder: Path) -> tuple[Judgement, ...]:
    """Every judge of an evaluation's folder, in the order of their names."""
    return tuple(read_judgement(path) for path in sorted((folder / BLIND).glob("*.jsonl")))


def ended_judgements(folder: Path) -> tuple[Judgement, ...]:
    """Those who have ended: what comes of the others is told to nobody, since they may go on."""
    return tuple(one for one in read_judgements(folder) if one.is_ended)


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Add a line; it is on the disk when this returns. A cut-off last line there is dropped first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as stream:
        stream.seek(0)
        stream.truncate(stream.read().rfind(b"\n") + 1)
        stream.seek(0, os.SEEK_END)
        stream.write((json.dumps(line, allow_nan=False) + "\n").encode("utf-8"))
        stream.flush()
        os.fsync(stream.fileno())


def answer_line(answer: Answer) -> dict[str, Any]:
    """An answer as it is kept."""
    place = answer.place
    return {
        "left": answer.left,
        "right": answer.right,
        "reference": place.reference_id,
        "number": place.number,
        "k": place.k,
        "answer": answer.answer,
        "seconds": round(answer.seconds, 2),
    }


def _answer(found: Mapping[str, Any]) -> Answer:
    if found["answer"] not in VERDICTS:
        raise ValueError(f"answer must be one of {', '.join(VERDICTS)}, got {found['answer']!r}")
    return Answer(
        left=str(found["left"]),
        right=str(found["right"]),
        place=Place(
            reference_id=str(found["reference"]),
            number=int(found["number"]),
            k=None if found["k"] is None else int(found["k"]),
        ),
        answer=found["answer"],
        seconds=float(found["seconds"]),
    )
