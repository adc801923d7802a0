"""The settings of `divrl-train cfm`: masked conditional flow matching (arXiv:2511.08061).

The paper's are rank 512 on attention and feed-forward, loss on the target alone, two stages of data. It does not tell
learning rate, length, times, dropout or resolution; those defaults are ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from .config import CommonRunConfig, OptimConfig
from .config_inputs import LoraConfig, ModelConfig
from .settings import Settings, merge, setting

GRID = re.compile(r"([1-9]\d?)x([1-9]\d?)")


@dataclass(frozen=True, kw_only=True)
class CfmDataConfig(Settings):
    """Pairs of a target and a reference of one subject, with captions of the target."""

    section: ClassVar[str] = "data"

    source: str = setting(
        "pocket",
        "A folder of targets (or of grids, or with a metadata.jsonl), a Hugging Face dataset id, or pocket.",
    )
    references: str | None = setting(
        None, "A folder of references, matched to the source's pictures by their names without ending."
    )
    grid: str | None = setting(
        None,
        "ROWSxCOLUMNS, such as 2x2: each picture is a grid of one subject, and each ordered pair of its panels a pair.",
    )
    grid_gap_px: int = setting(0, "Pixels between the panels of a grid.", unit="px", at_least=0)
    held_out: str | None = setting(
        None, "A folder like the source for validation alone; null = some of the source are set apart."
    )
    held_out_pairs: int = setting(
        64, "How many pairs are validated on; no picture of them is trained on.", at_least=1
    )
    target_column: str = setting("target", "The dataset's column with the target picture.")
    reference_column: str = setting("reference", "The dataset's column with the reference picture.")
    caption_column: str = setting("caption", "The dataset's column with the target's captions, one a line.")
    split: str = setting("train", "The dataset's split.")
    aspect_buckets: bool = setting(
        True, "Panels take the target's aspect, at one area; false = squares, targets cut to their middle."
    )
    pocket_subjects: int = setting(
        256, "Figures of the pocket world to train on.", unit="figures", at_least=2
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.grid is not None:
            matched = GRID.fullmatch(self.grid)
            if matched is None or int(matched[1]) * int(matched[2]) < 2:
                raise ValueError(
                    f"data.grid must be ROWSxCOLUMNS with two panels or more (2x2), got {self.grid!r}"
                )
            if self.references is not None:
                raise ValueError(
                    "data.grid and data.references exclude each other: a grid holds its own references"
                )

        elif self.grid_gap_px:
            raise ValueError("data.grid_gap_px says nothing without data.grid (2x2)")

    @property
    def grid_shape(self) -> tuple[int, int] | None:
        """Rows and columns of the grids; None where pictures are no grids."""
        matched = GRID.fullmatch(self.grid or "")
        return (int(matched[1]), int(matched[2])) if matched else None


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig(Settings):
    """What is learned from a pair."""

    section: ClassVar[str] = "objective"

    loss: Literal["masked", "full"] = setting(
        "masked",
        "masked = on the target's tokens alone; full = on the reference's too (the paper's ablation).",
    )
    batch_size: int = setting(4, "Pairs in one forward.", unit="pairs", at_least=1)
    accumulation: int = setting(1, "Forwards whose gradients make one update.", at_least=1)
    time_density: Literal["logit_normal", "uniform", "shifted"] = setting(
        "logit_normal", "How often each time is trained; shifted = as often as sampling visits it."
    )
    time_mean: float = setting(
        0.0, "Mean of the logit-normal; above 0 is nearer noise.", at_least=-5, at_most=5
    )
    time_std: float = setting(1.0, "Spread of the logit-normal.", above=0, at_most=5)
    time_shift: float | None = setting(
        None,
        "mu of the shifted density; null = the model's own for the panel's size.",
        at_least=-5,
        at_most=5,
    )
    weighting: Literal["none", "cosmap", "sigma_sqrt"] = setting(
        "none", "How much the loss at each time counts."
    )
    caption_dropout: float = setting(
        0.1, "Share of samples trained with an empty caption.", at_least=0, below=1
    )
    reference_dropout: float = setting(
        0.0,
        "Share of samples whose reference latent is all zeros, so that the prompt alone must do.",
        at_least=0,
        below=1,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.time_shift is not None and self.time_density != "shifted":
            raise ValueError(
                "objective.time_shift belongs to objective.time_density=shifted, got " + self.time_density
            )


@dataclass(frozen=True, kw_only=True)
class CfmOptimConfig(OptimConfig):
    """The optimizer, with the defaults of supervised training."""

    lr: float | None = setting(  # type: ignore[assignment]
        None,
        "Learning rate; null = 1e-4 up to rank 64, less above (1e-5 at 512); 1 with prodigy.",
        above=0,
        at_most=10,
    )
    eps: float = setting(1e-8, "The optimizer's eps.", above=0)
    ema_decay: float = setting(
        0.99, "Decay of the average that is validated and exported; 0 = none.", at_least=0, below=1
    )
    warmup_updates: int = setting(
        50, "The learning rate rises linearly over these.", unit="updates", at_least=0
    )


@dataclass(frozen=True, kw_only=True)
class CfmRunConfig(CommonRunConfig):
    """Length, seed, what is written and when. An update is one step of the optimizer."""

    updates: int = setting(3000, "Length of the run.", unit="updates", at_least=1)
    sample_every_updates: int = setting(
        250, "A sample sheet every so often, and before the first.", unit="updates", at_least=1
    )
    validate_every_updates: int = setting(
        100, "The validation loss every so often, and before the first.", unit="updates", at_least=1
    )
    save_every_updates: int = setting(
        100, "Checkpoint and LoRA file every so often.", unit="updates", at_least=1
    )
    validation_times: tuple[float, ...] = setting(
        (0.1, 0.3, 0.5, 0.7, 0.9),
        "Times at which held-out pairs are validated, with fixed noise.",
        above=0,
        below=1,
    )
    sample_pairs: int = setting(4, "Rows of the sample sheet: held-out pairs.", unit="pairs", at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.validation_times:
            raise ValueError("run.validation_times needs at least one time between 0 and 1, got none")


@dataclass(frozen=True, kw_only=True)
class CfmConfig(Settings):
    """One run of masked conditional flow matching."""

    stage: Literal["cfm"] = setting("cfm", "The method.")
    model: ModelConfig = setting(
        ModelConfig(path="pocket-text-to-image", guidance_scale=1.0), "The pipeline."
    )
    lora: LoraConfig = setting(LoraConfig(), "The adapter.")
    data: CfmDataConfig = setting(CfmDataConfig(), "The pairs.")
    objective: ObjectiveConfig = setting(ObjectiveConfig(), "The loss.")
    optim: CfmOptimConfig = setting(CfmOptimConfig(), "The optimizer.")
    run: CfmRunConfig = setting(CfmRunConfig(), "The run.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora.alpha is None:  # here null is the rank, so that the adapter's scale is 1
            object.__setattr__(self, "lora", replace(self.lora, alpha=float(self.lora.rank)))
        if self.model.dtype == "float16" or self.run.mixed_precision == "fp16":
            name = "model.dtype=float16" if self.model.dtype == "float16" else "run.mixed_precision=fp16"
            raise ValueError(
                f"{name} cannot be trained: without loss scaling the LoRA's gradients vanish; "
                f"take {'bfloat16 or float32' if self.model.dtype == 'float16' else 'bf16 or no'}"
            )
        if self.model.layout == "none" and (
            self.objective.reference_dropout or self.objective.loss == "full"
        ):
            idle = "reference_dropout" if self.objective.reference_dropout else "loss=full"
            raise ValueError(f"objective.{idle} says nothing in model.layout=none: there is no reference")

    @classmethod
    def completed(cls, mapping: Mapping[str, Any]) -> Mapping[str, Any]:
        """The mapping laid over cfm's own defaults."""
        return merge({"model": {"path": "pocket-text-to-image", "guidance_scale": 1.0}}, mapping)

    @property
    def lr(self) -> float:
        """The learning rate with null resolved."""
        if self.optim.lr is not None:
            return self.optim.lr
        if self.optim.name == "prodigy":
            return 1.0
        # 1e-4 up to rank 64; the line in log-log that meets 1e-5 at rank 512
        return min(1e-4, 1e-4 * (64 / self.lora.rank) ** 1.107)

    def advice(self) -> tuple[str, ...]:
        """Warnings about settings that are allowed but seldom meant, a line each."""
        lines = []
        if self.objective.loss == "full":
            lines.append(
                "objective.loss is full: the model also learns to draw the reference again, which the paper found to "
                "copy (CHARIS .652 against .750)"
            )
        if self.data.source == "pocket" and self.model.is_of_the_hub:
            lines.append(
                "data.source is pocket, the toy world, but the model is of the hub: name your pairs in data.source"
            )
        if self.model.dtype == "bfloat16" and self.run.mixed_precision == "no":
            lines.append(
                "run.mixed_precision is no: the LoRA's products are made in float32, on a GPU far slower than "
                "bf16 at high ranks"
            )
        if self.model.layout == "none":
            lines.append("model.layout is none: the references are left out, this trains text to image alone")
        if self.run.validate_every_updates > self.run.updates:
            lines.append(
                "run.validate_every_updates is beyond run.updates: the best LoRA can only be the last"
            )
        return tuple(lines)
