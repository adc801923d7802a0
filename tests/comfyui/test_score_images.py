"""Score Images and the maps inside ComfyUI: the command's numbers, and words for what cannot be scored."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from divrl_core.config import BackboneConfig
from divrl_core.evaluation.score import score_folder
from divrl_core.models.features.base import load_backbone

from .graphs import LITE0_BACKBONE, OWN, POCKET_BACKBONE, node, put_picture, report, saved_pictures
from .server import Server, Workflow, WorkflowFailed

BACKBONES = {"lite0": LITE0_BACKBONE, "pocket": POCKET_BACKBONE}


def blots(seed: int, size: tuple[int, int]) -> Image.Image:
    """A picture of coloured blots, (width, height)."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def score_graph(**changes: object) -> Workflow:
    """Scores "images" against "reference" (both pocket figures unless replaced); the JSON is shown."""
    inputs = {
        "images": ["other", 3], "reference": ["pocket", 3], "backbone": ["backbone", 0], "gate": -1.0, "penalty": 5.0,
        **OWN, **changes,
    }  # fmt: skip
    return {
        "pocket": node("DivRL_LoadPocketKontext", variant="kontext", figure=0),
        "other": node("DivRL_LoadPocketKontext", variant="kontext", figure=4),
        "backbone": node("DivRL_LoadRewardBackbone", backbone=POCKET_BACKBONE),
        "score": node("DivRL_ScoreImages", **inputs),
        "report": node("PreviewAny", source=["score", 4]),
        "kept": node("SaveImage", images=["score", 5], filename_prefix="sheet"),
    }


@pytest.mark.parametrize("name", list(BACKBONES))
def test_scores_are_those_of_the_command_on_the_same_files(
    comfyui: Server, tmp_path: Path, name: str
) -> None:
    """A folder with squares and others, a reference with a mask that is not square either."""
    folder, reference, mask = f"scored-{name}", blots(0, (150, 100)), np.zeros((100, 150), dtype=np.uint8)
    mask[20:80, 40:120] = 255
    reference.save(tmp_path / "fox.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    sizes = [(96, 96), (96, 96), (120, 80), (64, 128)]
    for number, size in enumerate(sizes):
        mixed = Image.blend(blots(number + 1, size), reference.resize(size), 0.6)
        put_picture(comfyui, mixed, f"{folder}/fox_{number}.png")
    score_folder(
        comfyui.base / "input" / folder,
        tmp_path / "fox.png",
        output=tmp_path / "out",
        mask=tmp_path / "mask.png",
        backbone=load_backbone(BackboneConfig(name=name)),
    )
    expected = {row["picture"]: row for row in csv.DictReader((tmp_path / "out" / "scores.csv").open())}

    graph = score_graph(images=["folder", 0], reference=["fox", 0], reference_mask=["mask", 0])
    graph["folder"] = node("LoadImageDataSetFromFolder", folder=folder)
    graph["fox"] = node("LoadImage", image=put_picture(comfyui, reference, f"fox-{name}.png"))
    mask_file = put_picture(comfyui, Image.fromarray(mask), f"mask-{name}.png")
    graph["mask"] = node("LoadImageMask", image=mask_file, channel="red")
    graph["backbone"] = node("DivRL_LoadRewardBackbone", backbone=BACKBONES[name])
    found = report(comfyui.run(graph))["pictures"]

    # the folder's order is the file system's: match by the pair of numbers
    assert len(found) == len(expected) == 4
    left = [(float(row["nssm"]), float(row["vsm"])) for row in expected.values() if row["vsm"] != "undefined"]
    for row in found:
        if row["vsm"] is None:
            continue
        near = min(left, key=lambda pair: abs(pair[0] - row["nssm"]))
        assert row["nssm"] == pytest.approx(near[0], abs=1e-4)
        assert row["vsm"] == pytest.approx(near[1], abs=1e-4)
        left.remove(near)
    assert left == []


def test_the_reward_is_nssm_less_the_penalty_below_the_gate(comfyui: Server) -> None:
    told = report(comfyui.run(score_graph(gate=0.9, penalty=3.0)))
    (row,) = told["pictures"]
    assert row["vsm"] < 0.9  # another figure
    assert row["reward"] == pytest.approx(row["nssm"] - 3.0 * (0.9 - row["vsm"]) ** 2, abs=1e-5)
    assert (told["gate"], told["penalty"], row["passes"]) == (0.9, 3.0, False)
    (same,) = report(comfyui.run(score_graph(images=["pocket", 3])))["pictures"]
    assert (same["vsm"], same["passes"]) == (1.0, True)
    assert same["nssm"] == pytest.approx(0.0, abs=1e-5)


def test_lists_come_out_one_number_a_picture_and_undefined_is_not_a_number(comfyui: Server) -> None:
    graph = score_graph(images=["batch", 0], reference_mask=["pocket", 4], tau_s=0.99)  # a wall is no figure
    graph["wall"] = node("EmptyImage", width=128, height=128, batch_size=1, color=0x808080)
    graph["batch"] = node("ImageBatch", image1=["pocket", 3], image2=["wall", 0])
    for number, name in ((1, "vsm"), (2, "nssm"), (3, "reward")):
        graph[name] = node("PreviewAny", source=["score", number])
    outputs = comfyui.run(graph)
    undefined = report(outputs)["pictures"][1]
    shown = {name: [float(text) for text in outputs[name]["text"]] for name in ("vsm", "nssm", "reward")}
    assert (undefined["vsm"], undefined["reward"], undefined["passes"]) == (None, None, False)
    assert math.isnan(shown["vsm"][1]) and math.isnan(shown["reward"][1])
    assert shown["vsm"][0] == 1.0
    assert shown["nssm"][1] > 0.1
    assert all(len(values) == 2 for values in shown.values())


def test_image_masks_confine_vsm_to_the_subject(comfyui: Server) -> None:
    alone = report(comfyui.run(score_graph(image_masks=["other", 4])))["pictures"][0]
    whole = report(comfyui.run(score_graph()))["pictures"][0]
    assert alone["nssm"] == pytest.approx(whole["nssm"], abs=1e-6)
    assert 0 < alone["matches"] < whole["matches"]
    assert alone["vsm"] != pytest.approx(
        whole["vsm"], abs=0.01
    )  # the floors, which look alike, no longer count


def test_the_sheet_is_the_node_s_own_preview(comfyui: Server) -> None:
    outputs = comfyui.run(
        score_graph(penalty=4.25)
    )  # as no other test scores it: what is remembered is not shown
    (shown,), (sheet,) = saved_pictures(comfyui, outputs, "score"), saved_pictures(comfyui, outputs)
    assert shown.tobytes() == sheet.tobytes()


def maps_graph(**changes: object) -> Workflow:
    """The maps of one picture, all three outputs saved."""
    graph = score_graph()
    inputs = {
        "images": ["other", 3],
        "reference": ["pocket", 3],
        "backbone": ["backbone", 0],
        **OWN,
        **changes,
    }
    graph["maps"] = node("DivRL_StructureAndIdentityMaps", **inputs)
    for number, name in enumerate(("structure", "identity", "alone")):
        graph[name] = node("SaveImage", images=["maps", number], filename_prefix=name)
    return graph


def test_maps_are_drawn_for_every_picture(comfyui: Server) -> None:
    graph = maps_graph(images=["batch", 0], reference_mask=["pocket", 4])
    graph["batch"] = node("ImageBatch", image1=["pocket", 3], image2=["other", 3])
    outputs = comfyui.run(graph)
    (shown,) = saved_pictures(comfyui, outputs, "maps")
    (structure,), (identity,) = (saved_pictures(comfyui, outputs, name) for name in ("structure", "identity"))
    assert shown.size == (structure.width, structure.height + identity.height)
    same, other = (np.asarray(picture).astype(int) for picture in saved_pictures(comfyui, outputs, "alone"))
    coloured = [(np.abs(picture[..., 0] - picture[..., 2]) > 20).mean() for picture in (same, other)]
    assert same.shape == (128, 128, 3)
    assert coloured[0] == 0.0  # the reference itself fails nowhere
    assert coloured[1] > 0.02


SIZES = [
    ({"reference": ["four", 0]}, "reference: needs pictures with 3 channels, got 4"),
    ({"images": ["four", 0]}, "images: needs pictures with 3 channels, got 4"),
    ({"reference": ["two", 0]}, "reference: needs one picture, got a batch of 2"),
    ({"reference_mask": ["small", 0]}, "reference mask: must be as large as its picture, 128 x 128 px, got 64 x 64"),
    ({"reference_mask": ["small", 0]}, "Load Image gives a picture without transparency an empty mask of 64 x 64"),
    ({"reference_mask": ["empty", 0]}, "reference mask: it is empty"),
    ({"reference_mask": ["speck", 0]}, "the mask covers"),
    ({"image_masks": ["small", 0]}, "image masks: must be as large as its picture"),
    ({"pooling": 7}, "nssm_pool (pooling) must divide the backbone's grid"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "said"), SIZES, ids=[said[:40] for _, said in SIZES])
@pytest.mark.parametrize("graph_of", [score_graph, maps_graph])
def test_wrong_inputs_are_refused_in_words(
    comfyui: Server, graph_of: object, changes: dict[str, object], said: str
) -> None:
    graph = graph_of(**changes)  # type: ignore[operator]
    for name in ("score", "report", "kept") if graph_of is maps_graph else ():
        del graph[name]
    graph |= {
        "four": node("Test_FourChannels", image=["pocket", 3]),
        "two": node("ImageBatch", image1=["pocket", 3], image2=["other", 3]),
        "small": node("SolidMask", value=0.0, width=64, height=64),
        "empty": node("SolidMask", value=0.0, width=128, height=128),
        "dot": node("SolidMask", value=1.0, width=8, height=8),
        "speck": node(
            "MaskComposite", destination=["empty", 0], source=["dot", 0], x=60, y=60, operation="add"
        ),
    }
    with pytest.raises(WorkflowFailed, match="DivRL_") as failed:
        comfyui.run(graph)
    assert said in failed.value.message


def test_more_masks_than_pictures_are_refused(comfyui: Server) -> None:
    graph = score_graph(image_masks=["masks", 0])
    graph["masks"] = node("RepeatImageBatch", image=["pocket", 3], amount=3)
    graph["as_masks"] = node("ImageToMask", image=["masks", 0], channel="red")
    graph["score"]["inputs"]["image_masks"] = ["as_masks", 0]
    with pytest.raises(WorkflowFailed, match="needs one mask, or one for each of 1 pictures, got 3"):
        comfyui.run(graph)
