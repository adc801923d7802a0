"""The ten factors of a structure as a vector, and how far a search moves and holds each."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from .figures import Poses, Structure
from .solids import Array

# how far each factor is moved to see what it does, and where it is held (degrees; scale; share of the frame)
PROBE = Structure(
    azimuth=5,
    elevation=4,
    head_yaw=6,
    swing=7,
    raise_left=8,
    raise_right=8,
    tail=10,
    scale=0.02,
    shift_x=0.012,
    shift_y=0.012,
)
LOWEST = Structure(
    azimuth=-110,
    elevation=4,
    head_yaw=-60,
    swing=-45,
    raise_left=-15,
    raise_right=-15,
    tail=-50,
    scale=0.86,
    shift_x=-0.08,
    shift_y=-0.06,
)
HIGHEST = Structure(
    azimuth=110,
    elevation=24,
    head_yaw=60,
    swing=45,
    raise_left=130,
    raise_right=130,
    tail=50,
    scale=1.1,
    shift_x=0.08,
    shift_y=0.06,
)
FACTORS = tuple(factor.name for factor in fields(Structure))


def vector_of(structure: Structure) -> Array:
    """(F,) in the order of FACTORS."""
    return np.array([getattr(structure, name) for name in FACTORS], dtype=np.float64)


def structure_of(vector: Array) -> Structure:
    """The inverse of `vector_of`."""
    return Structure(**dict(zip(FACTORS, map(float, vector), strict=True)))


def poses_of(vectors: Array) -> Poses:
    """Many vectors (K, F) as poses to be drawn."""
    return Poses(**dict(zip(FACTORS, vectors.T, strict=True)))
