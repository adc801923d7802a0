"""What a person watching the curves would say: warnings about a run that goes wrong, each said once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..config import TrainConfig
from .metrics_log import Row, mean_of

FLAT_SHARE = 0.5
FLAT_UPDATES = 3


@dataclass(frozen=True)
class Warned:
    """A warning: a short name, by which the log knows that it was given, and its words."""

    name: str
    message: str


class Watch:
    """Reads the rows of metrics.jsonl and answers with new warnings; what it said before, it reads there too.

    So a resumed run neither repeats a warning nor leaves one out.
    """

    def __init__(self, config: TrainConfig, measure: Callable[[Mapping[str, Any]], float]) -> None:
        """`measure` gives the held-out number that the best LoRA is chosen by; higher is better."""
        self._config = config
        self._measure = measure

    def at_start(self) -> list[Warned]:
        """Warnings that the settings alone give reason for."""
        return [Warned("settings", line) for line in self._config.advice()]

    def new_warnings(self, rows: Sequence[Row]) -> list[Warned]:
        """Warnings about the run so far that the log does not hold yet; `rows` is the whole log, oldest first."""
        said = {row.get("name") for row in rows if row.get("kind") == "warning"}
        found = [*self._flat_rewards(rows), *self._reward_hacking(rows), *self._broken_figures(rows)]
        return [warning for warning in found if warning.name not in said]

    def _flat_rewards(self, rows: Sequence[Row]) -> list[Warned]:
        last = [row for row in rows if row.get("kind") == "train"][-FLAT_UPDATES:]
        if len(last) < FLAT_UPDATES or any(row["flat_groups"] <= FLAT_SHARE for row in last):
            return []
        share = round(100 * mean_of(last, "flat_groups"))
        spread = mean_of(last, "reward_std_within")
        is_noisy = self._config.algorithm == "grpo" or self._config.nft.noisy_rollout
        noise = "rollout.noise_level or " if is_noisy else ""
        text = (
            f"rewards do not vary within groups: {share}% of the groups of the last {FLAT_UPDATES} updates taught "
            f"nothing (mean spread {spread:.2g}); raise {noise}grpo.group_size, or check the reward"
        )
        return [Warned("flat rewards", text)]

    def _broken_figures(self, rows: Sequence[Row]) -> list[Warned]:
        """Where the world is known: since the start nSSM is up and fewer pictures are clean, beyond the errors."""
        known = [row for row in rows if row.get("kind") == "heldout" and row.get("clean_share") is not None]
        if len(known) < 2:
            return []
        first, last = known[0], known[-1]
        rise, fall = last["nssm"] - first["nssm"], first["clean_share"] - last["clean_share"]
        if not (rise > _error(first, last, "nssm") and fall > _error(first, last, "clean_share")):
            return []
        text = (
            f"nSSM rises ({first['nssm']:.3f} to {last['nssm']:.3f}) while fewer pictures are whole "
            f"({first['clean_share']:.0%} to {last['clean_share']:.0%} clean): figures come apart, which the reward "
            f"takes for diversity; stop earlier, or hold the policy back with {self._config.kl_setting}"
        )
        return [Warned("broken figures", text)]

    def _reward_hacking(self, rows: Sequence[Row]) -> list[Warned]:
        """Held-out fell by more than two standard errors since its best, while the training reward kept rising.

        The errors are those of the held-out number itself; without any, a fall says nothing.
        """
        heldout = [row for row in rows if row.get("kind") == "heldout"]
        if len(heldout) < 3:
            return []
        best, last = max(heldout, key=self._measure), heldout[-1]
        fall = self._measure(best) - self._measure(last)
        errors = [row["selection_se"] for row in (best, last) if row.get("selection_se") is not None]
        if not errors or not fall > 2 * max(errors):
            return []
        train = [row for row in rows if row.get("kind") == "train"]
        since_best = [row for row in train if row["update"] > best["update"]]
        window = max(1, len(since_best) // 2)
        before, after = mean_of(since_best[:window], "reward"), mean_of(since_best[-window:], "reward")
        if not after > before:
            return []
        text = (
            f"the reward rises ({before:.3f} to {after:.3f}) while the held-out measure falls "
            f"({self._measure(best):.3f} at update {best['update']}, {self._measure(last):.3f} now): "
            f"look at the samples; lora/best.safetensors is kept, {self._config.kl_setting} holds the policy back"
        )
        return [Warned("reward hacking", text)]


def _error(first: Row, last: Row, name: str) -> float:
    """Two standard errors of the worse of two rows; endless where neither has one."""
    errors = [row[f"{name}_se"] for row in (first, last) if row.get(f"{name}_se") is not None]
    return 2 * max(errors) if errors else math.inf
