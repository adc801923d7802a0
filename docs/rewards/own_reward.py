"""Rewards of one's own: copy this file to where the run starts, change it, and name a function of it.

    divrl-train explore --set reward.kind=own --set reward.function=own_reward:colourful
    divrl-train explore --set reward.kind=own --set reward.function=own_reward:unlike_the_others \\
                        --set reward.function_takes=group

A function is given the pictures of one (reference, prompt) pair and returns one number for each; higher is better, and
torch.nan says "cannot be judged": that sample is left out. It runs without gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from divrl_core.rewards.score import Scores
from divrl_core.training.references import Reference


def colourful(pictures: Tensor, reference: Reference, prompt: str) -> Tensor:
    """How strong the colours are: the mean spread between a pixel's channels, 0 (grey) to 1.

    pictures: (B, 3, H, W) float32 in [0, 1]. reference.image: (3, S, S), reference.mask: (S, S) bool, the object. All
    lie on the reward's device. Returns (B,).
    """
    return (pictures.amax(dim=1) - pictures.amin(dim=1)).mean(dim=(1, 2))


def near_its_colours(pictures: Tensor, reference: Reference, prompt: str, scores: Scores) -> Tensor:
    """nSSM, less the distance between the picture's mean colour and the object's.

    A parameter named `scores` is given what the backbone measured: scores.nssm and scores.vsm, each (B,).
    """
    wanted = reference.image[:, reference.mask].mean(dim=1)
    return scores.nssm - (pictures.mean(dim=(2, 3)) - wanted).norm(dim=1)


def unlike_the_others(pictures: Tensor, reference: Reference, prompt: str) -> Tensor:
    """How far each picture is from the nearest other one of its group, as thumbnails of 16 x 16.

    It needs the whole group at once: set reward.function_takes=group. A picture that is alone cannot be judged.
    """
    thumbnails = F.adaptive_avg_pool2d(pictures, 16).flatten(1)
    distances = torch.cdist(thumbnails, thumbnails) / thumbnails.shape[1] ** 0.5
    distances.fill_diagonal_(torch.inf)
    nearest = distances.amin(dim=1)
    return torch.where(nearest.isinf(), torch.nan, nearest)
