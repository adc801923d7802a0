"""Settings of a rollout: how many steps, which of them are noisy, and how noisy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from .settings import Settings, setting

ALL_BUT_THE_LAST = (0, 1, 2, 3, 4)  # of six steps, the default


@dataclass(frozen=True, kw_only=True)
class RolloutConfig(Settings):
    """How training samples are drawn.

    The noisy steps are `stochastic_steps` in every update, or, with `window_size`, a window that slides over all steps
    but the last (MixGRPO, arXiv:2507.21802).
    """

    section: ClassVar[str] = "rollout"

    steps: int = setting(6, "Sampling steps of a rollout; the last is always deterministic.", at_least=2)
    solver: Literal["flow_sde", "cps"] = setting("flow_sde", "The stochastic step.")
    noise_level: float = setting(
        0.8, "a of the stochastic step: 0 is none; cps takes at most 1.", above=0, at_most=2
    )
    noise_levels: tuple[float, ...] | None = setting(
        None,
        "A noise level for each of the stochastic steps; null = noise_level for all.",
        above=0,
        at_most=2,
    )
    stochastic_steps: tuple[int, ...] = setting(
        ALL_BUT_THE_LAST,
        "Indices of the noisy, trained steps; 0 is the first and noisiest, the others are ODE.",
        at_least=0,
    )
    window_size: int | None = setting(
        None,
        "Noisy, trained steps of a window that slides from the first step on; null = stochastic_steps.",
        unit="steps",
        at_least=1,
    )
    window_stride: int = setting(
        1,
        "So far the window moves at a time; from the last place it goes back to step 0.",
        unit="steps",
        at_least=1,
    )
    window_every_updates: int = setting(
        25, "The window stays in a place for so long.", unit="updates", at_least=1
    )
    trained_steps_per_update: int | None = setting(
        None,
        "Train a seeded choice of so many of the stochastic steps in each update; null = all.",
        at_least=1,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window_size is None:
            self._check_fixed_steps()
        else:
            self._check_window(self.window_size)
        noisy = len(self.windows[0])
        if (self.trained_steps_per_update or 1) > noisy:
            raise ValueError(
                f"rollout.trained_steps_per_update must be at most the number of stochastic steps, "
                f"{noisy}, got {self.trained_steps_per_update}"
            )
        for step, level in self.noise_of_steps(0).items():
            if self.solver == "cps" and level > 1:
                name = "noise_level" if self.noise_levels is None else "noise_levels"
                raise ValueError(
                    f"rollout.{name} must be at most 1 for the solver cps, got {level} at step {step}"
                )

    @property
    def windows(self) -> tuple[tuple[int, ...], ...]:
        """The sets of stochastic steps that a run goes through in turn, and then again from the first.

        The window starts at 0, stride, 2 stride, ... and at last where it touches the last stochastic step.
        """
        if self.window_size is None:
            return (self.stochastic_steps,)
        last = self.steps - 1 - self.window_size
        starts = [*range(0, last, self.window_stride), last]
        return tuple(tuple(range(start, start + self.window_size)) for start in starts)

    def steps_of(self, update: int) -> tuple[int, ...]:
        """The stochastic steps of an update, counted from 0."""
        return self.windows[update // self.window_every_updates % len(self.windows)]

    def noise_of_steps(self, update: int) -> dict[int, float]:
        """The noise level of each stochastic step of an update."""
        steps = self.steps_of(update)
        return dict(zip(steps, self.noise_levels or (self.noise_level,) * len(steps), strict=True))

    @property
    def trained_steps(self) -> int:
        """How many steps of each sample are trained in an update."""
        return self.trained_steps_per_update or len(self.windows[0])

    def trained_below(self, limit: int | None) -> float:
        """Trained steps of a sample that lie below step `limit` (None: all), on average over windows and choices."""
        if limit is None:
            return self.trained_steps
        shares = [sum(step < limit for step in window) / len(window) for window in self.windows]
        return self.trained_steps * sum(shares) / len(shares)

    def _check_fixed_steps(self) -> None:
        last, steps = self.steps - 1, self.stochastic_steps
        if not steps or len(set(steps)) != len(steps):
            raise ValueError(f"rollout.stochastic_steps needs different indices, got {list(steps)}")
        if max(steps) >= last:
            raise ValueError(
                f"rollout.stochastic_steps must lie in 0..{last - 1}: step {last}, the last of {self.steps}, "
                f"is always deterministic; got {list(steps)}, take {list(range(last))}"
            )
        if self.noise_levels is not None and len(self.noise_levels) != len(steps):
            raise ValueError(
                f"rollout.noise_levels needs one for each of the {len(steps)} stochastic steps, "
                f"got {len(self.noise_levels)}: {list(self.noise_levels)}"
            )
        given = [name for name in ("window_stride", "window_every_updates") if self._is_changed(name)]
        if given:
            raise ValueError(
                f"rollout.{given[0]} says nothing without rollout.window_size; give that too, or leave it out"
            )

    def _check_window(self, size: int) -> None:
        if size > self.steps - 1:
            raise ValueError(
                f"rollout.window_size must be at most {self.steps - 1}: the last of {self.steps} steps is always "
                f"deterministic; got {size}"
            )
        # Settings that were read back from a file hold the default too, so only another value contradicts the window.
        if self._is_changed("stochastic_steps"):
            raise ValueError(
                f"rollout.window_size={size} and rollout.stochastic_steps={list(self.stochastic_steps)} contradict "
                "each other: the window says which steps are noisy; leave one of them out"
            )
        if self.noise_levels is not None:
            raise ValueError(
                "rollout.noise_levels belongs to rollout.stochastic_steps, and a window moves over the steps; take "
                "rollout.noise_level"
            )

    def _is_changed(self, name: str) -> bool:
        return bool(getattr(self, name) != self.__dataclass_fields__[name].default)
