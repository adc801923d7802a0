"""The ratio law at a run's start: exact on plain, packed and offloaded bases, near 1 on compiled ones."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from divrl_core.config import GrpoConfig, ModelConfig, OptimConfig, RolloutConfig, TrainConfig
from divrl_core.models.flux import FluxAdapter
from divrl_core.models.lora import add_lora
from divrl_core.settings import list_settings
from divrl_core.training.encoded_pairs import EncodedPairs
from divrl_core.training.grpo_loop import train
from divrl_core.training.placement import units_of_process
from divrl_core.training.policy import Policy
from divrl_core.training.processes import Processes
from divrl_core.training.rollout import MicroBatch, SamplingPlan, roll_out, sampling_plan
from divrl_core.training.start import open_adapter
from divrl_core.training.stepper import Stepper
from divrl_core.training.update import Learner

from .tiny_run import SIZE_PX, ToyReferences, rows_of, tiny_config, toy_data

REFERENCES = ToyReferences(("ant",))
PAIR = REFERENCES.pairs[0]
CLIP_RANGE = 1e-3


class Start:
    """A run's model and its first micro-batch."""

    def __init__(self, pipeline: Path, transformer: nn.Module | None = None, **options: Any) -> None:
        self.adapter = FluxAdapter.load(str(pipeline), **options)
        if transformer is not None:
            self.adapter.transformer = transformer
        encoded = EncodedPairs(self.adapter, SIZE_PX)
        encoded.encode(REFERENCES, REFERENCES.pairs, is_quiet=True)
        encoded.finish()
        self.encoded = encoded
        add_lora(self.adapter.transformer, 2, 4.0, r"(single_)?transformer_blocks\.0\.attn\.to_[qv]", seed=0)
        self.adapter.enable_gradient_checkpointing()
        self.policy = Policy(adapter=self.adapter, size_px=SIZE_PX, guidance=2.5)
        self.plan: SamplingPlan = sampling_plan(
            RolloutConfig(steps=3, stochastic_steps=(0, 1)), self.policy.times(3), seed=0, update=0
        )
        self.batch: MicroBatch = self.rolled_out()

    def rolled_out(self) -> MicroBatch:
        [unit] = units_of_process(0, 1, groups=1, group_size=2, micro_batch=2)
        given = self.encoded.conditioning([PAIR]).repeat(2)
        return roll_out(self.policy, self.plan, given, PAIR, unit, seed=0, update=0)

    def check(self) -> None:
        processes = Processes(Accelerator())
        learner = Learner(
            policy=self.policy,
            stepper=Stepper(OptimConfig(), self.policy.parameters, processes),
            config=GrpoConfig(group_size=2, micro_batch=2, groups_per_update=1, clip_range=CLIP_RANGE),
            processes=processes,
            after_step=lambda: None,
        )
        learner.check(self.plan, self.encoded, self.batch)


def plant(transformer: nn.Module, size: float) -> torch.utils.hooks.RemovableHandle:
    """Let the model answer a little differently where a gradient is wanted: what another kernel would do."""

    def shift(module: nn.Module, inputs: object, output: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (output[0] + size,) if torch.is_grad_enabled() else output

    return transformer.register_forward_hook(shift)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dtype": "bfloat16"},
        {"offload_blocks": 2},
        {"quantization": "fp8"},
        {"quantization": "int8", "dtype": "bfloat16"},
        {"quantization": "nf4", "dtype": "bfloat16"},
        {"quantization": "torchao_int8", "dtype": "bfloat16"},
    ],
    ids=str,
)
def test_the_ratio_is_exactly_one_however_the_base_is_held(
    tiny_pipeline: Path, options: dict[str, Any]
) -> None:
    start = Start(tiny_pipeline, **options)
    start.check()
    planted = plant(start.adapter.transformer, 1e-3 if "dtype" in options else 1e-5)
    with pytest.raises(ValueError, match=r"ratio law: .* must be exactly 1, but at step [01] of ant#0"):
        start.check()
    planted.remove()
    start.check()


def log_probability_moves(start: Start) -> float:
    """The largest difference of a log-probability between the rollout and a model that wants a gradient."""
    moves = []
    given = start.encoded.conditioning([PAIR]).repeat(2)
    for step in start.batch.steps:
        with torch.enable_grad():
            v = start.policy.velocity(step.x_t, start.plan.times[step.step], given)
        log_prob = start.plan.log_prob(step.x_next, start.plan.gaussian(step.x_t, v.detach(), step.step))
        moves.append((log_prob - step.log_prob).abs().max().item())
    return max(moves)


def test_a_compiled_base_may_differ_by_a_tenth_of_the_clip_range(tiny_pipeline: Path) -> None:
    """Compiling takes long (test_compiled.py does it): a plain transformer stands here for a compiled one."""
    plain = FluxAdapter.load(str(tiny_pipeline)).transformer
    start = Start(tiny_pipeline, transformer=plain, compile=True)
    start.check()
    # What a planted shift does to the log-probability is measured, then one below and one above the bound are planted.
    probe = plant(start.adapter.transformer, 1e-3)
    slope = log_probability_moves(start) / 1e-3
    probe.remove()
    for share, holds in ((0.5, True), (3.0, False)):
        planted = plant(start.adapter.transformer, share * CLIP_RANGE / 10 / slope)
        assert log_probability_moves(start) > 0
        if holds:
            start.check()
        else:
            with pytest.raises(ValueError, match="ratio law") as caught:
                start.check()
            assert "must be 1 to within 0.0001 (a tenth of grpo.clip_range)" in str(caught.value)
            assert str(caught.value).endswith("start a new run with model.compile=false")
        planted.remove()


def test_the_advice_names_settings_that_there_are(tiny_pipeline: Path) -> None:
    start = Start(tiny_pipeline)
    planted = plant(start.adapter.transformer, float("nan"))
    with pytest.raises(ValueError, match="differs by nan") as caught:
        start.check()
    planted.remove()
    named = set(re.findall(r"\b[a-z]+\.[a-z_]+", str(caught.value)))
    assert named and named <= {row.name for row in list_settings(TrainConfig)}


def test_a_run_refuses_to_train_when_the_law_is_broken(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole loop, with a model that answers otherwise in training: nothing is learned, nothing counted."""
    whole = FluxAdapter.transformer.func  # type: ignore[attr-defined]

    def planted(adapter: FluxAdapter) -> nn.Module:
        if "crooked" not in adapter.__dict__:
            transformer = whole(adapter)
            plant(transformer, 1e-4)
            adapter.__dict__["crooked"] = transformer
        return adapter.__dict__["crooked"]

    monkeypatch.setattr(FluxAdapter, "transformer", property(planted))
    with pytest.raises(ValueError, match="ratio law: before any update the policy ratio must be exactly 1"):
        train(tiny_config(tiny_pipeline), tmp_path / "run", data=toy_data())
    assert not rows_of(tmp_path / "run")


def test_offloading_without_checkpointing_is_refused_at_the_start(tiny_pipeline: Path) -> None:
    model = ModelConfig(path=str(tiny_pipeline), offload_blocks=1, gradient_checkpointing=False)
    with pytest.raises(ValueError, match=r"offload_blocks=1 needs model\.gradient_checkpointing=true"):
        open_adapter(TrainConfig.explore(model=model), torch.device("cpu"))
