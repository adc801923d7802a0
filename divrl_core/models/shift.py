"""A pipeline's own shift of the sampling schedule, read from its scheduler's settings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from ..flow.schedule import shift_mu, sigmas
from .hub import PipelineFolder

# Settings that bend the schedule in other ways, and the value that leaves it alone. FLUX uses none of them.
_PLAIN: dict[str, Any] = {
    "shift_terminal": None,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "invert_sigmas": False,
    "stochastic_sampling": False,
    "time_shift_type": "exponential",
}


@dataclass(frozen=True)
class ScheduleShift:
    """How far the sampling times lean towards noise: by picture size (FLUX), or by one number."""

    base: tuple[int, float]
    """(token count, mu) of the line's first point."""
    top: tuple[int, float]
    """(token count, mu) of the line's second point."""
    static_mu: float | None
    """mu for every size, where the scheduler has one shift s: mu = ln s. None: the line above."""

    @staticmethod
    def read(folder: PipelineFolder) -> ScheduleShift:
        """Read it from the pipeline's scheduler. Raises ValueError where that asks for another schedule."""
        path = folder.path / "scheduler"
        try:
            scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(str(path), local_files_only=True)
        except (OSError, ValueError, TypeError) as error:
            first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"{path}: could not be loaded: {first_line}") from error
        settings = scheduler.config
        for name, plain in _PLAIN.items():
            if (settings.get(name, plain) or plain) != plain:
                raise ValueError(
                    f"{path}: {name}={settings[name]!r} is not supported; FLUX's schedule has {plain!r}"
                )
        is_dynamic = settings["use_dynamic_shifting"]
        if not is_dynamic and settings["shift"] <= 0:
            raise ValueError(f"{path}: shift must be a positive number, got {settings['shift']}")
        return ScheduleShift(
            base=(settings.get("base_image_seq_len", 256), settings.get("base_shift", 0.5)),
            top=(settings.get("max_image_seq_len", 4096), settings.get("max_shift", 1.15)),
            static_mu=None if is_dynamic else math.log(settings["shift"]),
        )

    def sigmas(self, steps: int, token_count: int) -> Tensor:
        """Times of a sampling run, float64 (steps + 1,), from 1 to 0, for a target of so many tokens."""
        return sigmas(steps, self.mu(token_count))

    def mu(self, token_count: int) -> float:
        """The shift for a target of so many tokens; 0 leaves the times evenly spaced."""
        if self.static_mu is not None:
            return self.static_mu
        return shift_mu(token_count, base=self.base, top=self.top)
