"""Scoring beside sampling: pictures go in, rewards come out in the same order.

A reward that works elsewhere than the model (on a device of its own, on a server) scores in one worker thread while the
next pictures are sampled. One that shares the model's device has nothing to gain from a thread, so it scores where it
is called. The rewards are the same either way.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import TracebackType
from typing import NamedTuple

import torch
from torch import Tensor

from ..rewards.gate import Reward
from .references import PromptPair, ReferenceSet
from .rewarding import Rewarder

MOST_WAITING_BYTES = 2**30
"""Pictures that may wait to be scored; `submit` waits beyond, or a slow reward would fill the memory."""

PATIENCE_S = 5.0
"""How long leaving the block waits for a score under way; a request to a server may take far longer and is left."""


class _Task(NamedTuple):
    pictures: Tensor
    references: ReferenceSet
    pair: PromptPair


class RewardQueue:
    """A context manager: `submit` pictures as they are made, `collect` their rewards.

    is_overlapped: whether a thread of its own scores. seconds: spent scoring. waited_seconds: what the caller waited
    for scores; without a thread that is all of them.
    """

    def __init__(self, rewarder: Rewarder) -> None:
        self.is_overlapped = rewarder.is_apart
        self.seconds = self.waited_seconds = 0.0
        self._rewarder = rewarder
        self._change = threading.Condition()  # guards all below
        self._waiting: deque[_Task] = deque()
        self._rewards: list[Reward] = []
        self._submitted = 0
        self._error: BaseException | None = None
        self._is_open = False

    def __enter__(self) -> RewardQueue:
        self._is_open = True
        self._worker = threading.Thread(target=self._work, name="divrl reward", daemon=True)
        if self.is_overlapped:
            self._worker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._change:
            self._is_open = False
            self._waiting.clear()
            self._change.notify_all()
        if self.is_overlapped:
            self._worker.join(PATIENCE_S)

    def submit(self, pictures: Tensor, references: ReferenceSet, pair: PromptPair) -> None:
        """Have pictures (B, 3, H, W) in [0, 1] of one pair scored; with a thread this returns at once.

        Raises what the reward raised for earlier pictures; without a thread, for these.
        """
        if not self._is_open:
            raise RuntimeError("RewardQueue.submit: use it inside its with block")
        if not self.is_overlapped:
            with self._waits():
                self._rewards.append(self._score(_Task(pictures, references, pair)))
            self._submitted += 1
            return
        # Handed over here: in the worker the copy would queue up behind the sampling that has begun meanwhile.
        task = _Task(pictures.to(self._rewarder.device), references, pair)
        with self._waits(), self._change:
            self._change.wait_for(lambda: self._error is not None or self._has_room(task))
            self._raise_error()
            self._waiting.append(task)
            self._submitted += 1
            self._change.notify_all()

    def collect(self) -> list[Reward]:
        """The rewards of all that was submitted since the last time, in that order, on the CPU.

        Raises what the reward raised; nothing is scored after an error.
        """
        with self._waits(), self._change:
            self._change.wait_for(
                lambda: self._error is not None or len(self._rewards) == self._submitted or not self._is_open
            )
            self._raise_error()
            if len(self._rewards) != self._submitted:
                raise RuntimeError("RewardQueue.collect: use it inside its with block")
            rewards, self._rewards, self._submitted = self._rewards, [], 0
            return rewards

    def _work(self) -> None:
        device = self._rewarder.device
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            while (task := self._next()) is not None:
                try:
                    reward = self._score(task)
                except BaseException as error:  # raised again in the caller, whatever it is
                    self._fail(error)
                    return
                with self._change:
                    self._rewards.append(reward)
                    self._change.notify_all()

    def _next(self) -> _Task | None:
        with self._change:
            self._change.wait_for(lambda: self._waiting or not self._is_open)
            task = self._waiting.popleft() if self._is_open else None
            self._change.notify_all()
            return task

    def _fail(self, error: BaseException) -> None:
        with self._change:
            self._error = error
            self._waiting.clear()
            self._change.notify_all()

    def _score(self, task: _Task) -> Reward:
        started = time.perf_counter()
        reward = self._rewarder.reward(*task)
        parts = {name: getattr(reward, name).cpu() for name in ("total", "nssm", "vsm", "gap")}
        reward = Reward(**parts, more={name: values.cpu() for name, values in reward.more.items()})
        self.seconds += time.perf_counter() - started
        return reward

    def _has_room(self, task: _Task) -> bool:
        size = sum(each.pictures.nbytes for each in self._waiting)
        return not self._waiting or size + task.pictures.nbytes <= MOST_WAITING_BYTES

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    @contextmanager
    def _waits(self) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.waited_seconds += time.perf_counter() - started
