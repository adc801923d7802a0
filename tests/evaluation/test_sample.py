from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from divrl_core.evaluation.sample import load_reference, lora_file_of, sample_sheet
from divrl_core.models.lora_export import export_lora
from divrl_core.training.picture_references import PictureFile, PictureSource, check_sources

PROMPT = "a toy fox with a striped body on a blue floor"


@pytest.fixture
def fox(tmp_path) -> Path:
    values = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    path = tmp_path / "fox.png"
    Image.fromarray(values).resize((96, 80), Image.Resampling.BICUBIC).save(path)
    return path


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def sample(pipeline: Path, fox: Path, output: Path, **changed) -> Path:
    given = {
        "model": str(pipeline),
        "reference": fox,
        "prompt": PROMPT,
        "seeds": (0, 1),
        "steps": 2,
        "output": output,
    }
    return sample_sheet(**(given | changed))


def random_lora(pipeline: Path, path: Path) -> Path:
    """A LoRA whose effect can be seen."""
    import torch

    from divrl_core.models.flux import FluxAdapter
    from divrl_core.models.lora import add_lora, lora_state

    transformer = FluxAdapter.load(str(pipeline)).transformer
    add_lora(transformer, 2, 4.0, "attention", 0)
    generator = torch.Generator().manual_seed(1)
    state = {
        name: 0.5 * torch.randn(w.shape, generator=generator) for name, w in lora_state(transformer).items()
    }
    return export_lora(path, state, rank=2, alpha=4.0, settings={}, metadata={})


def test_a_seed_is_the_same_picture_whatever_else_is_asked_for(tiny_pipeline, fox, tmp_path):
    sample(tiny_pipeline, fox, tmp_path / "a", seeds=(0, 5, 9))
    sample(tiny_pipeline, fox, tmp_path / "b", seeds=(5,))
    assert np.array_equal(pixels(tmp_path / "a/base_seed-5.png"), pixels(tmp_path / "b/base_seed-5.png"))
    assert not np.array_equal(pixels(tmp_path / "a/base_seed-5.png"), pixels(tmp_path / "a/base_seed-9.png"))


def test_a_lora_stands_beside_the_base_at_every_strength(tiny_pipeline, fox, tmp_path):
    lora = random_lora(tiny_pipeline, tmp_path / "lora.safetensors")
    sheet = sample(tiny_pipeline, fox, tmp_path / "out", lora=lora, strengths=(0.5, 1.0), seeds=(3,))
    alone = sample(tiny_pipeline, fox, tmp_path / "alone", seeds=(3,)).parent
    names = sorted(path.name for path in sheet.parent.iterdir())
    assert names == ["base_seed-3.png", "sheet.jpg", "strength-0.5_seed-3.png", "strength-1_seed-3.png"]
    base, half, whole = (pixels(sheet.parent / name).astype(int) for name in (names[0], names[2], names[3]))
    assert np.array_equal(base, pixels(alone / "base_seed-3.png"))
    assert np.abs(half - base).max() > 0 and np.abs(whole - half).max() > 0


def test_pictures_have_the_size_asked_for(tiny_pipeline, fox, tmp_path):
    sheet = sample(tiny_pipeline, fox, tmp_path / "out", size_px=32, seeds=(0,))
    assert pixels(sheet.parent / "base_seed-0.png").shape == (32, 32, 3)
    assert Image.open(sheet).format == "JPEG"


def test_the_subject_comes_from_the_mask_or_the_alpha_channel_or_is_everything(tmp_path, fox):
    assert load_reference(fox, None, 32, 32).mask.float().mean() > 0.8
    inside = np.zeros((80, 96), dtype=np.uint8)
    inside[30:50, 40:60] = 255
    Image.fromarray(inside).save(tmp_path / "mask.png")
    masked = load_reference(fox, tmp_path / "mask.png", 80, 80)
    assert masked.mask.sum() == 400
    picture = Image.open(fox).convert("RGBA")
    picture.putalpha(Image.fromarray(inside))
    picture.save(tmp_path / "cut-out.png")
    assert (load_reference(tmp_path / "cut-out.png", None, 80, 80).mask == masked.mask).all()


def test_an_empty_alpha_channel_is_an_error_as_in_training(tmp_path, fox):
    picture = Image.open(fox).convert("RGBA")
    picture.putalpha(0)
    picture.save(tmp_path / "ghost.png")
    with pytest.raises(ValueError, match=r"ghost\.png: the mask is empty") as by_sample:
        load_reference(tmp_path / "ghost.png", None, 32, 32)
    file = PictureFile(str(tmp_path / "ghost.png"), lambda: tmp_path / "ghost.png")
    _, by_training = check_sources([PictureSource("ghost", (), file)])
    assert by_training == [str(by_sample.value)]


def test_the_log_says_which_mask_was_taken(tmp_path, fox, caplog):
    picture = Image.open(fox).convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    picture.save(tmp_path / "cut-out.png")
    Image.new("L", picture.size, 255).save(tmp_path / "mask.png")
    with caplog.at_level(logging.INFO, logger="divrl"):
        load_reference(fox, None, 32, 32)
        load_reference(tmp_path / "cut-out.png", None, 32, 32)
        load_reference(fox, tmp_path / "mask.png", 32, 32)
    said = [line.partition(": ")[2] for line in caplog.messages]
    assert said == [
        "the mask is the whole picture",
        "the mask is its alpha channel",
        f"the mask is the file {tmp_path / 'mask.png'}",
    ]


def test_a_run_folder_means_its_best_lora(tmp_path):
    folder = tmp_path / "run" / "lora"
    folder.mkdir(parents=True)
    (folder / "last.safetensors").write_bytes(b"")
    assert lora_file_of(tmp_path / "run").name == "last.safetensors"
    (folder / "best.safetensors").write_bytes(b"")
    assert lora_file_of(tmp_path / "run").name == "best.safetensors"
    with pytest.raises(FileNotFoundError, match="no LoRA file and no run folder"):
        lora_file_of(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"prompt": " "}, "prompt is empty"),
        ({"seeds": (1, 1)}, r"different whole numbers from 0 up, got \[1, 1\]"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"size_px": 100}, "multiples of 16"),
        ({"reference": Path("/nowhere/fox.png")}, "fox.png: no such picture"),
        ({"lora": Path("/nowhere/lora.safetensors")}, "no LoRA file"),
    ],
)
def test_requests_that_cannot_be_met_are_refused_in_one_line(tiny_pipeline, fox, tmp_path, changed, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words) as error:
        sample(tiny_pipeline, fox, tmp_path / "out", **changed)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_mask_of_another_size_and_a_damaged_picture_are_named(fox, tmp_path):
    Image.new("L", (10, 10), 255).save(tmp_path / "small.png")
    with pytest.raises(
        ValueError, match=r"small\.png: the mask must be as large as its picture, 96 x 80 px, got 10 x 10 px"
    ):
        load_reference(fox, tmp_path / "small.png", 32, 32)
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(fox.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"damaged\.png: truncated or damaged"):
        load_reference(damaged, None, 32, 32)
