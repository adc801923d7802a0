"""The trained weights and what steps them: an optimizer beside them, or one in host memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..config import OptimConfig
from .checkpoint import Tensors, load_optimizer_tensors, optimizer_tensors
from .optimizer import make_optimizer
from .processes import Processes


class Stepper:
    """Steps the parameters of a LoRA by the gradients of all processes.

    With `optim.offload` the moments lie in host memory, beside copies of the weights: a step brings the gradients over,
    steps there, and brings the weights back. Both ways give the same numbers on the same device.
    """

    def __init__(
        self,
        config: OptimConfig,
        parameters: Mapping[str, nn.Parameter],
        processes: Processes,
        lr: float | None = None,
    ) -> None:
        """`parameters` as they are now: what a checkpoint holds is loaded into them before."""
        self.parameters, self.processes = dict(parameters), processes
        self._max_grad_norm, self._is_on_host = config.max_grad_norm, config.offload
        self._stepped: dict[str, Tensor] = dict(parameters)
        if self._is_on_host:
            self._stepped = {name: _host_copy(parameter) for name, parameter in parameters.items()}
        self.optimizer = make_optimizer(config, list(self._stepped.values()), lr)

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    @lr.setter
    def lr(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    @contextmanager
    def accumulating(self) -> Iterator[None]:
        """Inside this block any number of losses, or none, may go backward before a step."""
        yield

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradient; the sum over all losses of all processes is stepped by."""
        self.processes.accelerator.backward(loss)

    def step(self) -> float:
        """Make one step, the gradient clipped to `optim.max_grad_norm`; the norm it had before.

        Where the norm is not finite no step is made.
        """
        self.processes.sum_gradients(self.parameters.values())
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self._max_grad_norm).item()
        if not math.isfinite(norm):
            return norm
        if not self._is_on_host:
            self.optimizer.step()
            return norm
        for name, parameter in self.parameters.items():
            assert parameter.grad is not None
            self._stepped[name].grad = parameter.grad.to("cpu")
        self.optimizer.step()
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(self._stepped[name])
        return norm

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.optimizer.zero_grad(set_to_none=True)
        for parameter in self.parameters.values():
            parameter.grad = None

    def tensors(self) -> Tensors:
        """Copies of the moments and step counts, for a checkpoint; all processes ask for them together."""
        return optimizer_tensors(self.optimizer, self._stepped)

    def load(self, saved: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` took."""
        load_optimizer_tensors(self.optimizer, self._stepped, saved)


def make_stepper(
    config: OptimConfig,
    parameters: Mapping[str, nn.Parameter],
    processes: Processes,
    lr: float | None = None,
) -> Stepper:
    """The stepper of a run: its own, or DeepSpeed's where the run was started under it."""
    if processes.zero_stage is None:
        return Stepper(config, parameters, processes, lr)
    from .zero_stepper import ZeroStepper  # imports deepspeed

    return ZeroStepper(config, parameters, processes, lr)


def _host_copy(parameter: nn.Parameter) -> Tensor:
    copy = parameter.detach().to("cpu", copy=True)
    return copy.requires_grad_(True)
