"""What a person watching the curves would say: warnings about a run that goes wrong, each said once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..config import TrainConfig
from .metrics_log import Row, mean_of

FLAT_SHARE = 0.5
FLAT_UPDATES = 3


class Watch:
    """Reads the rows of metrics.jsonl as they come and answers with new warnings."""

    def __init__(self, config: TrainConfig, measure: Callable[[Mapping[str, Any]], float]) -> None:
        """`measure` gives the held-out number that the best LoRA is chosen by; higher is better."""
        self._config = config
        self._measure = measure
        self._said: set[str] = set()

    def at_start(self) -> list[str]:
        """Warnings that the settings alone give reason for."""
        return list(self._config.advice())

    def new_warnings(self, rows: Sequence[Row]) -> list[str]:
        """Warnings about the run so far that were not given before; `rows` is the whole log, oldest first."""
        found = [*self._flat_rewards(rows), *self._reward_hacking(rows)]
        fresh = [(name, text) for name, text in found if name not in self._said]
        self._said.update(name for name, _ in fresh)
        return [text for _, text in fresh]

    def _flat_rewards(self, rows: Sequence[Row]) -> list[tuple[str, str]]:
        last = [row for row in rows if row.get("kind") == "train"][-FLAT_UPDATES:]
        if len(last) < FLAT_UPDATES or any(row["flat_groups"] <= FLAT_SHARE for row in last):
            return []
        share = round(100 * mean_of(last, "flat_groups"))
        spread = mean_of(last, "reward_std_within")
        text = (
            f"rewards do not vary within groups: {share}% of the groups of the last {FLAT_UPDATES} updates taught "
            f"nothing (mean spread {spread:.2g}); raise rollout.noise_level or grpo.group_size, or check the reward"
        )
        return [("flat rewards", text)]

    def _reward_hacking(self, rows: Sequence[Row]) -> list[tuple[str, str]]:
        """Held-out fell by more than two standard errors since its best, while the training reward kept rising."""
        heldout = [row for row in rows if row.get("kind") == "heldout"]
        if len(heldout) < 3:
            return []
        best, last = max(heldout, key=self._measure), heldout[-1]
        fall = self._measure(best) - self._measure(last)
        if not fall > 2 * max(best.get("nssm_se") or 0.0, last.get("nssm_se") or 0.0):
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
            "look at the samples; lora/best.safetensors is kept, grpo.kl_weight holds the policy back"
        )
        return [("reward hacking", text)]
