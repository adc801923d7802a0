"""Masks by ONNX files whose rule is known: the saliency is the red channel, so masks are worked by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from divrl_core.config import SegmenterConfig
from divrl_core.models.segmentation.base import Segmenter, load_segmenter
from divrl_core.models.segmentation.files import segmenter_problems

from .small_segmenters import onnx_file

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


def opened(path: Path, **settings: object) -> Segmenter:
    return load_segmenter(SegmenterConfig(model=str(path), **{"normalisation": "none", **settings}))


def red(values: torch.Tensor) -> torch.Tensor:
    """A picture (1, 3, H, W) with these reds and full greens and blues."""
    return torch.stack([values, torch.ones_like(values), torch.ones_like(values)])[None]


def test_the_mask_is_where_red_is_above_the_threshold(tmp_path: Path) -> None:
    values = torch.linspace(0, 1, 64).reshape(8, 8)
    path = onnx_file(tmp_path / "red.onnx")
    for threshold in (0.0, 0.25, 0.5, 0.9):
        assert torch.equal(opened(path, threshold=threshold).masks(red(values))[0], values > threshold)
    both = torch.cat([red(values), red(1 - values)])
    assert torch.equal(opened(path).masks(both), torch.stack([values > 0.5, values < 0.5]))


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_a_picture_of_a_whole_multiple_keeps_its_edge_to_the_pixel(tmp_path: Path, factor: int) -> None:
    """Down to 8 x 8 and back: half of the picture is red, from the row 3 factor on."""
    values = torch.zeros(8 * factor, 8 * factor)
    values[3 * factor :] = 1.0
    masks = opened(onnx_file(tmp_path / "red.onnx")).masks(red(values))
    assert torch.equal(masks[0], values > 0.5)


def test_the_file_s_own_size_is_used_and_an_open_one_is_1024(tmp_path: Path) -> None:
    wide = onnx_file(tmp_path / "wide.onnx", sides=(4, 16))
    values = torch.zeros(4, 16)
    values[:, 5:] = 1.0
    assert torch.equal(opened(wide).masks(red(values))[0], values > 0.5)
    assert "16 x 4 px" in opened(wide).source
    dynamic = opened(onnx_file(tmp_path / "open.onnx", sides=("height", "width")))
    assert "1024 x 1024 px" in dynamic.source
    assert dynamic.masks(red(torch.ones(20, 10))).all()


@pytest.mark.parametrize(
    ("name", "fed"),
    [
        ("imagenet", (0.6 - 0.485) / 0.229),
        ("imagenet-mean", 0.6 - 0.485),
        ("half", 0.6 - 0.5),
        ("symmetric", 2 * 0.6 - 1),
        ("none", 0.6),
    ],
)
def test_what_a_file_is_fed_is_normalised_as_the_setting_says(tmp_path: Path, name: str, fed: float) -> None:
    segmenter = opened(onnx_file(tmp_path / "red.onnx"), normalisation=name)
    saliency = segmenter.saliency(red(torch.full((8, 8), 0.6)))  # type: ignore[attr-defined]
    assert saliency == pytest.approx(torch.full((1, 8, 8), fed), abs=1e-6)


def test_an_answer_outside_0_to_1_goes_through_a_sigmoid(tmp_path: Path) -> None:
    values = torch.linspace(0, 1, 64).reshape(8, 8)
    segmenter = opened(onnx_file(tmp_path / "logits.onnx", is_logit=True))
    saliency = segmenter.saliency(red(values))[0]  # type: ignore[attr-defined]
    assert saliency == pytest.approx(torch.sigmoid(20 * values - 10), abs=1e-6)
    assert torch.equal(segmenter.masks(red(values))[0], values > 0.5)


def test_a_faint_answer_is_stretched_where_the_setting_says_so(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "red.onnx")
    faint = torch.linspace(0.1, 0.3, 64).reshape(8, 8)
    assert not opened(path).masks(red(faint)).any()
    assert torch.equal(opened(path, output="stretched").masks(red(faint))[0], faint > 0.2)
    assert not opened(path, output="stretched").masks(red(torch.full((8, 8), 0.7))).any()  # even: no subject


def test_half_precision_files_are_fed_half_precision(tmp_path: Path) -> None:
    values = torch.zeros(8, 8)
    values[:, :3] = 1.0
    masks = opened(onnx_file(tmp_path / "half.onnx", is_half=True)).masks(red(values))
    assert torch.equal(masks[0], values > 0.5)


def test_files_that_take_no_picture_or_answer_with_several_channels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"needs one input of a picture.* has picture tensor\(float\) \[1, 4, 8, 8\]"
    ):
        opened(onnx_file(tmp_path / "four.onnx", channels=4))
    several = opened(onnx_file(tmp_path / "several.onnx", all_channels=True))
    with pytest.raises(
        ValueError, match=r"first output must be the saliency of one picture.* got \(1, 3, 8, 8\)"
    ):
        several.masks(red(torch.ones(8, 8)))
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"broken\.onnx: onnxruntime cannot open it") as caught:
        opened(tmp_path / "broken.onnx")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_and_labels_are_told_before_anything_is_loaded(tmp_path: Path) -> None:
    (problem,) = segmenter_problems(SegmenterConfig(model=str(tmp_path / "u2net.onnx")))
    assert problem == f"{tmp_path / 'u2net.onnx'}: there is no such .onnx file"
    with pytest.raises(ValueError, match=r"labels says nothing about a \.onnx file"):
        SegmenterConfig(model="u2net.onnx", labels="dog")
    with pytest.raises(ValueError, match=r"labels says nothing without data\.segmenter\.model"):
        SegmenterConfig(labels="dog")


def test_without_onnxruntime_one_line_says_what_to_install(tmp_path: Path) -> None:
    """In a process that cannot find the package, as where it is not installed."""
    path = onnx_file(tmp_path / "red.onnx")
    program = (
        "import sys\n"
        "sys.modules['onnxruntime'] = None\n"
        "from divrl_core.config import SegmenterConfig\n"
        "from divrl_core.models.segmentation.files import segmenter_problems\n"
        "print(*segmenter_problems(SegmenterConfig(model=sys.argv[1])), sep='\\n')\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        f'{path}: a .onnx file needs the package onnxruntime: pip install "divrl[onnx]" (or pip install onnxruntime)'
    ], done.stderr
