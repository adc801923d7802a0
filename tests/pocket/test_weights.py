"""The shipped pocket Kontext: its size, and that it does what a base model here must do."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from divrl_core.flow.noise import keyed_noise
from divrl_core.models.features.lite0 import Lite0Backbone
from divrl_core.models.flux import FluxAdapter
from divrl_core.models.model_names import POCKET_FOLDER
from divrl_core.pocket.figures import BACKGROUNDS
from divrl_core.pocket.references import PocketReferences
from divrl_core.rewards.score import reference_features, score_images

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def samples() -> list[dict]:
    """One picture for each of twelve held-out figures, ten steps, with its scores."""
    adapter = FluxAdapter.load("pocket")
    backbone = Lite0Backbone.load()
    references = PocketReferences(split="held_out", count=12)
    found = []
    for pair in references.pairs[::4]:
        reference = references.load(pair.reference_id, 128)
        conditioning = adapter.encode([pair.prompt], reference.image[None])
        noise = keyed_noise(adapter.latent_shape(128, 128), seed=0, stream="weights", group=pair.group_id)
        tokens = adapter.sample(conditioning, noise[None], height=128, width=128, steps=10, guidance=2.5)
        image = adapter.decode(tokens, 128, 128)
        features = reference_features(
            backbone.extract(reference.image[None]),
            reference.mask,
            backbone.settings.score,
            name=pair.reference_id,
        )
        scores = score_images(backbone.extract(image), features, backbone.settings.score)
        found.append({"prompt": pair.prompt, "image": image[0], "scores": scores})
    return found


def test_the_weights_are_small_and_hold_no_pickle():
    files = [path for path in POCKET_FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 30 * MEGABYTE
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    assert (
        json.loads((POCKET_FOLDER / "model_index.json").read_text())["_class_name"] == "FluxKontextPipeline"
    )


def test_the_base_keeps_identity_and_copies_the_pose(samples: list[dict]):
    """The paradox: true other views of the world have nSSM .68; two unlike figures have VSM .32."""
    vsm = torch.cat([sample["scores"].vsm for sample in samples])
    nssm = torch.cat([sample["scores"].nssm for sample in samples])
    assert vsm.nanmean() > 0.5
    assert nssm.nanmean() < 0.5


def test_the_floor_is_the_one_that_the_prompt_names(samples: list[dict]):
    names = list(BACKGROUNDS)
    palette = np.array([BACKGROUNDS[name] for name in names])
    right = 0
    for sample in samples:
        corners = torch.cat([sample["image"][:, -12:, :12], sample["image"][:, -12:, -12:]], dim=2)
        colour = corners.flatten(1).median(dim=1).values.numpy()
        nearest = names[int(np.linalg.norm(palette - colour, axis=1).argmin())]
        right += f"on a {nearest} floor" in sample["prompt"]
    assert right >= len(samples) - 2
