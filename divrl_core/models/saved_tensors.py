"""What autograd keeps of a forward pass: the bytes of unique storages, by the block that first kept them.

Works on real tensors and on fake ones (no memory behind them) alike, which is how a plan is compared with a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

OUTSIDE = "outside"


class SavedTensors:
    """Bytes kept, by part: a block's name, OUTSIDE before the first block, "after NAME" between blocks."""

    def __init__(self, own: Iterable[Tensor]) -> None:
        self._own = {tensor.untyped_storage()._cdata for tensor in own}
        # the storages are held: a new one could get the address of one that is gone
        self._kept: dict[int, torch.UntypedStorage] = {}
        self.by_part: dict[str, int] = {}
        self.part = OUTSIDE

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return sum(self.by_part.values())

    def keep(self, tensor: Tensor) -> Tensor:
        """Count a tensor that is kept, once for its storage, parameters and buffers never; returns it."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._own and storage._cdata not in self._kept:
            self._kept[storage._cdata] = storage
            self.by_part[self.part] = self.by_part.get(self.part, 0) + storage.nbytes()
        return tensor

    def release(self) -> None:
        """Let go of the storages, which are held while they are counted; the bytes stay."""
        self._kept.clear()


@contextmanager
def saved_tensors(model: nn.Module, blocks: Mapping[str, nn.Module]) -> Iterator[SavedTensors]:
    """Inside this block every tensor that autograd keeps is counted; call `model` once."""
    saved = SavedTensors([*model.parameters(), *model.buffers()])

    def enter(name: str) -> Any:
        return lambda *_: setattr(saved, "part", name)

    with ExitStack() as stack:
        for name, block in blocks.items():
            stack.callback(block.register_forward_pre_hook(enter(name)).remove)
            stack.callback(block.register_forward_hook(enter(f"after {name}")).remove)
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(saved.keep, lambda tensor: tensor))
        yield saved
