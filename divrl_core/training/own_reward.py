"""A reward of one's own: a Python function found by its dotted name, called with pictures, and checked.

    def reward(pictures: Tensor, reference: Reference, prompt: str) -> Tensor

pictures (B, 3, H, W) float32 in [0, 1]; reference.image (3, S, S) and reference.mask (S, S) bool; the result is (B,),
higher is better, NaN = undefined. A fourth parameter named `scores` is given the backbone's nSSM and VSM. In place of a
tensor it may return a `Reward`, whose parts then go into the log.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..rewards.gate import Reward
from ..rewards.score import Scores
from .references import PromptPair, Reference

# (pictures (B, 3, H, W), reference, prompt[, scores=]) -> (B,), or a Reward
RewardFunction = Callable[..., Tensor | Reward]

PARAMETERS = "(pictures, reference, prompt)"


class OwnReward:
    """A function that is a reward; what it does wrong is told with its name and the group."""

    trouble = ""
    needs_scores = True

    def __init__(self, function: RewardFunction, source: str = "") -> None:
        """`source` names it in errors. Raises ValueError when it cannot be called as a reward."""
        self.source = source or f"the reward {getattr(function, '__qualname__', type(function).__name__)}"
        self._function = function
        self._takes_scores = _takes_scores(function, self.source)

    @classmethod
    def load(cls, dotted: str) -> OwnReward:
        """The function `package.module:name`, from the working directory or an installed package.

        Raises ValueError when there is none, or when it cannot be called as a reward.
        """
        source = f"reward.function={dotted}"
        module_name, _, name = dotted.partition(":")
        module = _import(module_name, source)
        function = getattr(module, name, None)
        if function is None:
            known = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
            raise ValueError(f"{source}: {module_name} has no {name}; it has {', '.join(known) or 'none'}")
        return cls(function, source)

    @torch.no_grad()
    def __call__(
        self, pictures: Tensor, reference: Reference, pair: PromptPair, scores: Scores
    ) -> Tensor | Reward:
        """What the function pays for pictures (B, 3, H, W), checked: float32 (B,) on their device, or a Reward of such.

        Raises ValueError with function and group: an exception in it, another shape, an infinite value.
        """
        where = f"{self.source}, group {pair.group_id}"
        more = {"scores": scores} if self._takes_scores else {}
        try:
            paid = self._function(pictures, reference, pair.prompt, **more)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise ValueError(f"{where}: {_told(error)}") from error
        if isinstance(paid, Reward):
            parts = {name: getattr(paid, name) for name in ("total", "nssm", "vsm", "gap")}
            checked = {name: _checked(part, pictures, f"{where}: {name}") for name, part in parts.items()}
            return Reward(checked["total"], checked["nssm"], checked["vsm"], checked["gap"])
        return _checked(paid, pictures, f"{where}: the reward")


def _import(name: str, source: str) -> Any:
    folder = os.getcwd()
    try:
        with _importable(folder):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise ValueError(
                f"{source}: there is no module {error.name} in the working directory or among the installed packages"
            ) from error
        raise ValueError(f"{source}: importing {name}: {_told(error)}") from error
    except Exception as error:
        raise ValueError(f"{source}: importing {name}: {_told(error)}") from error


@contextmanager
def _importable(folder: str) -> Iterator[None]:
    """The folder goes before the installed packages here, and behind them afterwards.

    There the function still finds its neighbours, and no file of the folder stands before a package's own.
    """
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)


def _takes_scores(function: object, source: str) -> bool:
    """Whether a reward wants the scores too. Raises ValueError when it cannot be called as one."""
    if not callable(function) or inspect.isclass(function):
        kind = "a class" if inspect.isclass(function) else f"a value of type {type(function).__name__}"
        raise ValueError(f"{source} must be a function {PARAMETERS}, got {kind}")
    if inspect.iscoroutinefunction(function):
        raise ValueError(f"{source} must be a plain function {PARAMETERS}, got an async one")
    try:
        signature = inspect.signature(function)
    except ValueError:  # written in C: it shows at the first call
        return False
    takes_scores = "scores" in signature.parameters
    try:
        signature.bind(None, None, None, **({"scores": None} if takes_scores else {}))
    except TypeError as error:
        raise ValueError(
            f"{source} must take {PARAMETERS}, and scores if it likes; it takes {signature} ({error})"
        ) from error
    return takes_scores


def _checked(paid: object, pictures: Tensor, what: str) -> Tensor:
    count = len(pictures)
    if not isinstance(paid, Tensor):
        raise ValueError(
            f"{what} must be a tensor ({count},), one number a picture, got {type(paid).__name__}"
        )
    if paid.shape != (count,) or paid.is_complex():
        raise ValueError(
            f"{what} must be real numbers ({count},), one a picture, got {paid.dtype} {tuple(paid.shape)}"
        )
    values = paid.detach().to(pictures.device, torch.float32)
    if values.isinf().any():
        place = int(values.isinf().nonzero()[0])
        raise ValueError(f"{what} of picture {place} is infinite; return NaN where it is undefined")
    return values


def _told(error: Exception) -> str:
    """An exception in one line, with the place where it was raised."""
    first = str(error).strip().partition("\n")[0]
    if isinstance(error, SyntaxError):  # it says where itself
        return f"{type(error).__name__}: {first}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith((os.path.dirname(__file__), "<frozen"))]
    place = f" ({os.path.basename(own[-1].filename)}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}{': ' if first else ''}{first}{place}"
