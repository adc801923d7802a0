"""What a run and a reward server say to each other: version 1 of the protocol. docs/rewards.md has it as a table.

GET URL/reward asks who the server is; POST URL/reward sends pictures and is answered with rewards. Bodies are in
`reward_bodies.py`; answers are here. Nothing is ever pickled, and every size has a bound.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from ..rewards.gate import Reward
from .references import Reference

PROTOCOL = 1
PATH = "/reward"
IDENTITY_HEADER = "DivRL-Reward"
JSON, SAFETENSORS = "application/json", "application/x-safetensors"
UNKNOWN_REFERENCE = 428  # the server does not hold the reference's picture: send it along

MOST_BODY_BYTES = 256 * 2**20
MOST_ANSWER_BYTES = 2**20
MOST_HEADER_BYTES = 2**20
MOST_PICTURES = 1024
MOST_SIDE_PX = 8192
MOST_TEXT = 16_384  # characters of a prompt or a name

PARTS = ("total", "nssm", "vsm", "gap")
Takes = Literal["pictures", "group"]


class WireError(ValueError):
    """What was said is not the protocol: a mistake, which no second try mends."""


@dataclass(frozen=True, kw_only=True)
class Greeting:
    """Who a server is: the reward's name, its origin in words, what it takes, and what it would be recognised by.

    takes: group = it judges a whole group at once. bodies: the kinds it reads. keeps_references: whether it remembers a
    reference's picture that it was sent once. identity: changes when the reward does; "" = it does not say.
    """

    name: str
    source: str
    takes: Takes = "pictures"
    bodies: tuple[str, ...] = ("safetensors", "png")
    max_body_bytes: int = MOST_BODY_BYTES
    keeps_references: bool = True
    identity: str = ""

    def as_json(self) -> bytes:
        """The answer to the question who is there."""
        return json.dumps({"protocol": PROTOCOL, **asdict(self)}).encode()

    @classmethod
    def read(cls, content: bytes) -> Greeting:
        """Raises WireError for another version, and for anything that is no greeting."""
        said = read_json(content)
        if said.get("protocol") != PROTOCOL:
            raise WireError(f"it speaks version {said.get('protocol')!r} of the protocol, this is {PROTOCOL}")
        greeting = {name: said[name] for name in cls.__dataclass_fields__ if name in said}
        if "bodies" in greeting:
            greeting["bodies"] = tuple(_expect(greeting, "bodies", list))
        for name in ("name", "source", "identity"):
            if name in greeting or name != "identity":
                _expect(greeting, name, str)
        if greeting.get("takes", "pictures") not in ("pictures", "group"):
            raise WireError(f"its greeting's takes must be pictures or group, got {greeting['takes']!r}")
        if type(greeting.get("max_body_bytes", 1)) is not int:
            raise WireError(
                f"its greeting's max_body_bytes must be a number, got {greeting['max_body_bytes']!r}"
            )
        return cls(**greeting)


@dataclass(frozen=True, kw_only=True)
class Question:
    """Pictures to be paid for: uint8 (B, H, W, 3), all of one (reference, prompt) pair.

    reference_key: a text that is different for different references; the server keeps their pictures by it. reference:
    the picture and its mask, where they are sent along, uint8 (S, S, 3) and bool (S, S).
    """

    pictures: Tensor
    reference_key: str
    reference_id: str
    group_id: str
    prompt: str
    reference: tuple[Tensor, Tensor] | None = None


def to_eight_bit(pictures: Tensor) -> Tensor:
    """Pictures (..., 3, H, W) in [0, 1] as uint8 (..., H, W, 3), as a PNG file would hold them."""
    return (pictures.float().clamp(0, 1) * 255).round().to("cpu", torch.uint8).movedim(-3, -1).contiguous()


def from_eight_bit(pictures: Tensor) -> Tensor:
    """Pictures uint8 (..., H, W, 3) as float32 (..., 3, H, W) in [0, 1]."""
    return pictures.movedim(-1, -3).contiguous().float() / 255


def reference_key(reference: Reference) -> str:
    """A text of its own for every reference picture with its mask, as they are sent: 32 hexadecimal digits."""
    picture, mask = to_eight_bit(reference.image), reference.mask.to("cpu", torch.uint8).contiguous()
    digest = hashlib.sha256(f"{tuple(picture.shape)} {tuple(mask.shape)}".encode())
    for part in (picture, mask):
        digest.update(part.numpy().tobytes())
    return digest.hexdigest()[:32]


def answer(reward: Reward) -> bytes:
    """Rewards as the JSON that is sent back; undefined ones are null."""
    rows = {name: getattr(reward, name).tolist() for name in PARTS}
    return json.dumps(
        {name: [None if math.isnan(value) else value for value in values] for name, values in rows.items()}
    ).encode()


def read_answer(content: bytes, content_type: str, count: int) -> Reward:
    """The rewards of `count` pictures, from JSON or safetensors; a part that was not told is undefined.

    Raises WireError for another number of them, for what is not finite or undefined, and for anything else.
    """
    if content_type == SAFETENSORS:
        told: Mapping[str, Any] = read_tensors(content)[0]
        parts = {name: told[name].float() for name in PARTS if name in told}
    else:
        told = read_json(content)
        parts = {name: _numbers(told[name], name) for name in PARTS if told.get(name) is not None}
    if "total" not in parts:
        raise WireError(
            f"its answer must hold total, a list of {count} numbers, got {', '.join(told) or 'nothing'}"
        )
    for name, values in parts.items():
        if values.shape != (count,):
            raise WireError(f"its answer's {name} must hold {count} numbers, got {tuple(values.shape)}")
        if values.isinf().any():
            raise WireError(f"its answer's {name} is infinite; an undefined reward is null")
    unknown = torch.full((count,), torch.nan)
    return Reward(**{name: parts.get(name, unknown) for name in PARTS})


def read_tensors(content: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of safetensors bytes. Raises WireError."""
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8 or not 2 <= size <= min(len(content) - 8, MOST_HEADER_BYTES):
        raise WireError("the body is not safetensors")
    words = read_json(content[8 : 8 + size]).get("__metadata__", {})
    try:
        return load(content), words if isinstance(words, dict) else {}
    except (SafetensorError, KeyError, ValueError) as error:
        raise WireError(f"the body is not safetensors ({error})") from error


def read_json(content: bytes) -> dict[str, Any]:
    """The object in a JSON text. Raises WireError."""
    try:
        said = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise WireError(f"it must say JSON, got {content[:40]!r}") from error
    if not isinstance(said, dict):
        raise WireError(f"it must say a JSON object, got {type(said).__name__}")
    return said


def _numbers(values: object, name: str) -> Tensor:
    if not isinstance(values, list) or any(
        value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)))
        for value in values
    ):
        raise WireError(f"its answer's {name} must be a list of numbers and null, got {str(values)[:60]}")
    return torch.tensor([math.nan if value is None else _as_float(value) for value in values])


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _expect(said: Mapping[str, Any], name: str, kind: type) -> Any:
    value = said.get(name)
    if not isinstance(value, kind) or len(str(value)) > MOST_TEXT or not str(value).isprintable():
        raise WireError(f"its greeting must hold {name}, a {kind.__name__}, got {str(value)[:60]!r}")
    return value
