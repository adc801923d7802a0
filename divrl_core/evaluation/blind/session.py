"""One person's session: the pair that is to be judged now, what was answered, and what may be told of it.

Until it is ended nothing that names a model leaves it: a picture is known by the number of its pair and its side.
"""

from __future__ import annotations

import hashlib
import io
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from PIL import Image

from ..contest.evaluated import Evaluation
from .agreement import agreement_of
from .answers import VERDICTS, Answer, Verdict, answer_line, answers_file, append_line, read_judgement
from .pairs import Pair, make_pairs

SIDES = ("reference", "left", "right")
AHEAD = 2  # pairs whose pictures the page may fetch before it shows them


class NotNow(ValueError):
    """What was asked for cannot be done in this state of the session: the page is behind it."""


class Session:
    """Pairs, answers, and where it stands. Thread-safe; an answer is on the disk before it counts."""

    def __init__(
        self, evaluation: Evaluation, *, judge: str = "judge", seed: int = 0, most: int | None = None
    ) -> None:
        """Raises ValueError where there is nothing to judge, or the judge's name or file is none."""
        self.evaluation, self.judge = evaluation, judge
        self.file = answers_file(evaluation.folder, judge)
        self._pairs = make_pairs(evaluation, seed=seed, most=most)
        kept = read_judgement(self.file)
        self._answers: list[Answer] = list(kept.answers)
        self._is_ended = kept.is_ended
        self._lock = threading.Lock()
        told = json.dumps([[one.left, one.right, repr(one.place)] for one in self._pairs])
        self.token = hashlib.sha256(told.encode()).hexdigest()[:12]

    def state(self) -> dict[str, Any]:
        """What the page shows."""
        with self._lock:
            return self._state()

    def answer(self, number: int, verdict: str, seconds: float) -> dict[str, Any]:
        """Keep an answer to pair `number`, which must be the one that is shown. Raises NotNow, ValueError, OSError."""
        if verdict not in VERDICTS:
            raise ValueError(f"answer must be one of {', '.join(VERDICTS)}, got {verdict!r}")
        with self._lock:
            self._refuse_ended()
            if number != self._current():
                raise NotNow(f"pair {number} is not the one that is to be judged now; reload the page")
            pair = self._pairs[number]
            answer = Answer(
                left=pair.left,
                right=pair.right,
                place=pair.place,
                answer=cast(Verdict, verdict),
                seconds=min(max(seconds, 0.0), 86400.0),
            )
            append_line(self.file, answer_line(answer))
            self._answers.append(answer)
            return self._state()

    def undo(self) -> dict[str, Any]:
        """Take back the last answer. Raises NotNow where there is none."""
        with self._lock:
            self._refuse_ended()
            if not self._answers:
                raise NotNow("there is no answer to take back")
            append_line(self.file, {"undo": True})
            self._answers.pop()
            return self._state()

    def end(self) -> dict[str, Any]:
        """Judge no more, and be told whose pictures were which."""
        with self._lock:
            if not self._is_ended:
                append_line(self.file, {"ended": True})
                self._is_ended = True
            return self._state()

    def picture(self, number: int, side: str) -> bytes:
        """A picture as PNG without anything but its pixels. Raises NotNow for one that is not shown yet."""
        with self._lock:
            current = self._current()
            shown = self._open()[: AHEAD + 1] if current is not None else []
            if side not in SIDES or number not in shown:
                raise NotNow(f"there is no picture {side} of pair {number} now")
            pair = self._pairs[number]
        with Image.open(self._path(pair, side)) as found:
            bare = Image.new("RGB", found.size)
            bare.paste(found.convert("RGB"))
        buffer = io.BytesIO()
        bare.save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()

    @property
    def answers(self) -> Sequence[Answer]:
        """What holds now."""
        return tuple(self._answers)

    def _state(self) -> dict[str, Any]:
        is_over = self._is_ended or self._current() is None
        state: dict[str, Any] = {
            "token": self.token,
            "total": len(self._pairs),
            "done": len(self._pairs) - len(self._open()),
            "ended": self._is_ended,
            "can_undo": bool(self._answers) and not self._is_ended,
            "pair": None,
            "ahead": [],
            "result": None,
        }
        if not is_over:
            now, *later = self._open()[: AHEAD + 1]
            state |= {"pair": {"number": now, "prompt": self._pairs[now].prompt}, "ahead": later}
        if self._is_ended:
            state["result"] = self._result()
        return state

    def _result(self) -> dict[str, Any] | None:
        """Everything, in numbers that a page can print."""
        found = agreement_of(self.evaluation, [read_judgement(self.file)])
        if found is None:
            return None
        return {
            "preferences": [
                {
                    "first": one.first,
                    "second": one.second,
                    "counts": [one.first_wins, one.second_wins, one.ties, one.both_bad],
                    "share": _ends(one.share.value, one.share.low, one.share.high),
                }
                for one in found.preferences
            ],
            "metrics": [
                {
                    "label": one.label,
                    "n": one.n,
                    "left_out": one.left_out,
                    "share": _ends(one.share.value, one.share.low, one.share.high),
                }
                for one in found.metrics
            ],
        }

    def _open(self) -> list[int]:
        """The numbers of the pairs that are not judged, in their order."""
        judged = {answer.key for answer in self._answers}
        return [number for number, pair in enumerate(self._pairs) if pair.key not in judged]

    def _current(self) -> int | None:
        remaining = self._open()
        return remaining[0] if remaining else None

    def _refuse_ended(self) -> None:
        if self._is_ended:
            raise NotNow(f"{self.judge} has ended and knows the models; start with another --judge")

    def _path(self, pair: Pair, side: str) -> Path:
        if side == "reference":
            return self.evaluation.reference(pair.place.reference_id)
        return self.evaluation.picture(pair.left if side == "left" else pair.right, pair.place)


def _ends(*values: float) -> list[float | None]:
    """Value, low and high; None for what is undefined."""
    return [value if value == value else None for value in values]
