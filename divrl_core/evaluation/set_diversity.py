"""How the pictures of one reference differ from each other: a model that always turns to the same pose is found out.

- set_distance: mean structural distance (nSSM between two pictures) over all pairs of pictures of one reference.
- set_pose_deg: where the world is known, the mean true change of pose between two of them, whole or not.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from ..rewards.nssm import ReferenceStructure, structure_distance
from ..training.references import KnownWorld, PromptPair, Truth
from .generate import PictureJob


@dataclass(frozen=True)
class Seen:
    """What of a picture is compared with the others of its reference: its structure, and what is true of it."""

    structure: ReferenceStructure
    truth: Truth | None


def set_values(
    jobs: Sequence[PictureJob], seen: Mapping[int, Seen], world: KnownWorld | None
) -> dict[str, list[tuple[str, float]]]:
    """(reference, value) rows of each measure, one a reference with two pictures or more; NaN pairs are left out.

    Whatever their prompts: two models are compared over the same jobs. seen: by the place of the job.
    """
    groups: dict[str, list[tuple[PromptPair, Seen]]] = defaultdict(list)
    for place, job in enumerate(jobs):
        groups[job.pair.reference_id].append((job.pair, seen[place]))
    rows: dict[str, list[tuple[str, float]]] = {"set_distance": [], "set_pose_deg": []}
    for reference_id, members in groups.items():
        apart: dict[str, list[float]] = {name: [] for name in rows}
        for (pair, first), (_, second) in combinations(members, 2):
            apart["set_distance"].append(structure_distance(first.structure, second.structure))
            if world is not None and first.truth is not None and second.truth is not None:
                apart["set_pose_deg"].append(world.pose_apart_deg(pair, first.truth, second.truth))
        for name, values in apart.items():
            known = [value for value in values if not math.isnan(value)]
            if known:
                rows[name].append((reference_id, math.fsum(known) / len(known)))
    return {name: values for name, values in rows.items() if values}
