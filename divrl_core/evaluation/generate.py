"""Pictures for people and for measures: deterministic sampling from noise that belongs to the picture's name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..flow.noise import keyed_noise
from ..training.encoded_pairs import EncodedPairs
from ..training.placement import turns
from ..training.policy import Policy
from ..training.processes import Processes
from ..training.references import PromptPair


@dataclass(frozen=True, kw_only=True)
class PictureJob:
    """One picture to make. Its noise is keyed by (seed, stream, reference, prompt, sample), whatever the model."""

    pair: PromptPair
    sample: int
    seed: int
    stream: str

    @property
    def group(self) -> str:
        """Reference and prompt, as keys of noise name them."""
        return f"{self.pair.reference_id}\n{self.pair.prompt}"

    def noise(self, shape: Sequence[int], *, candidate: int = 0) -> Tensor:
        """The picture's noise tokens (N, C), float32, on the CPU; `candidate`: among several drawn for it, from 0."""
        return keyed_noise(
            shape,
            seed=self.seed,
            stream=self.stream,
            group=self.group,
            sample=self.sample,
            step=candidate,
        )


def generate(
    policy: Policy,
    encoded: EncodedPairs,
    jobs: Sequence[PictureJob],
    *,
    steps: int,
    batch_size: int,
    on_progress: Callable[[int], None],
    processes: Processes,
) -> Iterator[tuple[Sequence[PictureJob], Tensor]]:
    """The jobs in batches, in order, each with its pictures (B, 3, H, W), float32 in [0, 1].

    Of several processes each gets its share of the batches. `on_progress(pictures_made)` is called before each batch.
    """
    count = -(-len(jobs) // batch_size)
    for number, is_stand_in in turns(
        count, processes.index, processes.count, in_lockstep=processes.in_lockstep
    ):
        start = number * batch_size
        on_progress(start)
        batch = jobs[start : start + batch_size]
        noise = torch.stack([job.noise(policy.latent_shape) for job in batch]).to(policy.device)
        conditioning = encoded.conditioning([job.pair for job in batch])
        pictures = policy.sample(conditioning, noise, steps=steps)
        if not is_stand_in:
            yield batch, pictures
