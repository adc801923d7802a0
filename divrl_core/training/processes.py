"""What the processes of a run do together. A run of one process asks nobody.

Every method but the properties is a collective: all processes call it, in the same order.
"""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin, broadcast_object_list, gather_object
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy

from ..models.sharding import held_bytes, shard_base

logger = logging.getLogger("divrl")

Value = TypeVar("Value")

# How torch's backends say that another process is gone: gloo, NCCL, the store.
_SIGNS_OF_LOSS = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Socket Timeout",
    "Timed out waiting",
    "Connection was likely closed",
    "NCCL communicator was aborted",
    "remote process exited or there was a network error",
)


class LostProcess(ConnectionError):
    """Another process of the run is gone; nothing more can be done together."""


class Processes:
    """The processes of a run, seen from one of them."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.device: torch.device = accelerator.device
        self.count, self.index = accelerator.num_processes, accelerator.process_index
        self.is_main: bool = accelerator.is_main_process
        # On this machine: what one of its processes writes to a disk, the others can read.
        self.local_index = accelerator.local_process_index
        self.local_count = self.gather([platform.node()]).count(platform.node())
        self._sharding = _sharding_plugin(accelerator) if self.count > 1 else None

    @property
    def in_lockstep(self) -> bool:
        """Whether every forward is made together, as where the base is sharded."""
        return self._sharding is not None

    def shard(self, transformer: nn.Module) -> None:
        """Spread a frozen base over the processes, where the run was started so; else nothing."""
        if self._sharding is None:
            return
        shard_base(
            transformer,
            self.device,
            processes=self.count,
            reshard_after_forward=bool(self._sharding.reshard_after_forward),
            offload_to_host=isinstance(self._sharding.cpu_offload, CPUOffloadPolicy),
        )
        held = held_bytes(transformer) / 1e6
        if self.is_main:
            logger.info("base spread over %d processes: %.1f MB of its weights in each", self.count, held)

    @property
    def zero_stage(self) -> int | None:
        """The stage of ZeRO that DeepSpeed was asked for; None without DeepSpeed."""
        if self.count == 1 or os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() != "true":
            return None
        return int(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"))

    def autocast(self) -> AbstractContextManager[None]:
        """The precision of run.mixed_precision, also where accelerate leaves it to DeepSpeed."""
        if self.accelerator.mixed_precision != "bf16":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def wait(self) -> None:
        """Go on when all have come here."""
        if self.count > 1:
            self.accelerator.wait_for_everyone()

    def from_main(self, make: Callable[[], Value]) -> Value:
        """What `make` returns in the main process, or the error it raises there, in all of them."""
        if self.count == 1:
            return make()
        outcome: list[object] = [None, None]
        if self.is_main:
            try:
                outcome[0] = make()
            except Exception as error:  # told to all, then raised in all: none is left waiting
                outcome[1] = error
        broadcast_object_list(outcome)
        if isinstance(outcome[1], Exception):
            raise outcome[1]
        return outcome[0]  # type: ignore[return-value]

    def gather(self, values: list[Value]) -> list[Value]:
        """The lists of all processes, one after the other, in all of them."""
        return values if self.count == 1 else list(gather_object(values))

    def any(self, flag: bool) -> bool:
        """Whether it is so in at least one process."""
        return flag if self.count == 1 else bool(self.sum(torch.tensor(float(flag))) > 0)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, element by element; on the values' own device."""
        if self.count == 1:
            return values
        total = self.accelerator.reduce(values.to(self.device), reduction="sum")
        assert isinstance(total, Tensor)
        return total.to(values.device)

    def total(self, value: float) -> float:
        """The sum of all processes' numbers."""
        return sum(self.gather([value]))

    def max(self, value: float) -> float:
        """The largest of all processes' numbers."""
        return max(self.gather([value]))

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give every parameter the sum of all processes' gradients; one without any gets zeros.

        One message for all of them: a LoRA has hundreds of small tensors.
        """
        held = list(parameters)
        for parameter in held:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in held if parameter.grad is not None]
        whole = self.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, summed in zip(gradients, whole.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(summed.view_as(gradient))


def _sharding_plugin(accelerator: Accelerator) -> FullyShardedDataParallelPlugin | None:
    """How accelerate was told to shard; None where it was not. Raises ValueError for the older FSDP."""
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is None and os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        plugin = FullyShardedDataParallelPlugin()  # on CPUs accelerate leaves it unread
    if plugin is not None and plugin.fsdp_version != 2:
        raise ValueError(
            f"accelerate is set to FSDP version {plugin.fsdp_version}, this needs 2: set fsdp_version: 2 in the "
            "configuration of accelerate launch"
        )
    return plugin


def as_lost_process(error: RuntimeError) -> LostProcess | None:
    """The loss of another process, if that is what the error says."""
    words = str(error)
    if not any(sign in words for sign in _SIGNS_OF_LOSS):
        return None
    first = words.strip().splitlines()[0]
    return LostProcess(
        f"another process of this run is gone ({first}); the last checkpoint is whole: go on with --resume"
    )
