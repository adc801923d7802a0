"""Mind-the-Glitch's files: found, fetched and refused, each mistake in one line that says where and what."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from divrl_core.config import BackboneConfig, RewardConfig
from divrl_core.models.features.mtg import MtgBackbone
from divrl_core.models.features.mtg_files import find_files, mtg_problems
from divrl_core.models.features.mtg_layout import read_layout
from divrl_core.models.pocket_parts import build_clip
from divrl_core.training.reward_checks import reward_problems
from tests.models.small_mtg import SmallMtg, write_experiment, write_small_mtg
from tests.models.test_hub import Hub, ask

PICTURE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> SmallMtg:
    return write_small_mtg(tmp_path_factory.mktemp("mtg"), blocks=1)


@pytest.fixture
def small(original: SmallMtg, tmp_path: Path) -> SmallMtg:
    """A copy that a test may spoil."""
    shutil.copytree(original.folder, tmp_path / "mtg")
    shutil.copytree(original.base, tmp_path / "sd21")
    return SmallMtg(tmp_path / "mtg", tmp_path / "sd21")


def refusal(small: SmallMtg, **changes: object) -> str:
    """The one line with which loading is refused."""
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        MtgBackbone.load(small.config(**changes))
    (line,) = str(caught.value).splitlines()
    return line


def rewrite(small: SmallMtg, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = {name: value.clone() for name, value in small.tensors().items()}
    change(tensors)
    save_file(tensors, small.checkpoint)


class Trap:
    """A pickle of it makes a folder when it is read as Python would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_a_torch_file_of_tensors_gives_the_same_features(small: SmallMtg) -> None:
    expected = MtgBackbone.load(small.config()).extract(PICTURE)
    tensors = small.tensors()
    for name, is_zip in (("new.pth", True), ("old.ckpt", False)):
        for file in small.folder.glob("*.*"):
            if file != small.experiment:
                file.unlink()
        torch.save(tensors, small.folder / name, _use_new_zipfile_serialization=is_zip)
        loaded = MtgBackbone.load(small.config()).extract(PICTURE)
        assert torch.equal(loaded.semantic, expected.semantic)
        assert torch.equal(loaded.structure, expected.structure)


def test_a_checkpoint_in_half_precision_is_read_into_float32(small: SmallMtg) -> None:
    rewrite(small, lambda tensors: tensors.update({name: value.half() for name, value in tensors.items()}))
    loaded = MtgBackbone.load(small.config())
    assert {value.dtype for value in loaded.module.parameters()} == {torch.float32}
    assert loaded.extract(PICTURE).semantic.dtype == torch.float32


def test_a_pickle_with_code_is_refused_and_not_run(small: SmallMtg, tmp_path: Path) -> None:
    small.checkpoint.unlink()
    made = tmp_path / "the trap went off"
    torch.save({"weight": torch.zeros(1), "more": Trap(made)}, small.folder / "weights.pth")
    assert "weights.pth: holds more than tensors and could run code" in refusal(small)
    (small.folder / "weights.pth").write_bytes(pickle.dumps(Trap(made)))
    assert "weights.pth: holds more than tensors and could run code" in refusal(small)
    assert not made.exists()
    torch.save({"state_dict": {"weight": torch.zeros(1)}, "step": 3}, small.folder / "weights.pth")
    assert "must hold named tensors and nothing else" in refusal(small)


def test_damaged_checkpoints_are_named(small: SmallMtg) -> None:
    content = small.checkpoint.read_bytes()
    small.checkpoint.write_bytes(content[:-100])
    assert "mtg_weights.safetensors: needs" in refusal(small)
    small.checkpoint.unlink()
    torch.save({"weight": torch.zeros(1000)}, small.folder / "weights.pth")
    content = (small.folder / "weights.pth").read_bytes()
    (small.folder / "weights.pth").write_bytes(content[: len(content) // 2])
    assert "weights.pth: " in refusal(small) and "damaged" in refusal(small)


def test_missing_weights_are_counted_and_the_first_is_named(small: SmallMtg) -> None:
    unet = "cleandift_model.unet_feature_extractor_cleandift.conv_in.weight"
    visual = "bottleneck_layers_visual.1.0.conv2.norm.bias"
    rewrite(small, lambda tensors: [tensors.pop(name) for name in (unet, visual)])
    assert f"2 weights of Mind-the-Glitch are missing, the first is {unet}" in refusal(small)
    rewrite(small, lambda tensors: tensors.pop("bottleneck_layers_semantic.0.0.conv3.weight"))
    assert "no bottleneck_layers_semantic.0.0.conv3.weight in it" in refusal(small)


def test_the_missing_timestep_and_mixing_weights_are_missed(small: SmallMtg) -> None:
    names = ("cleandift_model.timestep", "mixing_weights_semantic", "mixing_weights_visual")
    rewrite(small, lambda tensors: [tensors.pop(name) for name in names])
    assert re.search("3 weights .* the first is cleandift_model.timestep", refusal(small))


def test_weights_of_another_shape_and_weights_left_over_are_named(small: SmallMtg) -> None:
    name = "cleandift_model.ae.ae.encoder.conv_in.bias"
    rewrite(small, lambda tensors: tensors.update({name: torch.zeros(9)}))
    assert re.search(rf"{name} must be \(8,\) .*, got \(9,\)", refusal(small))
    rewrite(small, lambda tensors: tensors.update({name: torch.zeros(8)}))
    extra = "cleandift_model.unet_feature_extractor_cleandift.more"
    rewrite(small, lambda tensors: tensors.update({extra: torch.zeros(8)}))
    assert f"1 weights have no place in the network, the first is {extra}" in refusal(small)


def test_fewer_taps_than_the_weights_have_are_refused(small: SmallMtg) -> None:
    write_experiment(small.experiment, ("us6", "us3", "us9"))
    assert "mixing_weights_semantic must be (3,)" in refusal(small)
    write_experiment(small.experiment, ("us3", "us6", "us9", "us10"))  # the first two in the wrong order
    assert "bottleneck_layers_semantic.0.0.conv1.weight must be (8, 32, 1, 1)" in refusal(small)


def test_groups_that_do_not_divide_the_widths_are_refused(small: SmallMtg) -> None:
    write_experiment(small.experiment, groups=5)
    assert "8 and 24 channels do not divide into the 5 groups of model.resnet.num_norm_groups" in refusal(
        small
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"model": {"resnet": {"num_norm_groups": 4}}}, "no model.feat_type in it"),
        ({"model": {"feat_type": ["us6"]}}, "no model.resnet.num_norm_groups in it"),
        ({"model": {"feat_type": ["us6", "us11"], "num_norm_groups": 4}}, "us1 to us10, got 'us11'"),
        ({"model": {"feat_type": ["us6", "us6"], "num_norm_groups": 4}}, "different taps"),
        ({"model": {"feat_type": [], "num_norm_groups": 4}}, "different taps"),
        ({"model": {"feat_type": ["us6"], "num_norm_groups": "4"}}, "whole number from 1 up, got '4'"),
        ({"model": {"feat_type": ["us6"], "num_norm_groups": 4, "final_feat_resolution": 64}}, "must be 48"),
        ([], "no model.feat_type in it"),
    ],
)
def test_what_the_experiment_file_lacks_is_named(small: SmallMtg, content: object, words: str) -> None:
    small.experiment.write_text(yaml.safe_dump(content))
    line = refusal(small)
    assert words in line and str(small.experiment) in line


def test_an_experiment_file_that_is_no_yaml_or_holds_code_is_refused(small: SmallMtg) -> None:
    for content in ("model: [", "!!python/object/apply:os.getcwd []"):
        small.experiment.write_text(content)
        assert f"{small.experiment}: not readable as YAML" in refusal(small)


def test_the_layout_is_found_in_the_published_place_and_at_the_top(tmp_path: Path) -> None:
    file = tmp_path / "experiment_cfg.yaml"
    write_experiment(file, ("us6", "us3"), groups=32)
    assert read_layout(file).taps == ("us6", "us3") and read_layout(file).norm_groups == 32
    file.write_text("feat_type: us6\nnum_norm_groups: 8\n")
    assert read_layout(file).taps == ("us6",) and read_layout(file).norm_groups == 8


def test_what_is_not_there_is_said_before_anything_loads(small: SmallMtg) -> None:
    assert mtg_problems(small.config()) == []
    needed = BackboneConfig(name="mtg", base_path=str(small.base))
    (line,) = reward_problems(RewardConfig(backbone=needed))
    assert line.startswith("reward.backbone.path: mtg needs the folder or hub id")
    both = reward_problems(RewardConfig(backbone=small.config(path="./nowhere", base_path="./nor/here")))
    assert both == [
        "reward.backbone.path: no folder './nowhere', and not a hub id of the form owner/name",
        "reward.backbone.base_path: no folder './nor/here', and not a hub id of the form owner/name",
    ]
    assert mtg_problems(small.config(path="owner/name", base_path=None)) == []  # known when it is asked for
    assert "is a file; give its folder" in refusal(small, path=str(small.experiment))
    small.experiment.unlink()
    shutil.rmtree(small.base / "tokenizer")
    first, second = mtg_problems(small.config())
    assert f"reward.backbone.path: {small.folder}: no experiment_cfg.yaml in it" in first
    assert "lacks tokenizer/tokenizer.json or tokenizer/vocab.json" in second
    assert refusal(small) == first


def test_no_checkpoint_and_several_are_refused_but_the_published_name_wins(small: SmallMtg) -> None:
    shutil.copy(small.checkpoint, small.folder / "other.safetensors")
    assert find_files(small.config()).checkpoint == small.checkpoint
    small.checkpoint.rename(small.folder / "another.safetensors")
    assert "one checkpoint is needed, got another.safetensors, other.safetensors" in refusal(small)
    for file in small.folder.glob("*.safetensors"):
        file.unlink()
    assert "no checkpoint in it" in refusal(small)


def test_a_unet_without_the_taps_and_a_text_encoder_of_another_width_are_refused(small: SmallMtg) -> None:
    config = small.base / "unet" / "config.json"
    sound = config.read_text()
    config.write_text(sound.replace('"UpBlock2D"', '"CrossAttnUpBlock2D"'))
    assert "missing" in refusal(small)  # the up block's attention is not in the checkpoint
    blocks = '"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"], "block_out_channels": [8]'
    config.write_text(
        "{" + blocks + ', "attention_head_dim": 4, "norm_num_groups": 4, "mid_block_type": null}'
    )
    assert "this UNet has no tap us3" in refusal(small)
    config.write_text(sound)
    shutil.rmtree(small.base / "text_encoder")
    _, encoder = build_clip(["a toy fox"], seed=0)
    encoder.save_pretrained(small.base / "text_encoder")
    assert "the text encoder gives 64 channels, the UNet takes 32" in refusal(small)


def test_a_size_off_the_grid_is_refused(small: SmallMtg) -> None:
    assert "reward.backbone.image_size_px: mtg needs a multiple of 64, got 96" in refusal(
        small, image_size_px=96
    )


FIND = (
    "import sys; from divrl_core.config import BackboneConfig\n"
    "from divrl_core.models.features.mtg_files import find_files\n"
    "try: print(find_files(BackboneConfig(name='mtg', path=sys.argv[1], base_path=sys.argv[1])).checkpoint)\n"
    "except (ValueError, FileNotFoundError) as error: print(type(error).__name__, error)\n"
)


def test_from_the_hub_only_what_is_needed_is_fetched(small: SmallMtg, tmp_path: Path) -> None:
    shutil.copytree(small.base, small.folder, dirs_exist_ok=True)  # the server knows one repository
    for unwanted in ("unet/model.safetensors", "text_encoder/model.fp16.safetensors", "weights.pth"):
        (small.folder / unwanted).write_bytes(b"not looked at")
    with Hub(small.folder) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        answer = ask("owner/tiny", tmp_path / "cache", program=FIND, HF_ENDPOINT=server.address)
        server.shutdown()
        thread.join()
    fetched = {path.relative_to(Path(answer).parent).as_posix() for path in Path(answer).parent.rglob("*.*")}
    assert fetched == {
        "experiment_cfg.yaml",
        "mtg_weights.safetensors",
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        *(f"tokenizer/{path.name}" for path in (small.base / "tokenizer").iterdir()),
    }


def test_a_hub_that_cannot_be_reached_is_told_in_one_line(tmp_path: Path) -> None:
    answer = ask("owner/tiny", tmp_path / "cache", program=FIND, HF_HUB_OFFLINE="1")
    assert answer.startswith("FileNotFoundError reward.backbone.path: owner/tiny: no such folder here")
    assert "give a folder" in answer and "\n" not in answer
