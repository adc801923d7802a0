"""The ways through one group that benchmarks/grpo.py times, and whether they compute the same thing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from plain_grpo import ADAPTER, PlainGrpo, Sampled
from tiny_kontext import GUIDANCE, PAIR, SIZE_PX, TEXT_TOKENS, NoiseReferences, make_policy
from torch import Tensor

from divrl_core.config import RewardConfig, TrainConfig
from divrl_core.flow.noise import keyed_noise
from divrl_core.models.features.base import load_backbone
from divrl_core.models.lora import load_lora_state, lora_parameters, target_pattern
from divrl_core.training.encoded_pairs import EncodedPairs
from divrl_core.training.experience import Experience, gather_experience
from divrl_core.training.processes import Processes
from divrl_core.training.rewarding import Rewarder
from divrl_core.training.rollout import sampling_plan
from divrl_core.training.stepper import Stepper, make_stepper
from divrl_core.training.update import Learner

TOLERANCE = 1e-4
SEED = 0


class Rival(ABC):
    """A way to go through one group: sample it, then learn from it."""

    text_tokens: int
    has_checkpointing: bool

    @abstractmethod
    def roll_out(self) -> None:
        """Sample the group, from prompt and reference to pictures."""

    @abstractmethod
    def learn(self) -> None:
        """One optimizer step from the group that was sampled last."""


class Plain(Rival):
    """plain_grpo.py with the product's settings; its reward is the brightness, as ours here."""

    text_tokens, has_checkpointing = TEXT_TOKENS, False

    def __init__(self, folder: Path, start: dict[str, Tensor], config: TrainConfig) -> None:
        self.config = config
        self.reference = NoiseReferences().load(PAIR.reference_id, SIZE_PX).image
        self.grpo = PlainGrpo(
            folder,
            lora_rank=config.lora.rank,
            lora_alpha=config.lora.resolved_alpha,
            lora_modules=target_pattern(config.lora.targets),
            size_px=SIZE_PX,
            text_tokens=TEXT_TOKENS,
            steps=config.rollout.steps,
            trained_steps=config.rollout.stochastic_steps,
            noise_level=config.rollout.noise_level,
            guidance=GUIDANCE,
            clip_range=config.grpo.clip_range,
            learning_rate=config.optim.lr,
        )
        load_lora_state(self.grpo.transformer, start, adapter=ADAPTER)
        self.noise_shape = ((SIZE_PX // 16) ** 2, 64)

    def roll_out(self) -> None:
        """As of `Rival`."""
        size, part = self.config.grpo.group_size, self.config.grpo.micro_batch
        self.batches: list[Sampled] = [
            self.grpo.roll_out(PAIR.prompt, self.reference, range(start, min(start + part, size)), self.noise)
            for start in range(0, size, part)
        ]

    def learn(self) -> None:
        """As of `Rival`."""
        self.grpo.learn(self.batches, self.advantages())

    def advantages(self) -> Tensor:
        """Of the group, by brightness."""
        reward = torch.cat([batch.pictures.mean(dim=(1, 2, 3)) for batch in self.batches])
        return (reward - reward.mean()) / reward.std(correction=0)

    def noise(self, sample: int, step: int) -> Tensor:
        """The product's own noise, so that both make the same pictures."""
        return keyed_noise(
            self.noise_shape, seed=SEED, stream="rollout", group=PAIR.group_id, sample=sample, step=step
        )


class Ours(Rival):
    """The product's own functions, as an update calls them."""

    def __init__(
        self,
        folder: Path,
        start: dict[str, Tensor],
        config: TrainConfig,
        *,
        text_tokens: int,
        checkpointing: bool,
    ) -> None:
        self.config, self.text_tokens, self.has_checkpointing = config, text_tokens, checkpointing
        self.policy = make_policy(
            folder, start, config.lora, text_tokens=text_tokens, checkpointing=checkpointing
        )
        self.references, self.processes = NoiseReferences(), Processes(Accelerator(cpu=True))
        reward = RewardConfig(kind="brightness")
        self.rewarder = Rewarder(reward, load_backbone(reward.backbone), size_px=SIZE_PX)
        self.plan = sampling_plan(
            config.rollout, self.policy.times(config.rollout.steps), seed=SEED, update=0
        )
        self.learner = Learner(
            policy=self.policy,
            stepper=make_stepper(config.optim, self.policy.parameters, self.processes),
            config=config.grpo,
            processes=self.processes,
            after_step=lambda: None,
        )

    def roll_out(self) -> None:
        """As of `Rival`. The pair is encoded anew: what an earlier group held is not used."""
        self.encoded = EncodedPairs(self.policy.adapter, SIZE_PX)
        self.encoded.encode(self.references, [PAIR], is_quiet=True)
        self.experience: Experience = gather_experience(
            self.policy,
            self.plan,
            self.encoded,
            self.rewarder,
            self.references,
            [PAIR],
            self.config.grpo,
            self.processes,
            seed=SEED,
            update=0,
            on_progress=lambda made, count: None,
        )

    def learn(self) -> None:
        """As of `Rival`."""
        self.learner.learn(self.plan, self.encoded, self.experience.judged, on_progress=lambda made: None)


class GradientKept(Stepper):
    """In the stepper's place: keeps the gradient and changes nothing."""

    def step(self) -> float:
        """Keep it, unclipped; its norm."""
        self.gradient = torch.cat([p.grad.flatten() for p in self.parameters.values() if p.grad is not None])
        return self.gradient.norm().item()


@dataclass(frozen=True)
class Agreement:
    """Largest difference of a latent and of a log-probability, and of the gradient in proportion to its norm.

    The log-probabilities are plain's and ours of the same steps: those of each one's own rollout hardly depend on the
    model, only on the noise.
    """

    latent: float
    log_prob: float
    gradient: float

    @property
    def holds(self) -> bool:
        """Whether both compute the same thing."""
        return max(self.latent, self.log_prob, self.gradient) < TOLERANCE

    def __str__(self) -> str:
        return (
            f"latents differ by {self.latent:.1e}, log-probabilities by {self.log_prob:.1e}, the gradient by "
            f"{self.gradient:.1e} of its norm ({TOLERANCE:.0e} is an error)"
        )


def agreement(folder: Path, start: dict[str, Tensor], config: TrainConfig) -> Agreement:
    """Both on one micro-batch as a group of its own, with the same noise and weights."""
    small = replace(config, grpo=replace(config.grpo, group_size=config.grpo.micro_batch))
    plain = Plain(folder, start, small)
    ours = Ours(folder, start, small, text_tokens=TEXT_TOKENS, checkpointing=True)
    plain.roll_out()
    ours.roll_out()
    (batch,), (judged,) = plain.batches, ours.experience.judged
    latents, log_probs = [], []
    for theirs, step in zip(batch.next_latents, judged.batch.steps, strict=True):
        latents.append((theirs - step.x_next).abs().max().item())
        with torch.no_grad():
            theirs = plain.grpo.log_prob_of(step.x_t, step.x_next, step.step, batch.conditions)
        log_probs.append((theirs - step.log_prob).abs().max().item())
    # One set of advantages for both: theirs would differ by the rounding of the pictures.
    plain.grpo.gradient([batch], judged.advantages)
    named = lora_parameters(plain.grpo.transformer, adapter=ADAPTER)
    theirs = torch.cat([named[name].grad.flatten() for name in ours.policy.parameters])
    kept = GradientKept(small.optim, ours.policy.parameters, ours.processes)
    ours.learner.stepper = kept
    ours.learn()
    distance = (kept.gradient - theirs).norm() / theirs.norm()
    return Agreement(max(latents), max(log_probs), distance.item())
