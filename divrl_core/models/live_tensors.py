"""The most bytes that live at once while code runs, and the floating-point operations it makes.

Counts storages from birth to death, as Python and autograd hold them: an allocator's blocks and a kernel's own
workspace are not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry


class LiveTensors(TorchDispatchMode):
    """Inside this block storages are watched; those of `own` tensors (weights, inputs) do not count."""

    def __init__(self, own: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self._known = weakref.WeakSet[torch.UntypedStorage]()
        self._known.update(tensor.untyped_storage() for tensor in own)
        self.live = self.peak = 0
        self.flops: dict[torch.dtype, int] = {}
        """Operations of products and convolutions, by the dtype they are made in."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [value for value in tree_iter(out) if isinstance(value, Tensor)]
        for tensor in made:
            self._watch(tensor.untyped_storage())
        count = flop_registry.get(func._overloadpacket)
        if count is not None and made:
            dtype = made[0].dtype
            flops = count(*args, **(kwargs or {}), out_val=out)
            self.flops[dtype] = self.flops.get(dtype, 0) + int(flops)
        return out

    def _watch(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, size)

    def _forget(self, size: int) -> None:
        self.live -= size
