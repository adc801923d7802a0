"""Noise by name: every tensor of noise is a pure function of its key.

Nothing is drawn from a shared stream, so results do not depend on order, micro-batches, processes or
resumption.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import torch
from torch import Tensor


def keyed_seed(
    *, seed: int, stream: str, update: int = 0, group: str = "", sample: int = 0, step: int = 0
) -> int:
    """A 63-bit seed from a key, by hashing all of its parts (BLAKE2b).

    Args:
        seed: the run's seed.
        stream: what the randomness is for, e.g. "rollout" or "heldout"; streams never share seeds.
        update: number of the update within the run.
        group: stable id of the (reference, prompt) pair.
        sample: number of the sample within its group.
        step: number of the sampling step; by custom 0 is the first noise of a picture.

    Returns:
        An integer in [0, 2^63). Torch's CPU generator takes its lower 32 bits, so two given keys share their
        noise by a chance of 2^-32.
    """
    key = json.dumps([int(seed), str(stream), int(update), str(group), int(sample), int(step)])
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 1


def keyed_noise(
    shape: Sequence[int],
    *,
    seed: int,
    stream: str,
    update: int = 0,
    group: str = "",
    sample: int = 0,
    step: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Standard normal noise that belongs to a key; see `keyed_seed` for the key's parts.

    Args:
        shape: shape of one sample's noise, e.g. (N, C); stack samples to a batch.
        dtype: the noise is drawn in float32 and rounded to this, so that all dtypes see the same numbers.

    Returns:
        CPU tensor of the shape; move it to a device afterwards.
    """
    key = keyed_seed(seed=seed, stream=stream, update=update, group=group, sample=sample, step=step)
    generator = torch.Generator(device="cpu").manual_seed(key)
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float32).to(dtype)
