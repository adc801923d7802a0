"""Who a toy figure is, and how it stands: two independent factors of the pocket world.

An `Identity` fixes body plan, proportions, parts, palette and pattern; a `Structure` fixes viewpoint, joint angles,
scale and place in the frame. Captions name the plan, the pattern and the background, never the structure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np

PLANS = ("fox", "bear", "rabbit", "elephant", "giraffe", "duck", "robot", "dinosaur")
PATTERNS = ("plain", "striped", "spotted", "two-tone")
ACCESSORIES = ("none", "hat", "scarf")

# sRGB in [0, 1]; every palette pairs two of these, far apart enough to be told apart at 128 px.
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.84, 0.18, 0.17),
    "orange": (0.95, 0.53, 0.13),
    "yellow": (0.97, 0.82, 0.22),
    "green": (0.22, 0.60, 0.28),
    "teal": (0.10, 0.60, 0.62),
    "blue": (0.18, 0.36, 0.80),
    "purple": (0.50, 0.27, 0.68),
    "pink": (0.95, 0.56, 0.70),
    "brown": (0.50, 0.32, 0.20),
    "white": (0.94, 0.93, 0.90),
    "grey": (0.45, 0.47, 0.50),
}
BACKGROUNDS: dict[str, tuple[float, float, float]] = {
    "blue": (0.55, 0.70, 0.90),
    "green": (0.62, 0.80, 0.56),
    "yellow": (0.95, 0.87, 0.58),
    "pink": (0.95, 0.74, 0.78),
    "orange": (0.95, 0.74, 0.53),
    "purple": (0.74, 0.66, 0.86),
    "grey": (0.72, 0.73, 0.74),
    "white": (0.93, 0.93, 0.92),
}
HELD_OUT_SHARE = 8  # one palette in eight, by hash, is kept out of every training set


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What makes a figure itself; unchanged by any pose or view."""

    plan: str
    primary: str
    secondary: str
    accent: str
    pattern: str
    accessory: str
    head: float  # size factors, about 1
    legs: float
    body: float
    ears: float

    @property
    def is_held_out(self) -> bool:
        """Whether this palette on this plan belongs to the held-out split."""
        key = f"{self.plan}/{self.primary}/{self.secondary}".encode()
        return hashlib.blake2b(key, digest_size=4).digest()[0] % HELD_OUT_SHARE == 0

    @property
    def phrase(self) -> str:
        """The figure in words, e.g. "toy fox with a striped body"."""
        return (
            f"toy {self.plan}" if self.pattern == "plain" else f"toy {self.plan} with a {self.pattern} body"
        )


@dataclass(frozen=True, kw_only=True)
class Structure:
    """How a figure stands and is seen; angles in degrees."""

    azimuth: float  # view round the vertical axis: 0 looks the figure in the face, 90 sees its left side
    elevation: float
    head_yaw: float
    swing: float  # front left / hind right legs forward, the others back; for bipeds the legs' step
    raise_left: float  # arms, wings or ears of the plan: 0 hangs, 120 is raised
    raise_right: float
    tail: float
    scale: float
    shift_x: float  # of the frame's width
    shift_y: float


# How the figures of the world stand: three sides, arms down or up, as toys are photographed. A small model can learn a
# dozen stances well enough to draw each of them whole; of poses spread evenly it draws the average.
STANCES = tuple(
    Structure(
        azimuth=azimuth,
        elevation=13,
        head_yaw=0,
        swing=swing,
        raise_left=left,
        raise_right=right,
        tail=0,
        scale=0.99,
        shift_x=0,
        shift_y=0,
    )
    for azimuth, swing in ((-55, 18), (0, 0), (55, -18))
    for left in (4, 100)
    for right in (4, 100)
)


@dataclass(frozen=True)
class Poses:
    """Many structures of one figure: a `Structure` whose every field is an array (P,)."""

    azimuth: np.ndarray
    elevation: np.ndarray
    head_yaw: np.ndarray
    swing: np.ndarray
    raise_left: np.ndarray
    raise_right: np.ndarray
    tail: np.ndarray
    scale: np.ndarray
    shift_x: np.ndarray
    shift_y: np.ndarray

    @classmethod
    def of(cls, structures: Sequence[Structure]) -> Poses:
        """Structures side by side."""
        rows = [astuple(structure) for structure in structures]
        return cls(*np.array(rows, dtype=np.float64).T)

    def __len__(self) -> int:
        return len(self.azimuth)


def caption(identity: Identity, background: str) -> str:
    """The prompt of a picture: what and where, never how it stands."""
    return f"a {identity.phrase} on a {background} floor"


def background_of(prompt: str) -> str:
    """The floor that a prompt of `caption` names; raises ValueError for any other prompt."""
    for background in BACKGROUNDS:
        if prompt.endswith(f" on a {background} floor"):
            return background
    raise ValueError(f"pocket world: no floor is named in {prompt!r}; prompts end in 'on a COLOUR floor'")


def sample_identity(rng: np.random.Generator, *, held_out: bool) -> Identity:
    """Draw an identity from the training or from the held-out palettes."""
    names = list(COLOURS)
    while True:
        primary, secondary, accent = rng.choice(len(names), size=3, replace=False)
        identity = Identity(
            plan=PLANS[rng.integers(len(PLANS))],
            primary=names[primary],
            secondary=names[secondary],
            accent=names[accent],
            pattern=PATTERNS[rng.integers(len(PATTERNS))],
            accessory=ACCESSORIES[rng.integers(len(ACCESSORIES))],
            head=float(rng.uniform(0.94, 1.06)),
            legs=float(rng.uniform(0.90, 1.10)),
            body=float(rng.uniform(0.94, 1.06)),
            ears=float(rng.uniform(0.90, 1.10)),
        )
        if identity.is_held_out == held_out:
            return identity


def sample_structure(rng: np.random.Generator) -> Structure:
    """Draw one of the world's stances, each as likely as the next, and stray a little from it."""
    return nearby_structure(rng, STANCES[rng.integers(len(STANCES))])


def any_structure(rng: np.random.Generator) -> Structure:
    """Draw a structure from everything that the joints allow: what no stance shows, but a model might."""
    return Structure(
        azimuth=float(rng.uniform(-80, 80)),
        elevation=float(rng.uniform(8, 20)),
        head_yaw=float(rng.uniform(-40, 40)),
        swing=float(rng.uniform(-28, 28)),
        raise_left=float(rng.uniform(0, 110)),
        raise_right=float(rng.uniform(0, 110)),
        tail=float(rng.uniform(-35, 35)),
        scale=float(rng.uniform(0.92, 1.04)),
        shift_x=float(rng.uniform(-0.05, 0.05)),
        shift_y=float(rng.uniform(-0.03, 0.03)),
    )


def nearby_structure(rng: np.random.Generator, near: Structure) -> Structure:
    """A structure within about 5 degrees of `near`: what a model that copies its reference shows."""

    def turn(value: float, spread: float) -> float:
        return value + float(rng.uniform(-spread, spread))

    return Structure(
        azimuth=turn(near.azimuth, 5),
        elevation=turn(near.elevation, 2),
        head_yaw=turn(near.head_yaw, 5),
        swing=turn(near.swing, 4),
        raise_left=turn(near.raise_left, 6),
        raise_right=turn(near.raise_right, 6),
        tail=turn(near.tail, 5),
        scale=near.scale * float(rng.uniform(0.985, 1.015)),
        shift_x=turn(near.shift_x, 0.008),
        shift_y=turn(near.shift_y, 0.006),
    )
