"""A reward that says nothing of the picture: an experiment's control, which tells what training does by drift alone.

AdamW moves each weight by about its rate however weak the gradient is, and most ways out of a trained model raise nSSM:
what a run gains under this reward is no merit of its algorithm.
"""

from __future__ import annotations

from hashlib import blake2b

import torch
from torch import Tensor

from ..training.references import Reference


def chance(pictures: Tensor, reference: Reference, prompt: str) -> Tensor:
    """For each of the pictures (B, 3, H, W) a number in [0, 1) that follows from its pixels and from nothing else."""
    digests = [blake2b(picture.cpu().numpy().tobytes(), digest_size=4).digest() for picture in pictures]
    numbers = [int.from_bytes(digest, "big") / 2**32 for digest in digests]
    return torch.tensor(numbers, dtype=torch.float32, device=pictures.device)
