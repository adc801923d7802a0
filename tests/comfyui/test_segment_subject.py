"""Segment Subject inside ComfyUI: the core's masks, models of the user, and words for what cannot be had."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from divrl_core.config import SegmenterConfig
from divrl_core.models.segmentation.base import load_segmenter
from divrl_core.training.pictures import picture_tensor
from tests.models.small_segmenters import segformer

from .graphs import node, report, saved_pictures
from .server import Server, Workflow, WorkflowFailed
from .test_score_images import score_graph

CLASSES = {0: "background", 1: "cat", 2: "dog"}


def models(server: Server) -> Path:
    folder = server.base / "models" / "divrl_segmentation"
    folder.mkdir(exist_ok=True)
    return folder


def put_segformer(server: Server, name: str, answer: int | None) -> Path:
    folder = models(server) / name
    return folder if folder.exists() else segformer(folder, classes=CLASSES, answer=answer)


def segmented(model: str, **changes: object) -> Workflow:
    """Two pocket figures and their masks ("kept"), as pictures."""
    inputs = {"labels": "", "threshold": 0.5, "normalisation": "imagenet", "output": "probability", **changes}
    return {
        "one": node("DivRL_LoadPocketKontext", variant="kontext", figure=0),
        "two": node("DivRL_LoadPocketKontext", variant="kontext", figure=4),
        "both": node("ImageBatch", image1=["one", 3], image2=["two", 3]),
        "mask": node("DivRL_SegmentSubject", image=["both", 0], model=model, **inputs),
        "flags": node("MaskToImage", mask=["mask", 0]),
        "kept": node("SaveImage", images=["flags", 0], filename_prefix="mask"),
        "figures": node("SaveImage", images=["both", 0], filename_prefix="figure"),
    }


@pytest.mark.parametrize("labels", ["", "cat"])
def test_masks_are_those_of_the_command(comfyui: Server, labels: str) -> None:
    folder = put_segformer(comfyui, "random", None)
    outputs = comfyui.run(segmented("random", labels=labels, threshold=0.6))
    figures, found = (saved_pictures(comfyui, outputs, name) for name in ("figures", "kept"))
    segmenter = load_segmenter(SegmenterConfig(model=str(folder), labels=labels or None, threshold=0.6))
    for figure, mask in zip(figures, found, strict=True):
        expected = segmenter.masks(picture_tensor(figure)[None])[0].numpy()
        flags = np.asarray(mask.convert("L")) > 127
        assert 0 < expected.sum() < expected.size
        assert (flags != expected).mean() < 0.002  # Save Image rounds down what the node saw unrounded


def test_a_mask_goes_into_the_nodes_that_score(comfyui: Server) -> None:
    put_segformer(comfyui, "everything", 2)
    graph = score_graph(reference_mask=["mask", 0])
    graph["mask"] = segmented("everything")["mask"] | {}
    graph["mask"]["inputs"]["image"] = ["pocket", 3]
    of_all, without = report(comfyui.run(graph)), report(comfyui.run(score_graph()))
    assert of_all["pictures"] == without["pictures"]  # every pixel is the subject


def test_files_and_folders_of_the_user_are_listed(comfyui: Server) -> None:
    put_segformer(comfyui, "everything", 2)
    (models(comfyui) / "u2net.onnx").write_bytes(b"no model")
    (models(comfyui) / "notes.txt").write_text("no model either")
    nested = models(comfyui) / "somebody" / "segformer"
    if not nested.exists():
        shutil.copytree(models(comfyui) / "everything", nested)
    options = comfyui.object_info("DivRL_SegmentSubject")["input"]["required"]["model"][1]["options"]
    assert {"everything", "u2net.onnx", "somebody/segformer"} <= set(options)
    assert "notes.txt" not in options and not any("config.json" in name for name in options)
    comfyui.run(segmented("somebody/segformer"))


def test_pictures_without_a_subject_are_named(comfyui: Server) -> None:
    put_segformer(comfyui, "nothing", 0)
    with pytest.raises(
        WorkflowFailed, match="nothing found no subject in picture 1, 2 of 2: name the subject's labels"
    ):
        comfyui.run(segmented("nothing"))


def test_mistakes_are_told_in_words(comfyui: Server) -> None:
    put_segformer(comfyui, "everything", 2)
    with pytest.raises(WorkflowFailed, match="'wolf' is none of its classes; it knows background, cat, dog"):
        comfyui.run(segmented("everything", labels="wolf"))
    (models(comfyui) / "u2net.onnx").write_bytes(b"no model")
    with pytest.raises(WorkflowFailed, match=r"labels says nothing about a \.onnx file"):
        comfyui.run(segmented("u2net.onnx", labels="dog"))


def test_a_onnx_file_without_onnxruntime_says_what_to_install(comfyui: Server, comfy_python: Path) -> None:
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('onnxruntime') is None)"
    has_it = subprocess.run([str(comfy_python), "-c", code]).returncode == 0
    (models(comfyui) / "u2net.onnx").write_bytes(b"no model")
    words = "onnxruntime cannot open it" if has_it else "needs the package onnxruntime: pip install"
    with pytest.raises(WorkflowFailed, match=words):
        comfyui.run(segmented("u2net.onnx"))


def test_without_any_model_the_list_says_where_to_put_one(comfyui: Server) -> None:
    """As the form of a fresh installation shows it; here the folder may have models already."""
    shutil.rmtree(models(comfyui))
    models(comfyui)
    options = comfyui.object_info("DivRL_SegmentSubject")["input"]["required"]["model"][1]["options"]
    assert options == ["(none yet: put one into models/divrl_segmentation)"]
    with pytest.raises(
        WorkflowFailed, match=r"there is none in models/divrl_segmentation: put a \.onnx file there"
    ):
        comfyui.run(segmented(options[0]))


def test_pictures_are_as_the_user_made_them(comfyui: Server) -> None:
    """A mask is as large as its picture, whatever the model's own size."""
    put_segformer(comfyui, "everything", 2)
    graph = segmented("everything")
    graph["both"] = node(
        "ImageScale", image=["one", 3], upscale_method="bilinear", width=200, height=77, crop="disabled"
    )
    (mask,) = saved_pictures(comfyui, comfyui.run(graph))
    assert isinstance(mask, Image.Image) and mask.size == (200, 77)
