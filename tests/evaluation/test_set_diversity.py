"""How the pictures of one reference differ from each other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from divrl_core.evaluation.generate import PictureJob
from divrl_core.evaluation.set_diversity import Seen, set_values
from divrl_core.pocket.references import PocketReferences
from divrl_core.rewards.nssm import ReferenceStructure, reference_structure, structure_distance
from divrl_core.training.references import PromptPair, known_world


def structure(seed: int) -> ReferenceStructure:
    features: Tensor = torch.randn(8, 4, 4, generator=torch.Generator().manual_seed(seed))
    return reference_structure(features, torch.ones(4, 4, dtype=torch.bool))


def job(reference: str, sample: int, prompt: int = 0) -> PictureJob:
    pair = PromptPair(f"{reference}#{prompt}", reference, f"a toy on floor {prompt}")
    return PictureJob(pair=pair, sample=sample, seed=0, stream="s")


def test_distances_are_between_pictures_of_one_reference_whatever_their_prompts() -> None:
    jobs = [job("ant", 0), job("bee", 0), job("ant", 1), job("ant", 0, prompt=1)]
    seen = {place: Seen(structure(place), None) for place in range(4)}
    values = set_values(jobs, seen, None)
    own = [structure_distance(seen[a].structure, seen[b].structure) for a, b in ((0, 2), (0, 3), (2, 3))]
    assert values == {"set_distance": [("ant", pytest.approx(sum(own) / 3))]}


def test_copies_of_one_new_pose_have_no_diversity() -> None:
    jobs = [job("ant", 0), job("ant", 1)]
    same = Seen(structure(1), None)
    ((_, distance),) = set_values(jobs, {0: same, 1: same}, None)["set_distance"]
    assert distance == pytest.approx(0, abs=1e-6)


def test_pictures_alone_have_no_set() -> None:
    assert (
        set_values(
            [job("ant", 0), job("bee", 0)], {0: Seen(structure(0), None), 1: Seen(structure(1), None)}, None
        )
        == {}
    )


def test_true_poses_are_compared_where_the_world_is_known() -> None:
    references = PocketReferences(count=2, split="held_out", seed=0)
    world = known_world(references)
    assert world is not None
    pair = references.pairs[0]
    picture = references.load(pair.reference_id, 128).image
    truth = world.truths(picture[None], [pair])[0]
    assert world.pose_apart_deg(pair, truth, truth) == 0
