"""When candidates are compared before they are finished, and how many go on.

A candidate's picture can be foreseen at any step: `x_0 = x_t - t v`, of the same step's latent and time. Early steps
settle how a picture is laid out, so they may choose for structure; what identity it will have is settled late, so early
steps only reject clear failures: a VSM below `s (1 - t)`, a bar that rises to the gate s as t falls to 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

FIRST_CUT, SECOND_CUT = 1 / 7, 2 / 7  # of the steps; 4 and 8 of 28
# So many reach the end for each that is kept: identity is settled late, and the gate needs a choice.
FINISHED_PER_KEPT = 2


@dataclass(frozen=True)
class Cut:
    """After `after_step` steps of the sampler, `survivors` candidates go on."""

    after_step: int
    survivors: int


def pruning_plan(candidates: int, keep: int, steps: int) -> tuple[Cut, ...]:
    """Half go on after a seventh of the steps, a quarter after two sevenths, but never fewer than twice `keep`.

    Cuts that would stop nobody, or fall on the last step, are left out. Raises ValueError unless
    1 <= keep <= candidates and steps >= 1. Why twice: docs/comfyui.md, "Gated best-of-N".
    """
    check_counts(candidates, keep)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    least = FINISHED_PER_KEPT * keep
    wanted = [
        Cut(max(1, round(steps * FIRST_CUT)), max(least, math.ceil(candidates / 2))),
        Cut(max(2, round(steps * SECOND_CUT)), max(least, math.ceil(candidates / 4))),
    ]
    return _effective(wanted, candidates, steps)


def parse_plan(text: str, candidates: int, keep: int, steps: int) -> tuple[Cut, ...]:
    """A plan in a user's words: "4:5 8:3" stops all but 5 after step 4 and all but 3 after step 8.

    Empty text or "auto" gives `pruning_plan`. Raises ValueError for anything else that is not such a plan, for steps
    that do not rise or lie beyond the last but one, and for fewer survivors than `keep`.
    """
    if text.strip() in ("", "auto"):
        return pruning_plan(candidates, keep, steps)
    check_counts(candidates, keep)
    try:
        cuts = [Cut(*(int(number) for number in pair.split(":"))) for pair in text.replace(",", " ").split()]
    except (TypeError, ValueError):
        raise ValueError(
            f'the pruning plan must be "auto" or pairs STEP:SURVIVORS such as "4:5 8:3", got {text!r}'
        ) from None
    for earlier, later in zip([Cut(0, candidates), *cuts], cuts):
        if not earlier.after_step < later.after_step < steps:
            raise ValueError(
                f"the pruning plan's steps must rise within 1..{steps - 1} (the sampler takes {steps}), got {text!r}"
            )
        if not keep <= later.survivors <= earlier.survivors:
            raise ValueError(
                f"the pruning plan's survivors must fall from {candidates} candidates to no fewer than the {keep} "
                f"kept, got {text!r}"
            )
    return _effective(cuts, candidates, steps)


def planned_steps(plan: Sequence[Cut], candidates: int, steps: int, *, starts_again: bool = False) -> int:
    """Steps of the sampler over all candidates under a plan; `candidates * steps` without one.

    starts_again: survivors of a cut take all steps anew, where they cannot go on in place.
    """
    total, alive, done = 0, candidates, 0
    for cut in plan:
        total += alive * (cut.after_step - done)
        alive, done = cut.survivors, 0 if starts_again else cut.after_step
    return total + alive * (steps - done)


def identity_bar(gate: float, t: float) -> float:
    """The least VSM that goes on at time t in [0, 1]: ``s (1 - t)``."""
    return gate * (1 - min(max(t, 0.0), 1.0))


def check_counts(candidates: int, keep: int) -> None:
    """Raises ValueError unless 1 <= keep <= candidates."""
    if not 1 <= keep <= candidates:
        raise ValueError(
            f"keep must be between 1 and the number of candidates, {candidates}, got {keep}; "
            "lower keep, or raise candidates"
        )


def _effective(cuts: Sequence[Cut], candidates: int, steps: int) -> tuple[Cut, ...]:
    effective: list[Cut] = []
    alive = candidates
    for cut in cuts:
        later = effective[-1].after_step if effective else 0
        if cut.survivors < alive and later < cut.after_step < steps:
            effective.append(cut)
            alive = cut.survivors
    return tuple(effective)
