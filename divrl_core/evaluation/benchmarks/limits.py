"""A part of a benchmark that stands for all of it: a few references of every collection, a few prompts of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...training.pair_order import first_by_hash


@dataclass(frozen=True, kw_only=True)
class Limits:
    """At most so many references, and of each its first so many prompts; None = all.

    Raises ValueError for a number below 1.
    """

    references: int | None = None
    prompts: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("references", self.references), ("prompts", self.prompts)):
            if value is not None and value < 1:
                raise ValueError(
                    f"a benchmark needs at least 1 of its {name}, got {value}; leave it out for all"
                )


def kept_ids(collections: Mapping[str, str], most: int | None) -> frozenset[str]:
    """The ids to keep of `collections` (reference id -> its collection): `most` of them, or all with None.

    Collections give in turn, in the order of their names, until there are enough; within one the hash of the id
    decides. So a larger part holds every smaller one, and neither the seed nor the order of the files has a say.
    """
    if most is None:
        return frozenset(collections)
    members: dict[str, list[str]] = {}
    for reference_id, collection in collections.items():
        members.setdefault(collection, []).append(reference_id)
    taken = dict.fromkeys(sorted(members), 0)
    while sum(taken.values()) < min(most, len(collections)):
        for name in taken:
            if taken[name] < len(members[name]) and sum(taken.values()) < most:
                taken[name] += 1
    return frozenset().union(*(first_by_hash(members[name], count) for name, count in taken.items()))
