"""Best-of-N as a rival at equal compute: N candidates a picture, the gate first, then the most structure.

The choice is the one of the ComfyUI node (selection/choice.py), by the evaluation's main backbone and its own gate.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...config import BackboneConfig
from ...models.conditioning import Conditioning
from ...models.features.base import load_backbone
from ...selection.choice import Measured, choose
from ...training.measurer import Measurer
from ...training.policy import Policy
from ...training.references import ReferenceSet
from ..benchmarks.base import Benchmark
from ..generate import PictureJob


@dataclass(frozen=True)
class Chooser:
    """The backbone that judges candidates, and the references that they are judged against."""

    measurer: Measurer
    references: ReferenceSet

    @classmethod
    def load(
        cls, config: BackboneConfig, benchmark: Benchmark, size_px: int, device: torch.device
    ) -> Chooser:
        """Reads the backbone's weights."""
        backbone = load_backbone(config, device=device)
        return cls(Measurer(backbone, size_px=size_px), benchmark.references)

    def choose(self, reference_id: str, pictures: Tensor) -> int:
        """The number of the best of these pictures (N, 3, H, W) of one reference."""
        scores = self.measurer.scores(self.measurer.look(pictures), self.references, reference_id)
        measured = Measured(nssm=scores.nssm.cpu(), vsm=scores.vsm.cpu(), matches=scores.kept_count.cpu())
        gate = self.measurer.backbone.settings.gate
        return choose(measured, mode="reward", keep=1, gate=gate).kept[0]


def best_of(
    policy: Policy,
    conditioning: Conditioning,
    job: PictureJob,
    *,
    count: int,
    steps: int,
    chooser: Chooser,
) -> Tensor:
    """The best of `count` candidates (3, H, W); candidate 0 is the picture that other models make of this noise."""
    candidates = []
    for number in range(count):
        noise = job.noise(policy.latent_shape, candidate=number)[None].to(policy.device)
        candidates.append(policy.sample(conditioning, noise, steps=steps)[0])
    if count == 1:
        return candidates[0]
    return candidates[chooser.choose(job.pair.reference_id, torch.stack(candidates))]
