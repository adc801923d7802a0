"""Every setting of a training run: one frozen dataclass a room, gathered in `TrainConfig`.

Defaults are the paper's and its public configuration's (arXiv:2606.23950) unless the sentence says otherwise.
A dataclass that exists is valid: types, bounds and contradictions are checked when it is made (ValueError).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from .config_grpo import GrpoConfig
from .config_inputs import DataConfig, LoraConfig, ModelConfig, SegmenterConfig
from .config_nft import NftConfig
from .config_reward import BackboneConfig, RemoteRewardConfig, RewardConfig
from .config_rollout import RolloutConfig
from .settings import Settings, apply_overrides, from_mapping, merge, setting, to_mapping

__all__ = [
    "BackboneConfig",
    "CommonRunConfig",
    "DataConfig",
    "GrpoConfig",
    "LoraConfig",
    "ModelConfig",
    "NftConfig",
    "OptimConfig",
    "RemoteRewardConfig",
    "RewardConfig",
    "RolloutConfig",
    "RunConfig",
    "SegmenterConfig",
    "TrainConfig",
    "apply_overrides",
    "from_mapping",
    "to_mapping",
]


@dataclass(frozen=True, kw_only=True)
class OptimConfig(Settings):
    """The optimizer and the moving average of the weights."""

    section: ClassVar[str] = "optim"

    name: Literal["adamw", "adamw8bit", "prodigy"] = setting(
        "adamw",
        "adamw8bit needs the package bitsandbytes, prodigy (which finds its own rate, lr=1) prodigyopt.",
    )
    lr: float = setting(3e-4, "Learning rate.", above=0, at_most=10)
    betas: tuple[float, float] = setting(
        (0.9, 0.999), "AdamW's decay of its two moments.", at_least=0, below=1
    )
    eps: float = setting(
        1e-15, "AdamW's eps: LoRA gradients are near 6e-9 at full size, 1e-8 swamps them.", above=0
    )
    weight_decay: float = setting(1e-4, "AdamW's weight decay.", at_least=0)
    max_grad_norm: float = setting(1.0, "The gradient is scaled down to this norm.", above=0)
    ema_decay: float = setting(
        0.9, "Decay of the average that is evaluated and exported; 0 = none.", at_least=0, below=1
    )
    warmup_updates: int = setting(
        0, "The learning rate rises linearly over these.", unit="updates", at_least=0
    )
    offload: bool = setting(
        False,
        "Keep the optimizer's moments in host memory and make its steps there: less GPU memory, slower steps.",
    )


@dataclass(frozen=True, kw_only=True)
class CommonRunConfig(Settings):
    """What the runs of every method have: seed, files, device, start."""

    section: ClassVar[str] = "run"

    seed: int = setting(0, "Seed of noise, order and choice.", at_least=0)
    keep_last: int = setting(3, "Numbered LoRA files kept beside the best.", unit="files", at_least=1)
    sample_steps: int = setting(28, "Deterministic sampling steps of the sample sheets.", at_least=1)
    sample_seeds: tuple[int, ...] = setting(
        (0, 1, 2, 3), "Columns of the sample sheet: one picture a seed.", at_least=0
    )
    tracker: str | None = setting(
        None, "A tracker accelerate knows: tensorboard, wandb, trackio; null = none."
    )
    threads: int | None = setting(
        None, "CPU threads; null = torch's choice. Recorded: results depend on it.", at_least=1
    )
    init_lora: str | None = setting(
        None, "LoRA file the run starts from: suppress needs explore's, pairs in cfm go on from grids'."
    )
    mixed_precision: Literal["no", "bf16", "fp16"] = setting(
        "no", "Autocast of accelerate; fp16 cannot be trained (no loss scaling)."
    )
    cache: str | None = setting(
        None,
        "Folder of encoded pictures and captions, which runs may share; null = cache/ in the run's folder.",
    )


@dataclass(frozen=True, kw_only=True)
class RunConfig(CommonRunConfig):
    """Length, seed, what is written and when."""

    updates: int = setting(3200, "Length of the run.", unit="updates", at_least=1)
    sample_every_updates: int = setting(
        50, "A contact sheet every so often, and before the first.", unit="updates", at_least=1
    )
    eval_every_updates: int = setting(
        50, "Held-out measures every so often, and before the first.", unit="updates", at_least=1
    )
    save_every_updates: int = setting(
        25, "Checkpoint and LoRA file every so often.", unit="updates", at_least=1
    )
    eval_steps: int = setting(28, "Deterministic sampling steps of the held-out pictures.", at_least=1)
    eval_images: int = setting(64, "Held-out pictures made for each evaluation.", unit="pictures", at_least=2)
    sample_references: int = setting(4, "Rows of the contact sheet.", unit="references", at_least=1)


@dataclass(frozen=True, kw_only=True)
class SampleWork:
    """How often the model answers for one sample of an update: in the rollout, with a gradient, and for what it is
    compared with (on average, where updates differ)."""

    rollout: int
    trained: int
    old_policy: int
    kl_reference: float


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Settings):
    """One training run. `TrainConfig.explore()` and `.suppress(init_lora=...)` give a stage's defaults."""

    stage: Literal["explore", "suppress"] = setting(
        "explore", "The stage of DivRL; it sets the reward's default."
    )
    algorithm: Literal["grpo", "nft"] = setting(
        "grpo", "How the policy learns from rewards: Flow-GRPO, or DiffusionNFT (nft.*)."
    )
    model: ModelConfig = setting(ModelConfig(), "The pipeline.")
    lora: LoraConfig = setting(LoraConfig(), "The adapter.")
    data: DataConfig = setting(DataConfig(), "The references.")
    reward: RewardConfig = setting(RewardConfig(), "The reward.")
    rollout: RolloutConfig = setting(RolloutConfig(), "The sampling.")
    grpo: GrpoConfig = setting(GrpoConfig(), "The policy loss.")
    nft: NftConfig = setting(NftConfig(), "The other policy loss.")
    optim: OptimConfig = setting(OptimConfig(), "The optimizer.")
    run: RunConfig = setting(RunConfig(), "The run.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stage == "suppress" and not self.run.init_lora:
            raise ValueError(
                "run.init_lora is needed: suppress starts from explore's LoRA; name its run with --from"
            )
        if self.algorithm == "nft":
            self._check_nft()
        if self.grpo.kl_steps is not None and not self.rollout.trained_below(self.grpo.kl_steps):
            raise ValueError(
                f"grpo.kl_steps={self.grpo.kl_steps}: no trained step lies below it, the first is "
                f"{min(map(min, self.rollout.windows))}; raise it, or leave it out"
            )
        if self.grpo.kl_reference == "init" and not self.run.init_lora:
            raise ValueError(
                "grpo.kl_reference=init needs run.init_lora; without one take grpo.kl_reference=base"
            )
        if self.model.dtype == "float16":
            raise ValueError(
                "model.dtype=float16 cannot be trained: without loss scaling the LoRA's gradients vanish; "
                "take bfloat16 or float32"
            )
        if self.run.mixed_precision == "fp16":
            raise ValueError(
                "run.mixed_precision=fp16 cannot be trained: without loss scaling the LoRA's gradients vanish; "
                "take bf16 or no"
            )

    def _check_nft(self) -> None:
        """What of the other algorithm's settings cannot be meant."""
        rollout, grpo, nft = self.rollout, self.grpo, self.nft
        meant = {
            "grpo.kl_weight": ("nft.kl_weight, with grpo.kl_weight=0", grpo.kl_weight > 0),
            "grpo.kl_steps": ("nft.kl_weight", grpo.kl_steps is not None),
            "grpo.objective": ("grpo.objective=clip, which is not read", grpo.objective != "clip"),
            "rollout.trained_steps_per_update": (
                "nft.times_per_sample",
                rollout.trained_steps_per_update is not None,
            ),
            "rollout.window_size": (
                "nft.noisy_rollout=true",
                rollout.window_size is not None and not nft.noisy_rollout,
            ),
            "rollout.noise_levels": (
                "nft.noisy_rollout=true",
                rollout.noise_levels is not None and not nft.noisy_rollout,
            ),
        }
        for name, (instead, is_set) in meant.items():
            if is_set:
                raise ValueError(f"{name} says nothing with algorithm=nft; take {instead}, or leave it out")
        if nft.times == "schedule" and nft.times_per_sample > rollout.steps:
            raise ValueError(
                f"nft.times_per_sample must be at most rollout.steps with nft.times=schedule: got "
                f"{nft.times_per_sample} of {rollout.steps}; take nft.times=uniform or more steps"
            )

    @property
    def kl_setting(self) -> str:
        """The name of the setting that holds the policy to its KL reference."""
        return f"{self.algorithm}.kl_weight"

    @property
    def kl_weight(self) -> float:
        """How much the algorithm holds the policy to its KL reference."""
        return self.nft.kl_weight if self.algorithm == "nft" else self.grpo.kl_weight

    @property
    def holds_on_to_start(self) -> bool:
        """Whether KL needs a frozen copy of the LoRA that the run starts from."""
        return self.kl_weight > 0 and self.grpo.kl_reference == "init"

    @property
    def has_old_policy(self) -> bool:
        """Whether a copy of the LoRA draws the samples."""
        return self.algorithm == "nft"

    @property
    def work_of_a_sample(self) -> SampleWork:
        """What the algorithm asks of the model for a sample from which it learns."""
        steps, grpo = self.rollout.steps, self.grpo
        if self.algorithm == "nft":
            times = self.nft.times_per_sample
            held = times if self.nft.kl_weight > 0 else 0
            return SampleWork(rollout=steps, trained=times, old_policy=times, kl_reference=held)
        at = self.rollout.trained_below(grpo.kl_steps) if grpo.kl_weight > 0 else 0
        return SampleWork(rollout=steps, trained=self.rollout.trained_steps, old_policy=0, kl_reference=at)

    @classmethod
    def explore(cls, **sections: Any) -> TrainConfig:
        """Stage 1: the structure reward nSSM (eq. 8)."""
        return cls(stage="explore", **sections)

    @classmethod
    def suppress(cls, *, init_lora: str, **sections: Any) -> TrainConfig:
        """Stage 2: the gated reward (eq. 9), from stage 1's LoRA, which is also what KL holds on to."""
        sections["run"] = replace(sections.get("run", RunConfig()), init_lora=init_lora)
        sections.setdefault("reward", RewardConfig(kind="gated"))
        sections.setdefault("grpo", GrpoConfig(kl_reference="init"))
        return cls(stage="suppress", **sections)

    @classmethod
    def completed(cls, mapping: Mapping[str, Any]) -> Mapping[str, Any]:
        """The mapping laid over the stage's own defaults."""
        if mapping.get("stage", "explore") != "suppress":
            return mapping
        return merge({"reward": {"kind": "gated"}, "grpo": {"kl_reference": "init"}}, mapping)

    def advice(self) -> tuple[str, ...]:
        """Warnings about settings that are allowed but seldom meant, a line each."""
        lines = []
        if self.grpo.group_size < 4:
            lines.append(
                f"grpo.group_size is {self.grpo.group_size}: "
                "with fewer than 4 samples a group's mean and spread are noise"
            )
        if self.algorithm != "nft" and self.nft != NftConfig():
            lines.append("nft.* says nothing: algorithm is grpo")
        if self.grpo.objective == "dppo" and self.grpo.optimizer_steps_per_rollout == 1:
            lines.append(
                "grpo.objective=dppo drops nothing with grpo.optimizer_steps_per_rollout=1, as the clip clips nothing: "
                "the policy is still the rollout's; take 2 or more"
            )
        if self.grpo.kl_steps is not None and self.grpo.kl_weight == 0:
            lines.append("grpo.kl_steps says nothing: grpo.kl_weight is 0, so there is no KL")
        if self.stage == "suppress" and self.reward.kind == "nssm":
            lines.append(
                "reward.kind is nssm in stage suppress: nothing holds the identity; "
                "take reward.kind=gated (eq. 9)"
            )
        if self.data.source == "pocket" and self.model.is_of_the_hub:
            lines.append(
                "data.source is pocket, the toy world, but the model is of the hub: name your pictures in data.source"
            )
        if self.model.dtype == "bfloat16" and self.run.mixed_precision == "no":
            lines.append(
                "run.mixed_precision is no: the LoRA's products are made in float32, on a GPU a quarter slower in all; "
                "take bf16"
            )
        if self.model.quantization == "int8" and self.model.gradient_checkpointing:
            lines.append(
                "model.quantization=int8: bitsandbytes keeps inputs that gradient checkpointing does not free; "
                "torchao_int8 and nf4 take far less memory in training"
            )
        if self.optim.name == "prodigy" and self.optim.lr < 0.1:
            lines.append(
                f"optim.lr multiplies the rate that prodigy finds: {self.optim.lr:g} is small, take 1"
            )
        if self.run.eval_every_updates > self.run.updates:
            lines.append(
                f"run.eval_every_updates is {self.run.eval_every_updates}, run.updates {self.run.updates}: "
                "the best LoRA can only be the first or the last"
            )
        return tuple(lines)
