"""Masks by transformers' segmentation classes, small and random, saved to disk and read back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional as F

from divrl_core.config import SegmenterConfig
from divrl_core.models.segmentation.base import Segmenter, load_segmenter
from divrl_core.models.segmentation.files import find_segmenter, segmenter_problems

from .small_segmenters import mask2former, segformer

THINGS = {0: "sky", 1: "dog", 2: "person"}


def opened(folder: Path, **settings: object) -> Segmenter:
    return load_segmenter(SegmenterConfig(model=str(folder), **settings))


def pictures(count: int, height: int, width: int) -> torch.Tensor:
    """Blots in 8 bits."""
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(5))
    smooth = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
    return smooth.mul(255).round() / 255


@pytest.fixture(scope="module")
def small_segformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return segformer(tmp_path_factory.mktemp("segformer"))


@pytest.fixture(scope="module")
def small_mask2former(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mask2former(tmp_path_factory.mktemp("mask2former"), classes=THINGS, answer=1)


@pytest.mark.parametrize(
    ("labels", "threshold"), [(None, 0.5), ("dog", 0.5), ("dog, cat", 0.3), ("cat", 0.1)]
)
def test_a_pixel_belongs_to_the_subject_where_its_classes_are_probable(
    small_segformer: Path, labels: str | None, threshold: float
) -> None:
    """Against the model and its processor called by hand, on a picture that is not square."""
    shown = pictures(2, 48, 80)
    segmenter = opened(small_segformer, labels=labels, threshold=threshold)
    processor = transformers.SegformerImageProcessorPil.from_pretrained(small_segformer)
    model = transformers.SegformerForSemanticSegmentation.from_pretrained(small_segformer).eval()
    arrays = [np.rint(picture.movedim(0, -1).numpy() * 255).astype(np.uint8) for picture in shown]
    with torch.no_grad():
        logits = model(**processor(images=arrays, return_tensors="pt")).logits
    wanted = {"cat": 1, "dog": 2}
    numbers = list(wanted.values()) if labels is None else [wanted[one.strip()] for one in labels.split(",")]
    probability = torch.softmax(logits, 1)[:, numbers].sum(1)
    expected = F.interpolate(probability[:, None], (48, 80), mode="bilinear")[:, 0] > threshold
    masks = segmenter.masks(shown)
    assert masks.dtype == torch.bool and masks.shape == (2, 48, 80)
    assert torch.equal(masks, expected)
    assert 0 < int(masks.sum()) < masks.numel()


def test_the_whole_answer_is_the_subject_or_nothing_is(tmp_path: Path) -> None:
    everywhere = opened(segformer(tmp_path / "dog", answer=2)).masks(pictures(1, 20, 30))
    nowhere = opened(segformer(tmp_path / "background", answer=0)).masks(pictures(1, 20, 30))
    cats = opened(tmp_path / "dog", labels="cat").masks(pictures(1, 20, 30))
    assert everywhere.all() and not nowhere.any() and not cats.any()


def test_of_segments_the_one_in_the_middle_is_the_subject_and_labels_take_all(
    small_mask2former: Path,
) -> None:
    shown = pictures(1, 40, 56)
    central, every = (opened(small_mask2former, labels=labels).masks(shown)[0] for labels in (None, "dog"))
    processor = transformers.Mask2FormerImageProcessorPil.from_pretrained(small_mask2former)
    model = transformers.Mask2FormerForUniversalSegmentation.from_pretrained(small_mask2former).eval()
    array = np.rint(shown[0].movedim(0, -1).numpy() * 255).astype(np.uint8)
    with torch.no_grad():
        outputs = model(**processor(images=[array], return_tensors="pt"))
    (answer,) = processor.post_process_panoptic_segmentation(
        outputs, target_sizes=[(40, 56)], label_ids_to_fuse=set()
    )
    found = [answer["segmentation"] == one["id"] for one in answer["segments_info"]]
    assert len(found) > 1
    assert torch.equal(every, torch.stack(found).any(dim=0))
    rows = torch.linspace(-1 + 1 / 40, 1 - 1 / 40, 40)[:, None]
    columns = torch.linspace(-1 + 1 / 56, 1 - 1 / 56, 56)[None]
    weights = torch.exp(-2 * (rows**2 + columns**2))
    assert torch.equal(central, max(found, key=lambda mask: float(weights[mask].sum())))


def test_no_segment_of_the_subject_s_classes_is_an_empty_mask(
    small_mask2former: Path, tmp_path: Path
) -> None:
    shown = pictures(1, 40, 56)
    assert not opened(small_mask2former, labels="person").masks(shown).any()
    sky = mask2former(tmp_path, classes=THINGS, answer=0)
    assert not opened(sky).masks(shown).any()
    nothing = mask2former(tmp_path / "none", classes=THINGS, answer=3)
    assert not opened(nothing).masks(shown).any()


def test_the_same_picture_has_the_same_mask_alone_and_among_others(small_segformer: Path) -> None:
    segmenter, shown = opened(small_segformer), pictures(3, 33, 47)
    together = segmenter.masks(shown)
    assert all(torch.equal(segmenter.masks(picture[None])[0], mask) for picture, mask in zip(shown, together))
    assert str(small_segformer) in segmenter.source and "all but background" in segmenter.source


def test_the_fingerprint_is_of_the_content(small_segformer: Path, tmp_path: Path) -> None:
    same, other = segformer(tmp_path / "same"), segformer(tmp_path / "other", answer=1)
    names = [
        find_segmenter(SegmenterConfig(model=str(path))).fingerprint
        for path in (small_segformer, same, other)
    ]
    assert names[0] == names[1] != names[2]


def problem_of(folder: Path | str, **settings: object) -> str:
    (problem,) = segmenter_problems(SegmenterConfig(model=str(folder), **settings))
    return problem


def test_what_is_no_segmentation_model_is_told_before_it_is_loaded(
    small_segformer: Path, tmp_path: Path
) -> None:
    assert "no such folder, no .onnx file" in problem_of("./nowhere")
    assert "no config.json in this folder" in problem_of(tmp_path)
    assert "'wolf' is none of its classes; it knows background, cat, dog" in problem_of(
        small_segformer, labels="wolf"
    )
    assert segmenter_problems(SegmenterConfig(model="somebody/something")) == []  # nothing is known of it yet
    assert segmenter_problems(SegmenterConfig()) == []

    (tmp_path / "weights.bin").write_bytes(b"")
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((small_segformer / name).read_bytes())
    assert "pickles (.bin) are not read" in problem_of(tmp_path)

    (tmp_path / "model.safetensors").write_bytes((small_segformer / "model.safetensors").read_bytes())
    about = json.loads((tmp_path / "config.json").read_text())
    own = {
        **about,
        "architectures": ["BiRefNet"],
        "auto_map": {"AutoModelForImageSegmentation": "birefnet.BiRefNet"},
    }
    (tmp_path / "config.json").write_text(json.dumps(own))
    assert "says BiRefNet; code that comes with a model is not run, take a .onnx file" in problem_of(tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert "config.json cannot be read as JSON" in problem_of(tmp_path)


def test_code_that_comes_with_a_model_is_never_run(small_segformer: Path, tmp_path: Path) -> None:
    for path in small_segformer.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')\nclass Own: pass\n")
    about = json.loads((tmp_path / "config.json").read_text())
    about |= {
        "model_type": "own",
        "auto_map": {"AutoModelForSemanticSegmentation": "own.Own", "AutoConfig": "own.Own"},
    }
    (tmp_path / "config.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="could not be loaded as SegformerForSemanticSegmentation"):
        opened(tmp_path)
    assert not (tmp_path / "was-run").exists()


def test_weights_that_are_cut_off_or_missing_are_told_in_one_line(
    small_segformer: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    for path in small_segformer.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = tmp_path / "model.safetensors"
    state = load_file(small_segformer / "model.safetensors")
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(ValueError, match="could not be loaded") as caught:
        opened(tmp_path)
    assert "\n" not in str(caught.value)
    state.pop("decode_head.classifier.weight")
    save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"1 weights of Segformer.* the first is decode_head\.classifier\.weight"
    ):
        opened(tmp_path)
