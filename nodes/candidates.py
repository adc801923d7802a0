"""Sampling many candidates of one latent with ComfyUI's own samplers, and stopping those that lose.

Candidate i is what the stock sampler makes with seed + i. Two ways (`sharing.py` tells which):

- `lockstep`: where sampler and model handle the rows of a batch apart, all candidates go through one call of the
  sampler; the model sees `micro_batch` rows at a time, and a candidate that was stopped is simply not evaluated any
  more. Survivors go on in place.
- `one_by_one`: a sampler that draws noise takes it from one generator a call, and a patch may remember a picture's
  earlier steps, so every candidate has a call of its own. At a cut all calls end, and survivors are run again from
  their first step: the sigmas are never split.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import comfy.model_management as management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from torch import Tensor

from .sharing import memory_for

if TYPE_CHECKING:
    from ..divrl_core.selection.pruning import Cut

LARGEST_SEED = 2**64

Decide = Callable[[int, list[int], Tensor], list[int]]
"""(steps taken, candidates alive, their predicted clean latents in the model's space) -> who goes on."""


@dataclass(kw_only=True)
class Candidates:
    """What to sample, and what came of it.

    is_shared: whether candidates go through one call of the sampler. plan: the cuts at which `decide` chooses who goes
    on. Results: `latents` of those that were finished, by candidate; `stopped_after` of the others; `evaluations`,
    guided predictions of one row each, and those of one finished.
    """

    guider: Any
    sampler: Any
    sigmas: Tensor
    latent: dict[str, Any]
    seeds: Sequence[int]
    micro_batch: int
    is_shared: bool
    plan: Sequence[Cut] = ()
    decide: Decide
    latents: dict[int, Tensor] = field(default_factory=dict)
    stopped_after: dict[int, int] = field(default_factory=dict)
    evaluations: int = 0
    evaluations_of_one: int = 0

    def __post_init__(self) -> None:
        """A guider of our own, so that nothing is left behind on the user's."""
        self.guider = copy.copy(self.guider)
        options = comfy.model_patcher.create_model_options_clone(self.guider.model_options)
        comfy.patcher_extension.add_wrapper_with_key(
            comfy.patcher_extension.WrappersMP.PREDICT_NOISE,
            "divrl_candidates",
            self._predict_alive,
            options,
            is_model_options=True,
        )
        self.guider.model_options = options
        self._alive = list(range(len(self.seeds)))
        self._calls = 0
        self._progress = _Progress(self)

    @property
    def steps(self) -> int:
        """Steps of the sampler."""
        return len(self.sigmas) - 1

    def run(self) -> None:
        """Sample; fills the results. Raises what the sampler, `decide` or an interruption raises."""
        if self.is_shared:
            self._lockstep()
        else:
            self._one_by_one()

    def _lockstep(self) -> None:
        noise = torch.cat([self._noise(seed) for seed in self.seeds])
        cuts = {cut.after_step for cut in self.plan}

        def on_step(step: int, predicted: Tensor) -> None:
            self._progress.step(predicted[self._alive])
            if step + 1 in cuts:
                self._cut(step + 1, predicted[self._alive])

        lane = _Lane(self.sampler, noise, on_step)
        finished = self._sample(lane, self.seeds[0], min(self.micro_batch, len(self.seeds)))
        self.latents = {row: finished[row : row + 1] for row in self._alive}
        self.evaluations_of_one = self._calls

    def _one_by_one(self) -> None:
        for end in (*(cut.after_step for cut in self.plan), self.steps):
            predicted = {row: self._one(row, end) for row in list(self._alive)}
            if end == self.steps:
                self.latents = predicted
            else:
                self._cut(end, torch.cat([predicted[row] for row in self._alive]))

    def _one(self, row: int, end: int) -> Tensor:
        """One candidate from its first step to `end`: its finished latent, or the clean one predicted there."""
        noise = self._noise(self.seeds[row])  # leaves the global generator as the stock node does
        seen: dict[str, Tensor] = {}

        def on_step(step: int, predicted: Tensor) -> None:
            self._progress.step(predicted)
            if step + 1 == end < self.steps:
                seen["predicted"] = predicted
                raise _EnoughSeen(predicted)

        alive, self._alive = self._alive, [0]
        before = self.evaluations
        try:
            finished = self._sample(_Lane(self.sampler, noise, on_step), self.seeds[row], 1)
        finally:
            self._alive = alive
        self.evaluations_of_one = self.evaluations - before
        if end < self.steps and not seen:
            raise ValueError(
                f"pruning: this sampler does not report step {end} of the schedule, so nothing can be foreseen there; "
                "switch pruning off, or take another sampler"
            )
        return seen.get("predicted", finished)

    def _sample(self, lane: _Lane, seed: int, rows: int) -> Tensor:
        """One session of the guider, set up for `rows` rows, as the stock node SamplerCustomAdvanced does it."""
        latent = self.latent["samples"]
        samples = self.guider.sample(
            lane.noise[:rows],
            latent.repeat(rows, 1, 1, 1),
            lane,
            self.sigmas,
            denoise_mask=self.latent.get("noise_mask"),
            callback=None,
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=seed,
        )
        result: Tensor = samples.to(management.intermediate_device())
        return result

    def _cut(self, step: int, predicted: Tensor) -> None:
        """Let `decide` choose; then have the models back that decoding may have moved away."""
        survivors = self.decide(step, list(self._alive), predicted)
        for row in set(self._alive) - set(survivors):
            self.stopped_after[row] = step
        self._alive = sorted(survivors)
        if hasattr(self.guider, "loaded_models"):  # inside a session: the sampler goes on
            own = [part for part in vars(self.guider).values() if hasattr(part, "model_patches_to")]
            rows = min(self.micro_batch, len(self._alive))
            needed = memory_for(self.guider, self.latent["samples"].shape, rows)
            management.load_models_gpu([*own, *self.guider.loaded_models], memory_required=needed)

    def _predict_alive(
        self, executor: Any, x: Tensor, timestep: Tensor, model_options: Any = None, seed: Any = None
    ) -> Tensor:
        """ComfyUI's wrapper of one guided prediction: rows in micro-batches, stopped ones stand still."""
        predicted = x.clone()
        for start in range(0, len(self._alive), self.micro_batch):
            management.throw_exception_if_processing_interrupted()
            rows = self._alive[start : start + self.micro_batch]
            predicted[rows] = executor(x[rows], timestep[rows], model_options or {}, seed)
            self.evaluations += len(rows)
        self._calls += 1
        return predicted

    def _noise(self, seed: int) -> Tensor:
        """The stock noise of a seed."""
        noise: Tensor = comfy.sample.prepare_noise(
            self.latent["samples"], seed, self.latent.get("batch_index")
        )
        return noise


class _EnoughSeen(Exception):
    """Ends a sampler's call at a cut."""

    def __init__(self, predicted: Tensor) -> None:
        super().__init__("enough steps taken")
        self.predicted = predicted


class _Lane(comfy.samplers.Sampler):
    """Stands in for the user's sampler within a session, and runs it with this lane's rows of noise."""

    def __init__(self, sampler: Any, noise: Tensor, on_step: Callable[[int, Tensor], None]) -> None:
        self.sampler, self.noise, self.on_step = sampler, noise, on_step

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        rows = len(self.noise)
        if latent_image is not None:
            latent_image = comfy.utils.repeat_to_batch_size(latent_image, rows)
        if denoise_mask is not None:
            denoise_mask = comfy.utils.repeat_to_batch_size(denoise_mask, rows)

        def after_step(step: int, predicted: Tensor, x: Tensor, total: int) -> None:
            self.on_step(step, predicted)

        try:
            result: Tensor = self.sampler.sample(
                model_wrap, sigmas, extra_args, after_step, self.noise.to(noise), latent_image, denoise_mask,
                disable_pbar,
            )  # fmt: skip
        except _EnoughSeen as stop:
            return stop.predicted
        return result


class _Progress:
    """The node's progress bar, and a live preview of all candidates side by side."""

    def __init__(self, candidates: Candidates) -> None:
        from ..divrl_core.selection.pruning import planned_steps

        patcher = candidates.guider.model_patcher
        self._previewer = latent_preview.get_previewer(patcher.load_device, patcher.model.latent_format)
        self._total = planned_steps(
            candidates.plan, len(candidates.seeds), candidates.steps, starts_again=not candidates.is_shared
        )
        self._bar = comfy.utils.ProgressBar(self._total)
        self._done = 0

    def step(self, predicted: Tensor) -> None:
        """One step of the rows in `predicted` is done. Raises when the user interrupts."""
        self._done = min(self._done + len(predicted), self._total)
        preview = None
        if self._previewer is not None:
            preview = self._previewer.decode_latent_to_preview_image("JPEG", side_by_side(predicted))
        self._bar.update_absolute(self._done, self._total, preview)
        management.throw_exception_if_processing_interrupted()


def side_by_side(latents: Tensor) -> Tensor:
    """Rows (B, C, h, w) as one latent (1, C, r h', c w') of about one row's area; empty places are left at 0."""
    columns = math.ceil(math.sqrt(len(latents)))
    rows = math.ceil(len(latents) / columns)
    if columns > 1:
        size = [max(1, side // columns) for side in latents.shape[-2:]]
        latents = torch.nn.functional.interpolate(latents, size=size, mode="area")
    empty = latents.new_zeros(rows * columns - len(latents), *latents.shape[1:])
    tiles = torch.cat([latents, empty]).unflatten(0, (rows, columns))
    return tiles.permute(2, 0, 3, 1, 4).flatten(1, 2).flatten(2, 3)[None]


def seeds_from(seed: int, count: int) -> list[int]:
    """seed, seed + 1, ... within ComfyUI's 64 bits."""
    return [(seed + number) % LARGEST_SEED for number in range(count)]
