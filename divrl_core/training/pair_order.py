"""In which order pairs are trained on, and which references are set apart: by hashes of ids, no state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b

from .references import PromptPair


def pick_pairs(pairs: Sequence[PromptPair], count: int, *, seed: int, update: int) -> tuple[PromptPair, ...]:
    """The `count` pairs of an update, counted from 0: a walk over all pairs, shuffled anew in every epoch.

    A pure function of its arguments, so a resumed run finds its place without state, and independent of the
    order of `pairs`. Every pair comes once an epoch. An update that spans two epochs never holds a pair
    twice: the new epoch then starts with pairs that the update does not hold yet. Costs one hash for each
    pair walked so far. Raises ValueError if there are fewer pairs than `count` (twice the same group would
    draw the same noise).
    """
    if count < 1 or update < 0:
        raise ValueError(f"pick_pairs needs count >= 1 and update >= 0, got count={count}, update={update}")
    if count > len(pairs):
        raise ValueError(
            f"an update of {count} groups needs as many (reference, prompt) pairs, got {len(pairs)}; "
            f"set grpo.groups_per_update to at most {len(pairs)} or add captions"
        )
    first_epoch, start = divmod(update * count, len(pairs))
    order = _shuffled(pairs, seed, 0)
    for epoch in range(1, first_epoch + 1):
        order = _next_epoch(order, _shuffled(pairs, seed, epoch), count, epoch)
    picked = order[start : start + count]
    if len(picked) < count:
        following = _next_epoch(order, _shuffled(pairs, seed, first_epoch + 1), count, first_epoch + 1)
        picked = [*picked, *following[: count - len(picked)]]
    return tuple(picked)


def held_out_ids(identities: Mapping[str, str], count: int) -> frozenset[str]:
    """The reference ids to set apart, about `count` of them, chosen by the hash of the id alone.

    `identities` maps each id to what identifies its picture (a digest): references of the same picture stay
    on one side. At most a quarter of the pictures is set apart, but always one. Raises ValueError when
    there is only one.
    """
    same_picture: dict[str, list[str]] = {}
    for reference_id in sorted(identities):
        same_picture.setdefault(identities[reference_id], []).append(reference_id)
    groups = sorted(same_picture.values(), key=lambda ids: _hash(ids[0]))
    if len(groups) < 2:
        raise ValueError(
            f"held-out references need at least 2 different pictures, got {len(groups)}: "
            "add pictures, or name another folder in data.held_out"
        )
    chosen: list[str] = []
    for ids in groups[: max(1, len(groups) // 4)]:
        if len(chosen) >= count:
            break
        chosen += ids
    return frozenset(chosen)


def first_by_hash(reference_ids: Iterable[str], count: int) -> frozenset[str]:
    """The `count` ids (or all, if fewer) whose hash comes first, in whatever order they are given."""
    return frozenset(sorted(reference_ids, key=_hash)[:count])


def _shuffled(pairs: Sequence[PromptPair], seed: int, epoch: int) -> list[PromptPair]:
    return sorted(pairs, key=lambda pair: _hash(f"{seed}/{epoch}/{pair.group_id}"))


def _next_epoch(
    previous: list[PromptPair], order: list[PromptPair], count: int, epoch: int
) -> list[PromptPair]:
    """`order` with its start rearranged: the update begun in the previous epoch meets no pair twice."""
    begun = (epoch * len(order)) % count
    held = set(previous[len(previous) - begun :])
    head = [pair for pair in order if pair not in held][: count - begun if begun else 0]
    in_head = set(head)
    return head + [pair for pair in order if pair not in in_head]


def _hash(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()
