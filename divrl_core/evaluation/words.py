"""The report's findings in plain words, made from the numbers: what moved, by how much, and what did not.

A difference counts as a movement when it is larger than twice its standard error. Everything else is called
what it is, so the same sentences are right for a run that worked and for one that did not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .paired import Difference
from .results import ModelResult

Differences = Mapping[tuple[str, str], Mapping[str, Difference]]

MINUS = "\u2212"
NAMES = {
    "nssm": "nSSM",
    "vsm": "VSM",
    "consistency_ratio": "consistency ratio",
    "diversity_over_consistency": "diversity over consistency",
    "clean_share": "whole pictures of the figure, share",
    "pose_change_deg": "true change of pose, degrees",
    "identity_error": "true identity error",
}
DIGITS = {"pose_change_deg": 1}  # after the point; 3 elsewhere


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One thing DivRL is meant to do, the difference that tests it, and the verdict in a word."""

    text: str
    measure: str
    difference: Difference
    wanted: int

    @property
    def verdict(self) -> str:
        """shown, not shown (within two standard errors of nothing), or the opposite."""
        if self.difference.direction == 0:
            return "not shown"
        return "shown" if self.difference.direction == self.wanted else "the opposite"


def number(value: float | None, digits: int = 3) -> str:
    """.490, 1.203, or n/a where it is undefined."""
    if value is None or not math.isfinite(value):
        return "n/a"
    return signed(value, digits).lstrip("+")


def signed(value: float, digits: int = 3) -> str:
    """+.135 or -.301 (with a true minus): a difference with its sign and without the needless zero; n/a
    where it is undefined.
    """
    if not math.isfinite(value):
        return "n/a"
    text = f"{abs(value):.{digits}f}"
    text = text[1:] if text.startswith("0.") else text
    return f"{MINUS if value < 0 and float(f'{value:.{digits}f}') else '+'}{text}"


def with_error(difference: Difference) -> str:
    """+.135 ± .007, which a line never breaks; n/a where it is undefined."""
    if not math.isfinite(difference.mean):
        return "n/a"
    return f"{signed(difference.mean)}\u00a0±\u00a0{number(difference.se)}"


def headline(results: Sequence[ModelResult], differences: Differences) -> str:
    """One sentence: what the run did, as far as the numbers show it."""
    names = [result.name for result in results]
    if not results:
        return "Training is under way; nothing has been held out and measured yet."
    if len(results) == 1:
        return "One evaluation so far: there is nothing yet to compare it with."
    if not differences:
        return "The evaluations were not made alike, so they cannot be compared picture by picture."
    if names == ["base", "explore", "suppress"] and len(differences) == 3:
        return _headline_of_both(differences)
    after, before = list(differences)[-1]
    return _headline_of_one(after, before, differences[after, before])


def findings(results: Sequence[ModelResult], differences: Differences) -> list[str]:
    """A few sentences with the numbers behind the headline."""
    first = results[0].name
    clauses = []
    for (after, before), found in differences.items():
        if before == first:
            parts = [_movement(NAMES[measure], found[measure]) for measure in ("nssm", "vsm")]
            clauses.append(f"{after}\u2019s {parts[0]} and its {parts[1]}")
    sentences = [f"Against {_the(first)}, {'; '.join(clauses)}."] if clauses else []
    shares = _shares(differences)
    if shares:
        sentences.append(shares)
    return sentences


def claims(differences: Differences) -> list[Claim]:
    """What the two stages are meant to do, each with the paired difference that tests it."""
    wanted = [
        ("explore", "base", "nssm", +1, "Explore raises nSSM: the structure differs more"),
        ("explore", "base", "vsm", -1, "Explore lowers VSM: identity pays for it"),
        ("suppress", "explore", "vsm", +1, "Suppress raises VSM again: identity comes back"),
        ("suppress", "base", "nssm", +1, "After suppress, nSSM is still above the base"),
    ]
    return [
        Claim(text=text, measure=measure, difference=differences[after, before][measure], wanted=sign)
        for after, before, measure, sign, text in wanted
        if (after, before) in differences
    ]


def duration(seconds: float) -> str:
    """8 min 40 s, 3 h 05 min, 12 s."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}\u00a0s"
    if whole < 3600:
        return f"{whole // 60}\u00a0min\u00a0{whole % 60:02d}\u00a0s"
    return f"{whole // 3600}\u00a0h\u00a0{whole % 3600 // 60:02d}\u00a0min"


def _headline_of_both(differences: Differences) -> str:
    explored = differences["explore", "base"]
    restored = differences["suppress", "explore"]["vsm"].direction
    kept = differences["suppress", "base"]["nssm"].direction
    first = {
        1: "Explore changed the structure",
        0: "Explore did not measurably change the structure",
        -1: "Explore made pictures stick closer to the reference",
    }[explored["nssm"].direction]
    if restored > 0:
        second = "suppress brought identity back"
        second += " and kept part of the change" if kept > 0 else ", and the change went with it"
    elif restored < 0:
        second = "suppress lost more identity instead of bringing it back"
    else:
        held = explored["vsm"].direction >= 0 and differences["suppress", "base"]["vsm"].direction >= 0
        second = "identity held throughout" if held else "suppress did not measurably bring identity back"
    return f"{first}; {second}."


def _headline_of_one(after: str, before: str, found: Mapping[str, Difference]) -> str:
    structure = {1: "raised", 0: "did not measurably move", -1: "lowered"}[found["nssm"].direction]
    identity = {1: "raised", 0: "left", -1: "lowered"}[found["vsm"].direction]
    joint = "and" if found["nssm"].direction or found["vsm"].direction == 0 else "but"
    ending = " identity (VSM) where it was" if identity == "left" else " identity (VSM)"
    first = f"{after.capitalize()} {structure} structural change (nSSM)"
    return f"{first} {joint} {identity}{ending}, against {_the(before)}."


def _movement(name: str, difference: Difference) -> str:
    amount = with_error(difference)[1:]
    if difference.direction > 0:
        return f"{name} rose by {amount}"
    if difference.direction < 0:
        return f"{name} fell by {amount}"
    return f"{name} did not measurably move ({with_error(difference)})"


def _shares(differences: Differences) -> str:
    """How much of explore's loss suppress brought back and how much of its gain it kept, where both are
    real.
    """
    if ("explore", "base") not in differences or ("suppress", "explore") not in differences:
        return ""
    explored, restored = differences["explore", "base"], differences["suppress", "explore"]
    parts = []
    if explored["vsm"].direction < 0 and restored["vsm"].direction > 0:
        parts.append(
            f"brought back {-restored['vsm'].mean / explored['vsm'].mean:.0%} of the VSM that explore lost"
        )
    if explored["nssm"].direction > 0 and ("suppress", "base") in differences:
        share = differences["suppress", "base"]["nssm"].mean / explored["nssm"].mean
        parts.append(f"kept {max(0.0, share):.0%} of the nSSM that explore gained")
    return f"Suppress {' and '.join(parts)}." if parts else ""


def _the(name: str) -> str:
    return "the base" if name == "base" else name
