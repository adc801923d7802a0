"""CLIP-T, CLIP-I and DINO: against transformers' own classes and processors, and torchmetrics' CLIP score."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as of
from PIL import Image

from divrl_core.evaluation.metrics.clip import ClipScorer, cosines
from divrl_core.evaluation.metrics.dino import DinoScorer
from divrl_core.models.features.picture_processor import PictureProcessor
from divrl_core.models.features.vision_files import IMAGENET
from tests.evaluation.metrics.small_networks import MOST_TOKENS, edit_json, save_clip, save_dino
from tests.evaluation.metrics.subjects import noise, question, shot, subject
from tests.models.small_vision import small_model

SHAPES = [(64, 64), (96, 64), (64, 112), (61, 43)]


class ClipOfTransformers4(of.CLIPModel):
    """Gives plain vectors, as torchmetrics 1.9 expects and transformers gave them up to version 4."""

    def get_image_features(self, *args: Any, **options: Any) -> Any:
        return super().get_image_features(*args, **options).pooler_output

    def get_text_features(self, *args: Any, **options: Any) -> Any:
        return super().get_text_features(*args, **options).pooler_output


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip") / "model")


@pytest.fixture(scope="module")
def dino_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_dino(tmp_path_factory.mktemp("dino") / "model")


def test_cosines_by_hand() -> None:
    first = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]])
    second = torch.tensor([[4.0, 3.0], [-2.0, 0.0], [1.0, 0.0]])
    found = cosines(first, second)
    # (3*4 + 4*3) / (5*5) = .96; opposite = -1; a zero vector has no direction
    assert found[:2].tolist() == pytest.approx([0.96, -1.0])
    assert math.isnan(found[2])


@torch.no_grad()
def test_clip_scores_are_the_cosines_of_transformers_own_embeddings(clip_folder: Path) -> None:
    pictures = [noise(seed, *shape) for seed, shape in enumerate(SHAPES)]
    shots = [shot(picture, number) for number, picture in enumerate(pictures)]
    reference = subject(seed=9, height=80, width=60)
    scorer = ClipScorer.load(str(clip_folder))
    values = scorer.score(shots, scorer.prepare(reference))

    model = of.CLIPModel.from_pretrained(clip_folder).eval()
    processor = of.CLIPImageProcessorPil.from_pretrained(clip_folder)
    tokenizer = of.CLIPTokenizer.from_pretrained(clip_folder)
    pixels = processor(images=[*pictures, reference.picture], return_tensors="pt").pixel_values
    prompts = [one.question.pair.prompt for one in shots]
    tokens = tokenizer(prompts, padding=True, return_tensors="pt")
    output = model(pixel_values=pixels, **tokens)
    images, texts = output.image_embeds, output.text_embeds  # of length 1
    assert torch.allclose(values["clip_t"], (images[:-1] * texts).sum(dim=1), atol=1e-5)
    assert torch.allclose(values["clip_i"], images[:-1] @ images[-1], atol=1e-5)
    assert values["clip_t"].std() > 1e-3 and values["clip_i"].std() > 1e-3  # what is compared says something


def test_clip_t_is_a_hundredth_of_torchmetrics_clip_score(clip_folder: Path) -> None:
    multimodal = pytest.importorskip("torchmetrics.functional.multimodal.clip_score")
    pictures = [noise(seed) for seed in range(3)]
    shots = [shot(picture, number) for number, picture in enumerate(pictures)]
    scorer = ClipScorer.load(str(clip_folder))
    ours = scorer.score(shots, scorer.prepare(subject(seed=9)))

    processor = of.CLIPProcessor(
        of.CLIPImageProcessorPil.from_pretrained(clip_folder), of.CLIPTokenizer.from_pretrained(clip_folder)
    )
    tensors = [torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in pictures]
    prompts = [one.question.pair.prompt for one in shots]
    model = ClipOfTransformers4.from_pretrained(clip_folder).eval()
    theirs, _ = multimodal._clip_score_update(tensors, prompts, model, processor)
    assert torch.allclose(ours["clip_t"], theirs.detach() / 100, atol=1e-5)


def test_the_same_picture_has_clip_i_and_dino_1_and_a_prompt_is_cut_to_what_the_model_takes(
    clip_folder: Path, dino_folder: Path
) -> None:
    reference = subject(seed=3)
    long = "a toy fox " * MOST_TOKENS
    same = shot(reference.picture)
    clip, dino = ClipScorer.load(str(clip_folder)), DinoScorer.load(str(dino_folder))
    told = type(same)(picture=same.picture, question=question(prompt=long), k=0)
    assert clip.score([told], clip.prepare(reference))["clip_i"].item() == pytest.approx(1, abs=1e-6)
    assert dino.score([same], dino.prepare(reference))["dino"].item() == pytest.approx(1, abs=1e-6)


def test_a_prompt_of_many_pictures_is_read_once(clip_folder: Path) -> None:
    scorer = ClipScorer.load(str(clip_folder))
    prepared = scorer.prepare(subject())
    scorer.score([shot(noise(seed), 0, seed) for seed in range(3)], prepared)
    scorer.score([shot(noise(seed), seed, 0) for seed in range(2)], prepared)
    assert list(prepared.prompts) == ["a toy fox on floor 0", "a toy fox on floor 1"]


@torch.no_grad()
def test_dino_is_the_cosine_of_class_tokens_as_dreambench_plus_measures_it(dino_folder: Path) -> None:
    pictures = [noise(seed, *shape) for seed, shape in enumerate(SHAPES)]
    reference = subject(seed=9, height=80, width=60)
    scorer = DinoScorer.load(str(dino_folder))
    values = scorer.score([shot(picture) for picture in pictures], scorer.prepare(reference))
    processor = of.BitImageProcessorPil.from_pretrained(dino_folder)
    pixels = processor(images=[*pictures, reference.picture], return_tensors="pt").pixel_values
    tokens = small_model("dinov2")(pixels).last_hidden_state[:, 0]
    expected = torch.nn.functional.cosine_similarity(tokens[:-1], tokens[-1:])
    assert torch.allclose(values["dino"], expected, atol=1e-5)
    assert set(values) == {"dino"}  # the subject has no further view, so nothing is said of copies


def test_dino_tells_a_copy_of_the_reference_from_a_copy_of_the_other_view(dino_folder: Path) -> None:
    reference = subject(seed=3, views=(4,))
    scorer = DinoScorer.load(str(dino_folder))
    values = scorer.score([shot(noise(3)), shot(noise(4))], scorer.prepare(reference))
    assert values["dino_copy_paste"].tolist() == pytest.approx([1, -1], abs=5e-3)
    assert values["dino_copy_excess"][0] > 0
    assert values["dino_copy_excess"][1].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("shape", [*SHAPES, (300, 224), (30, 500)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pictures_are_shown_as_transformers_shows_them(shape: tuple[int, int], mode: str) -> None:
    picture = noise(1, *shape).convert(mode)
    ours = PictureProcessor(shortest_px=256, crop_px=224, normalisation=IMAGENET).pixels([picture])
    theirs = of.BitImageProcessorPil(
        size={"shortest_edge": 256}, image_mean=IMAGENET.mean, image_std=IMAGENET.std, do_convert_rgb=True
    )(images=picture, return_tensors="pt").pixel_values
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_a_model_that_is_shown_whole_squares_is_shown_whole_squares(
    dino_folder: Path, tmp_path: Path
) -> None:
    folder = save_dino(tmp_path / "model")
    edit_json(folder / "preprocessor_config.json", do_center_crop=False, size={"height": 56, "width": 56})
    scorer = DinoScorer.load(str(folder))
    assert "whole pictures as squares of 56 px" in scorer.source
    picture = noise(2, 96, 64)
    same = picture.resize((56, 56), Image.Resampling.BICUBIC)
    values = scorer.score([shot(picture)], scorer.prepare(subject()))
    small = scorer.score([shot(same)], scorer.prepare(subject()))
    assert values["dino"].item() == pytest.approx(small["dino"].item(), abs=1e-6)


def test_sizes_that_are_none_are_refused_with_the_file(tmp_path: Path) -> None:
    folder = save_dino(tmp_path / "model")
    edit_json(folder / "preprocessor_config.json", crop_size={"height": 90, "width": 90})
    with pytest.raises(
        ValueError, match=r"preprocessor_config.json: says no way .* 90 px .* 64 px"
    ) as refusal:
        DinoScorer.load(str(folder))
    assert "\n" not in str(refusal.value)
