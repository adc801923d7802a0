"""Ctrl-C and polite kills: remembered when they come, obeyed where nothing is half done."""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

logger = logging.getLogger("divrl")

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequested(KeyboardInterrupt):
    """Raised at a safe place after a signal asked the run to stop."""


class InterruptGuard:
    """Inside this block SIGINT and SIGTERM are only noted; `check` raises StopRequested at the next safe place.

    A second signal acts at once, as if the guard were not there, but within `echo_s` of the first: of several processes
    each may get one signal from the terminal and again from the process that started it. Outside the main thread, where
    signals cannot be caught, the guard does nothing.
    """

    def __init__(self, *, echo_s: float = 0.0) -> None:
        self._echo_s, self._asked_at = echo_s, -math.inf
        self._before: dict[signal.Signals, Any] = {}
        self._is_asked = False

    def __enter__(self) -> InterruptGuard:
        if threading.current_thread() is threading.main_thread():
            self._before = {name: signal.signal(name, self._note) for name in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    @property
    def is_asked(self) -> bool:
        """Whether a signal has come."""
        return self._is_asked

    def check(self) -> None:
        """Raises StopRequested when a signal has come."""
        if self._is_asked:
            raise StopRequested

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._is_asked:
            if time.monotonic() - self._asked_at > self._echo_s:
                self._restore()
                signal.raise_signal(number)
            return
        self._is_asked, self._asked_at = True, time.monotonic()
        if not self._echo_s:
            self._restore()
        logger.warning("stopping at the next safe place and saving; once more to stop at once, unsaved")

    def _restore(self) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)
        self._before = {}
