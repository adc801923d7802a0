"""ZeRO by DeepSpeed (arXiv:1910.02054): the optimizer's state of the LoRA spread over the processes.

DeepSpeed is handed the trained parameters alone, in a module that is never called; the transformer does not meet it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..config import OptimConfig
from .checkpoint import Tensors, group_numbers
from .processes import Processes
from .stepper import Stepper

STAGES = (1, 2)
MOMENTS = ("exp_avg", "exp_avg_sq")
STEP = "step"


class _Trained(nn.Module):
    """The trained parameters; never called."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        super().__init__()
        self.held = nn.ParameterList(list(parameters.values()))


class ZeroStepper(Stepper):
    """As a `Stepper`, the moments spread over the processes.

    Gradients are summed once for each step, in the order of the parameters: a process may go backward as often as it
    has something to learn from. A checkpoint holds whole moments by parameter, so any number of processes, with ZeRO or
    without, goes on from it.
    """

    def __init__(
        self,
        config: OptimConfig,
        parameters: Mapping[str, nn.Parameter],
        processes: Processes,
        lr: float | None = None,
    ) -> None:
        """Raises ValueError for a stage or an optimizer that cannot be spread."""
        import deepspeed

        if processes.zero_stage not in STAGES:
            raise ValueError(
                f"DeepSpeed: zero_stage must be 1 or 2, got {processes.zero_stage}; the LoRA alone meets DeepSpeed, so "
                "stage 3 would spare nothing: to spread the base take FSDP2 (--sharded)"
            )
        if config.name != "adamw" or config.offload:
            name = f"optim.name={config.name}" if config.name != "adamw" else "optim.offload=true"
            raise ValueError(f"DeepSpeed: {name} cannot be spread over processes; take adamw, not offloaded")
        super().__init__(config, parameters, processes, lr)
        self._engine, self._wrapped, _, _ = deepspeed.initialize(
            model=_Trained(parameters),
            optimizer=self.optimizer,
            dist_init_required=False,
            config={
                "train_micro_batch_size_per_gpu": 1,
                "gradient_accumulation_steps": 1,
                "gradient_clipping": config.max_grad_norm,
                "zero_optimization": {"stage": processes.zero_stage, "overlap_comm": False},
                "zero_allow_untested_optimizer": True,
                "steps_per_print": 10**9,
            },
        )
        self.optimizer = self._wrapped

    @contextmanager
    def accumulating(self) -> Iterator[None]:
        """As of `Stepper`."""
        with self._engine.coalesce_grad_reduction():
            yield
            for parameter in self.parameters.values():
                if parameter.grad is None:  # a process without a loss brings zeros, or the others wait for it
                    parameter.grad = torch.zeros_like(parameter)

    def backward(self, loss: Tensor) -> None:
        """As of `Stepper`."""
        # DeepSpeed takes the mean over processes; the losses are parts of one sum.
        self._engine.backward(loss * self.processes.count, scale_wrt_gas=False)

    def step(self) -> float:
        """As of `Stepper`; a norm that is not finite is known after the step."""
        self._engine.step()
        return float(self._engine.get_global_grad_norm())

    def zero_grad(self) -> None:
        """As of `Stepper`."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def tensors(self) -> Tensors:
        """As of `Stepper`: whole tensors, put together from all processes."""
        from deepspeed.utils import safe_get_full_optimizer_state

        made = self._steps_made()
        tensors = group_numbers(self._wrapped)
        if made is None:
            return tensors
        for name, parameter in self.parameters.items():
            tensors[f"{name}/{STEP}"] = torch.tensor(made)
            for moment in MOMENTS:
                whole: Any = safe_get_full_optimizer_state(parameter, moment)
                tensors[f"{name}/{moment}"] = whole.detach().to("cpu", copy=True).view(parameter.shape)
        return tensors

    def load(self, saved: Mapping[str, Tensor]) -> None:
        """As of `Stepper`."""
        from deepspeed.utils import safe_set_full_optimizer_state

        made = next((value.item() for key, value in saved.items() if key.endswith(f"/{STEP}")), None)
        if made is None:
            return
        # The state comes to be in the first step: one of rate zero and without a gradient changes no weight.
        rate, self.lr = self.lr, 0.0
        with self.accumulating():
            self.backward(torch.stack([(value * 0).sum() for value in self.parameters.values()]).sum())
        self._engine.step()
        self.lr = rate
        for name, parameter in self.parameters.items():
            for moment in MOMENTS:
                safe_set_full_optimizer_state(parameter, saved[f"{name}/{moment}"], moment)
        for state in self._wrapped.optimizer.state.values():
            state[STEP].fill_(made)

    def _steps_made(self) -> float | None:
        for state in self._wrapped.optimizer.state.values():
            made = float(state.get(STEP, math.nan))
            return None if math.isnan(made) else made
        return None
