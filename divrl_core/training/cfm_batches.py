"""Which pairs make which micro-batch: whole panels of one size, every pair once an epoch, no state to keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

from ..models.panels import panel_size
from .latent_cache import PanelPicture
from .pair_set import PairSet, TrainingPair
from .placement import even_runs

Size = tuple[int, int]


@dataclass(frozen=True)
class SizedPair:
    """A pair with the size of its two panels."""

    pair: TrainingPair
    height: int
    width: int

    @property
    def target(self) -> PanelPicture:
        """The target's panel."""
        return PanelPicture(self.pair.target_id, "target", self.height, self.width)

    @property
    def reference(self) -> PanelPicture:
        """The reference's panel, of the same size."""
        return PanelPicture(self.pair.reference_id, "reference", self.height, self.width)


def sized_pairs(pairs: PairSet, side_px: int, *, aspect_buckets: bool) -> tuple[SizedPair, ...]:
    """Every pair with panels of the target's aspect at an area of `side_px` squared, or with squares."""
    sized = []
    for pair in pairs.pairs:
        height, width = side_px, side_px
        if aspect_buckets:
            facts = pairs.facts(pair.target_id)
            height, width = panel_size(facts.height, facts.width, side_px)
        sized.append(SizedPair(pair, height, width))
    return tuple(sized)


@dataclass(frozen=True)
class BatchPart:
    """Pairs of a micro-batch that go through the model together, in one process.

    number: of the micro-batch within the run. first: place of the first of the pairs within it.
    """

    number: int
    first: int
    pairs: tuple[SizedPair, ...]


class BatchPlan:
    """The micro-batches of a run, a pure function of (pairs, batch size, seed).

    In every epoch each size's pairs are shuffled anew and dealt into micro-batches, whose order is shuffled too. The
    last micro-batch of a size holds what is left, so that every pair comes once an epoch.
    """

    def __init__(self, pairs: Sequence[SizedPair], batch_size: int, seed: int) -> None:
        self._buckets: dict[Size, list[SizedPair]] = {}
        for pair in sorted(pairs, key=lambda item: item.pair.pair_id):
            self._buckets.setdefault((pair.height, pair.width), []).append(pair)
        self._batch_size, self._seed = batch_size, seed
        self.epoch_length = sum(-(-len(bucket) // batch_size) for bucket in self._buckets.values())
        self._epoch = lru_cache(maxsize=2)(self._deal)

    @property
    def sizes(self) -> dict[Size, int]:
        """How many pairs each panel size (height, width) has."""
        return {size: len(bucket) for size, bucket in sorted(self._buckets.items())}

    def micro_batch(self, number: int) -> tuple[SizedPair, ...]:
        """Micro-batch `number` of the run, counted from 0: pairs of one panel size."""
        epoch, place = divmod(number, self.epoch_length)
        return self._epoch(epoch)[place]

    def parts_of_process(
        self, update: int, accumulation: int, index: int, processes: int
    ) -> tuple[BatchPart, ...]:
        """What process `index` of `processes` learns from in an update of `accumulation` micro-batches.

        Where there are more processes than micro-batches, these are cut. All randomness is keyed by a pair's place, so
        that an update is the same however many share it.
        """
        cuts = -(-processes // accumulation)
        parts = []
        for number in range(update * accumulation, (update + 1) * accumulation):
            first = 0
            for pairs in even_runs(self.micro_batch(number), cuts):
                if pairs:
                    parts.append(BatchPart(number, first, pairs))
                first += len(pairs)
        return even_runs(parts, processes)[index]

    def _deal(self, epoch: int) -> list[tuple[SizedPair, ...]]:
        batches = []
        for size, bucket in self._buckets.items():
            order = sorted(bucket, key=lambda item: self._hash(f"{epoch}/{item.pair.pair_id}"))
            for start in range(0, len(order), self._batch_size):
                key = self._hash(f"{epoch}/{size}/{start}")
                batches.append((key, tuple(order[start : start + self._batch_size])))
        return [batch for _, batch in sorted(batches, key=lambda item: item[0])]

    def _hash(self, text: str) -> bytes:
        return blake2b(f"{self._seed}/{text}".encode(), digest_size=16).digest()
