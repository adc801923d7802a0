"""A vision model's files: what is found, what is downloaded, and what is refused in one line before it is read."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from divrl_core.config import BackboneConfig, RewardConfig, from_mapping
from divrl_core.models.encoder_trace import backbone_size
from divrl_core.models.features.base import load_backbone
from divrl_core.training.reward_checks import reward_problems
from tests.models.small_vision import pictures, save_model, write_processor
from tests.models.test_hub import Hub, ask

HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def refused(name: str, path: Path | str, **settings: Any) -> str:
    config = BackboneConfig(name=name, path=str(path), **settings)  # type: ignore[arg-type]
    with pytest.raises((ValueError, FileNotFoundError)) as refusal:
        load_backbone(config)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound dinov2."""
    return save_model("dinov2", tmp_path / "model")


def only_a_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def cut_off(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def lose_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["layernorm.bias"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def edit(name: str, **changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **changes}))

    return change


def delete(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


FAULTS: list[tuple[Callable[[Path], None], str]] = [
    (only_a_pickle, "its weights are a pickle (pytorch_model.bin), which can run code when it is read"),
    (delete("model.safetensors"), "no model.safetensors in it; give the folder that save_pretrained wrote"),
    (delete("config.json"), "no config.json in it; give the folder that save_pretrained wrote"),
    (lambda folder: (folder / "config.json").write_text("{") and None, "not readable as JSON"),
    (cut_off, "by its header, got"),
    (
        edit("config.json", model_type="siglip_vision_model"),
        "dinov2 or dinov2_with_registers is needed, config.json says siglip_vision_model; "
        "take reward.backbone.name=siglip",
    ),
    (
        edit("config.json", model_type="vit"),
        "config.json says vit; take reward.backbone.name=transformers",
    ),
    (
        edit("preprocessor_config.json", image_mean=[0.5], image_std=[0.5]),
        "image_mean and image_std must be three numbers each, got [0.5] and [0.5]",
    ),
    (edit("preprocessor_config.json", image_mean=[0.5] * 3, image_std=[0.5, 0, 0.5]), "must be three"),
]


@pytest.mark.parametrize(("damage", "words"), FAULTS)
def test_a_folder_that_cannot_serve_is_refused_and_named_before_a_run(
    folder: Path, damage: Callable[[Path], None], words: str
) -> None:
    config = RewardConfig(backbone=BackboneConfig(name="dinov2", path=str(folder)))
    assert reward_problems(config) == []
    damage(folder)
    said = refused("dinov2", folder)
    assert words in said and str(folder) in said
    assert reward_problems(config) == [said]


def test_sizes_that_make_no_model_are_refused_in_the_run_and_in_the_plan(folder: Path) -> None:
    config = BackboneConfig(name="dinov2", path=str(folder))
    for changes, words in (
        (
            {"hidden_size": "wide"},
            "its config.json makes no Dinov2Config: .*hidden_size.* expected int, got str",
        ),
        ({"hidden_size": 32, "hidden_act": "no such"}, "no such"),
    ):
        edit("config.json", **changes)(folder)
        with pytest.raises(ValueError, match=words) as plan:
            backbone_size(config, batch=1, size_px=64)
        assert "\n" not in str(plan.value)
        assert re.search(words, refused("dinov2", folder))


def test_weights_that_lack_one_are_refused(folder: Path) -> None:
    lose_a_weight(folder)
    words = "1 weights of Dinov2Model are not in the files, the first is layernorm.bias"
    assert words in refused("dinov2", folder)


def test_a_missing_folder_is_named_before_a_run_and_a_hub_id_is_not_asked_for(tmp_path: Path) -> None:
    for name in ("dinov2", "clip", "siglip", "transformers"):
        said = refused(name, tmp_path / "nothing")
        assert said.startswith(f"backbone {name}: no folder") and "owner/name" in said
        gone = BackboneConfig(name=name, path=str(tmp_path / "nothing"))  # type: ignore[arg-type]
        assert reward_problems(RewardConfig(backbone=gone)) == [said]
        known = BackboneConfig(name=name, path="owner/name")  # type: ignore[arg-type]
        assert reward_problems(RewardConfig(backbone=known)) == []
    (tmp_path / "file.safetensors").touch()
    assert "is a file; the folder that holds it is needed" in refused("clip", tmp_path / "file.safetensors")


def test_weights_in_several_files_are_read_and_a_missing_one_is_named(tmp_path: Path, folder: Path) -> None:
    sharded = save_model("dinov2", tmp_path / "sharded", shards="60KB")
    files = sorted(sharded.glob("model-*.safetensors"))
    assert len(files) > 1
    whole, parts = (
        load_backbone(BackboneConfig(name="dinov2", path=str(path))).extract(pictures())
        for path in (folder, sharded)
    )
    assert torch.equal(whole.semantic, parts.semantic)
    files[0].unlink()
    assert f"the weight file {files[0].name} is missing" in refused("dinov2", sharded)


@pytest.mark.parametrize(
    ("size", "words"), [(60, "must be a multiple of 8"), (32, None), (50, "from 32 up, got 50")]
)
def test_a_size_that_is_no_grid_is_refused(size: int, words: str | None, folder: Path) -> None:
    if words is None:
        config = BackboneConfig(name="dinov2", path=str(folder), image_size_px=size)
        assert load_backbone(config).extract(pictures()).grid == (4, 4)
    else:
        assert words in refused("dinov2", folder, image_size_px=size)


def test_too_few_patches_and_features_of_stride_8_are_refused(tmp_path: Path, folder: Path) -> None:
    coarse = save_model("dinov2", tmp_path / "coarse", patch_size=14)  # 4 x 4 patches of 56 px
    assert load_backbone(BackboneConfig(name="dinov2", path=str(coarse))).extract(pictures()).grid == (4, 4)
    assert "from 56 up, got 42" in refused("dinov2", coarse, image_size_px=42)
    assert "it has no features of stride 8" in refused("dinov2", folder, weight_s8=0.5)


@pytest.mark.parametrize("kind", ["resnet", "convnext"])
def test_a_model_without_a_grid_of_patches_is_refused_when_it_is_loaded(kind: str, tmp_path: Path) -> None:
    folder = write_processor(save_model(kind, tmp_path), **HALF)
    said = refused("transformers", folder, image_size_px=64)
    assert "backbone transformers" in said and "a vision transformer is needed (DINOv2" in said


def test_any_model_needs_its_normalisation_and_a_class_that_is_known(tmp_path: Path) -> None:
    folder = save_model("vit", tmp_path)
    assert "put its preprocessor_config.json with image_mean and image_std" in refused("transformers", folder)
    write_processor(folder, **HALF)
    code = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    (folder / "evil.py").write_text("raise SystemExit('this was run')")
    edit("config.json", model_type="evil", auto_map=code)(folder)
    said = refused("transformers", folder)
    assert "knows no model_type 'evil', and code that comes with a model is not run" in said


def test_any_model_may_lack_its_pooler_and_nothing_else(tmp_path: Path) -> None:
    folder = write_processor(save_model("vit", tmp_path), **HALF)
    weights = load_file(folder / "model.safetensors")
    del weights["layernorm.bias"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "1 weights of ViTModel are not in the files, the first is layernorm.bias" in refused(
        "transformers", folder
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "lite0", "path": "a/b"}, "say nothing with reward.backbone.name=lite0, whose weights are"),
        ({"name": "pocket", "path": "a/b"}, "leave them out, or name the backbone that they are for"),
        ({"revision": "main"}, "got path=None and revision=main"),
        ({"name": "transformers"}, "reward.backbone.name=transformers needs reward.backbone.path"),
    ],
)
def test_a_path_belongs_to_the_backbones_that_take_one(settings: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError) as refusal:
        from_mapping(RewardConfig, {"backbone": settings}, "run.yaml")
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


# The hub


@pytest.fixture
def hub(folder: Path) -> Iterator[Hub]:
    write_processor(folder, **HALF)
    (folder / "open_clip_model.safetensors").write_bytes(b"the same weights in another layout")
    (folder / "pytorch_model.bin").write_bytes(b"not looked at")
    with Hub(folder) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def program(backbone: str) -> str:
    return (
        "import sys; from divrl_core.models.features.vision_files import open_files\n"
        f"try: files = open_files('{backbone}', sys.argv[1], sys.argv[2] or None); print(files.folder, files.origin)\n"
        "except (ValueError, FileNotFoundError) as error: print(type(error).__name__, error)\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )


def test_a_hub_model_is_downloaded_without_pickles_and_other_layouts(hub: Hub, tmp_path: Path) -> None:
    answer = ask("owner/tiny", tmp_path / "cache", program=program("dinov2"), HF_ENDPOINT=hub.address)
    path, origin = answer.split()
    assert origin == "owner/tiny"
    here = {file.name for file in Path(path).iterdir()}
    assert here == {"config.json", "preprocessor_config.json", "model.safetensors"}
    offline = ask("owner/tiny", tmp_path / "cache", program=program("dinov2"), HF_HUB_OFFLINE="1")
    assert offline == answer
    assert load_backbone(BackboneConfig(name="dinov2", path=path)).extract(pictures()).grid == (7, 7)


def test_a_wrong_model_is_refused_before_its_weights_are_downloaded(hub: Hub, tmp_path: Path) -> None:
    answer = ask("owner/tiny", tmp_path, program=program("clip"), HF_ENDPOINT=hub.address)
    assert answer == (
        "ValueError backbone clip: owner/tiny: clip or clip_vision_model is needed, config.json says dinov2; "
        "take reward.backbone.name=dinov2"
    )
    assert not any("safetensors" in path for path in hub.asked)


def test_a_hub_model_of_pickles_alone_is_refused(hub: Hub, tmp_path: Path) -> None:
    (hub.folder / "model.safetensors").unlink()
    answer = ask("owner/tiny", tmp_path, program=program("dinov2"), HF_ENDPOINT=hub.address)
    assert "owner/tiny: no model.safetensors came from the hub (pickles are not downloaded)" in answer
    assert not any(path.endswith(".bin") for path in hub.asked)


def test_the_hubs_refusals_say_what_to_do(hub: Hub, tmp_path: Path) -> None:
    for name, revision, words in (
        ("owner/gated", None, "accept its licence on"),
        ("owner/nothing", None, "no such model on the hub"),
        ("owner/unfinished", None, "not a model of transformers: the hub has no config.json in it"),
        ("owner/tiny", "no-such-branch", "no revision 'no-such-branch'"),
    ):
        answer = ask(name, tmp_path, revision, program=program("dinov2"), HF_ENDPOINT=hub.address)
        assert words in answer and name in answer and "\n" not in answer
    answer = ask("owner/tiny", tmp_path, program=program("dinov2"), HF_HUB_OFFLINE="1")
    assert "set reward.backbone.path to its folder; the backbone lite0 needs no network" in answer
