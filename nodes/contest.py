"""One run of the Gated Best-of-N Sampler: candidates sampled, compared at the cuts and at the end, and the report."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import comfy.model_management as management
import comfy.sample
import torch
from torch import Tensor

from .candidates import Candidates, seeds_from
from .convert import as_saved, latent_of_one_picture
from .decoding import Decoder
from .score import measured_with, without_nan
from .sharing import has_batches, rows_at_once, why_not_shared

if TYPE_CHECKING:
    from ..divrl_core.selection.choice import Choice, Measured

logger = logging.getLogger("divrl")


class Contest:
    """One run of the node: candidates sampled, compared at the cuts and at the end, and what is said of them."""

    images: Tensor  # (N, 3, H, W), the foreseen pictures of those stopped early
    choice: Choice

    def __init__(
        self,
        *,
        guider: Any,
        sampler: Any,
        sigmas: Tensor,
        latent: dict[str, Any],
        vae: Any,
        judge: Any,
        seed: int,
        candidates: int,
        keep: int,
        mode: str,
        gate: float,
        plan_words: str | None,
        foreseen_by: str,
        micro_batch: int,
    ) -> None:
        """Raises ValueError, before anything is sampled, for what cannot be."""
        from ..divrl_core.selection.pruning import check_counts, parse_plan

        check_counts(candidates, keep)
        steps = len(sigmas) - 1
        if steps < 1:
            raise ValueError(f"sigmas: needs at least 2, that is 1 step, got {len(sigmas)}")
        # Older versions of ComfyUI know neither these entries of a latent nor the arguments.
        ratios = {key: value for key, value in latent.items() if key.startswith("downscale_ratio")}
        samples = comfy.sample.fix_empty_latent_channels(
            guider.model_patcher, latent_of_one_picture(latent), **ratios
        )
        if samples.ndim != 4:
            raise ValueError(
                f"model: {type(guider.model_patcher.model).__name__} draws latents with a time axis (video models, "
                "Qwen-Image and others), which are not supported here"
            )
        self.latent = {**latent, "samples": samples}
        shape = _shape_of_pictures(vae, samples)
        judge.features(shape)  # what is wrong with mask, pooling or backbone shows before anything is sampled
        plan = () if plan_words is None else parse_plan(plan_words, candidates, keep, steps)
        self._survivors = {cut.after_step: cut.survivors for cut in plan}
        self.judge, self.keep, self.mode, self.gate, self.steps = judge, keep, mode, gate, steps
        self.seeds = seeds_from(seed, candidates)
        self._sigmas = sigmas
        self._decoder = Decoder(vae, guider.model_patcher.model, foreseen_by=foreseen_by)
        unshared = why_not_shared(guider, sampler)
        rows = micro_batch or rows_at_once(guider, samples.shape, candidates)
        if rows > 1 and has_batches(guider, latent):
            logger.info("micro_batch 1, since a prompt, reference or mask is a batch")
            rows = 1
        how = f"one at a time, since {unshared}" if unshared else f"{rows} at a time"
        logger.info("sampling %d candidates, %s", candidates, how)
        self.candidates: Candidates = Candidates(
            guider=guider,
            sampler=sampler,
            sigmas=sigmas,
            latent=self.latent,
            seeds=self.seeds,
            micro_batch=1 if unshared else rows,
            is_shared=not unshared,
            plan=plan,
            decide=self._decide,
        )
        self._pictures: dict[int, Tensor] = {}
        self._scores: dict[int, _Score] = {}  # as last measured

    def run(self) -> None:
        """Sample, score, choose."""
        from ..divrl_core.selection.choice import choose

        self.candidates.run()
        finished = sorted(self.candidates.latents)
        pictures = self._decoder.finish(torch.cat([self.candidates.latents[index] for index in finished]))
        measured = self._measure(finished, pictures)
        best = choose(measured, mode=self.mode, keep=self.keep, gate=self.gate)  # type: ignore[arg-type]
        kept = tuple(finished[index] for index in best.kept)
        self.choice = type(best)(kept, best.passed)
        self.images = torch.stack([self._pictures[index] for index in range(len(self.seeds))])

    def kept_images(self) -> Tensor:
        """(K, H, W, 3), the best first."""
        return self.images[list(self.choice.kept)].movedim(1, -1)

    def kept_latents(self) -> dict[str, Any]:
        """The latents of the kept, as the stock sampler hands its own on."""
        out = {key: value for key, value in self.latent.items() if not key.startswith("downscale_ratio")}
        out.pop("batch_index", None)
        return {**out, "samples": torch.cat([self.candidates.latents[index] for index in self.choice.kept])}

    def summary(self) -> str:
        """What was kept, what passed, and what it cost."""
        kept = len(self.choice.kept)
        passed = kept - self.choice.shortfall
        cost = f"{self.candidates.evaluations} model evaluations"
        whole = self._evaluations_of_all()
        if self.candidates.stopped_after:
            saved = 1 - self.candidates.evaluations / whole
            words = f"{saved:.0%} saved by pruning" if saved > 0 else "pruning cost more than it saved"
            cost += f" instead of {whole}, {words}"
        if all(one.nssm != one.nssm or one.vsm != one.vsm for one in self._scores.values()):
            return (
                "no candidate could be scored (no matches: look at the mask and tau_s); "
                f"the first {kept} are returned, marked; {cost}"
            )
        if not passed:
            return f"nothing passed the gate (VSM {self.gate:.2f}); the nearest {kept} are returned, marked; {cost}"
        short = "" if passed == kept else f", only {passed} of them past the gate, the others marked"
        return f"{kept} kept{short}; {cost}"

    def as_json(self, penalty: float) -> str:
        """Every candidate's seed, scores and fate."""
        from ..divrl_core.rewards.gate import passes, suppress_reward

        scores = [self._scores[index] for index in range(len(self.seeds))]
        nssm, vsm = torch.tensor([one.nssm for one in scores]), torch.tensor([one.vsm for one in scores])
        reward = suppress_reward(nssm, vsm, gate=self.gate, penalty_weight=penalty).total
        is_passing = passes(nssm, vsm, gate=self.gate)
        rows = [
            {
                "seed": seed,
                "vsm": float(vsm[index]),
                "nssm": float(nssm[index]),
                "reward": float(reward[index]),
                "matches": scores[index].matches,
                "passes": bool(is_passing[index]),
                "kept": index in self.choice.kept,
                "rank": self.choice.kept.index(index) + 1 if index in self.choice.kept else None,
                "stopped_after_step": self.candidates.stopped_after.get(index),
            }
            for index, seed in enumerate(self.seeds)
        ]
        content = {
            **measured_with(self.judge, gate=self.gate, penalty=penalty),
            "mode": self.mode,
            "steps": self.steps,
            "foreseen_by": self._decoder.name,
            "survivors_go_on": "in place" if self.candidates.is_shared else "from their first step",
            "evaluations": self.candidates.evaluations,
            "evaluations_without_pruning": self._evaluations_of_all(),
            "summary": self.summary(),
            "candidates": without_nan(rows),
        }
        return json.dumps(content, indent=2)

    def sheet(self) -> Any:
        """All candidates, the kept ones framed."""
        from ..divrl_core.evaluation.score_sheet import ScoredPicture, score_sheet
        from ..divrl_core.evaluation.sheets import short_number

        shape = (self.images.shape[-2], self.images.shape[-1])
        return score_sheet(
            self.judge.reference(shape).image,
            [
                ScoredPicture(
                    picture=self.images[index],
                    label=f"seed {seed}",
                    nssm=self._scores[index].nssm,
                    vsm=self._scores[index].vsm,
                    matches=self._scores[index].matches,
                    is_kept=index in self.choice.kept,
                    is_foreseen=index in self.candidates.stopped_after,
                    note=self._fate(index),
                )
                for index, seed in enumerate(self.seeds)
            ],
            gate=self.gate,
            title=f"Best of {len(self.seeds)} by {self.mode}, gate at VSM {short_number(self.gate)}",
            notes=[_sentence(self.summary()), f"Measured with {self.judge.backbone.source}."],
        )

    def _decide(self, step: int, alive: list[int], predicted: Tensor) -> list[int]:
        """At a cut: foresee, measure, keep the promising."""
        from ..divrl_core.selection.choice import survivors

        measured = self._measure(alive, self._decoder.foresee(predicted))
        count = min(self._survivors[step], len(alive))
        t = _time(self._sigmas, step - 1)
        chosen = survivors(measured, mode=self.mode, count=count, gate=self.gate, t=t)  # type: ignore[arg-type]
        logger.info("after step %d of %d: %d of %d go on", step, self.steps, len(chosen), len(alive))
        return [alive[index] for index in chosen]

    def _measure(self, indices: list[int], pictures: Tensor) -> Measured:
        measured: Measured = self.judge.measured(
            as_saved(pictures),
            between=management.throw_exception_if_processing_interrupted,
            with_distances=self.mode == "diverse set",
        )
        for row, index in enumerate(indices):
            self._pictures[index] = pictures[row].cpu()
            self._scores[index] = _Score(
                float(measured.nssm[row]), float(measured.vsm[row]), int(measured.matches[row])
            )
        return measured

    def _fate(self, index: int) -> str:
        if index in self.choice.kept:
            return f"kept, no. {self.choice.kept.index(index) + 1}"
        step = self.candidates.stopped_after.get(index)
        return "" if step is None else f"stopped after step {step}"

    def _evaluations_of_all(self) -> int:
        """Evaluations had nobody been stopped: those of a finished candidate, times all."""
        return self.candidates.evaluations_of_one * len(self.seeds)


class _Score(NamedTuple):
    nssm: float
    vsm: float
    matches: int


def _shape_of_pictures(vae: Any, samples: Tensor) -> tuple[int, int]:
    """(height, width) in px of the pictures that the VAE makes of latents (1, C, h, w)."""
    channels = getattr(vae, "latent_channels", samples.shape[1])
    if channels != samples.shape[1]:
        raise ValueError(
            f"vae: it decodes latents of {channels} channels, the model draws {samples.shape[1]}; "
            "connect the model's own"
        )
    scale = int(vae.spacial_compression_decode()) if hasattr(vae, "spacial_compression_decode") else 8
    return samples.shape[-2] * scale, samples.shape[-1] * scale


def _time(sigmas: Tensor, index: int) -> float:
    """The time t in [0, 1] at a step: sigma itself for flow models, else its share of the largest."""
    largest = float(sigmas.max())
    return float(sigmas[index]) / (largest if largest > 1 else 1.0)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
