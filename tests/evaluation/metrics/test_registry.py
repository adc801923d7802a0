"""Which metrics are taken, and what is refused, by name, before any picture is made."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from divrl_core.config import BackboneConfig
from divrl_core.evaluation.metrics import hps
from divrl_core.evaluation.metrics.base import Scorer
from divrl_core.evaluation.metrics.hps import HpsScorer
from divrl_core.evaluation.metrics.registry import (
    KINDS,
    Choice,
    check,
    default_choices,
    load_scorer,
    metrics_of,
    read_choice,
)
from divrl_core.models.features import clip_pair, dino_class
from divrl_core.pocket.references import PocketReferences
from tests.evaluation.metrics.small_networks import edit_json, save_alexnet, save_clip, save_dino
from tests.evaluation.metrics.subjects import noise, shot, subject
from tests.evaluation.toy_references import ToyReferences
from tests.models.small_vision import save_model

TOYS = ToyReferences(("ant",))
MAIN = BackboneConfig()


def problems(*choices: str, downloads: bool = False) -> list[str]:
    found = check([read_choice(one) for one in choices], backbone=MAIN, references=TOYS, downloads=downloads)
    assert all("\n" not in line for line in found)
    return found


def test_choices_are_read_as_name_or_name_and_path() -> None:
    assert read_choice("clip") == Choice(name="clip")
    assert read_choice(" dino = models/dinov2-base ") == Choice(name="dino", path="models/dinov2-base")
    assert read_choice("mtg=weights").is_backbone and not read_choice("backbone").is_backbone


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("clib", r"there is no metric 'clib'; did you mean clip\?"),
        ("", "there is no metric ''; there are backbone, "),
        ("dino=", "metric dino: a path is missing after dino="),
        ("si_iou=masks", "metric si_iou: takes no path, got masks"),
    ],
)
def test_what_is_no_metric_is_refused_with_the_nearest(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_choice(text)


@pytest.mark.parametrize(
    "name", ["backbone", "mtg", "si_iou", "artefacts", "truth", "clip", "dino_dense", "hps"]
)
def test_the_columns_of_a_choice_are_known_before_it_is_loaded(name: str) -> None:
    found = {metric.name for metric in metrics_of(Choice(name=name), backbone=MAIN)}
    expected = {"backbone": "vsm", "mtg": "mtg_nssm", "truth": "clean_share", "clip": "clip_t"}
    assert expected.get(name, next(iter(found))) in found
    if name in ("backbone", "artefacts"):
        scorer = load_scorer(Choice(name=name), backbone=MAIN, references=TOYS)
        assert found == {metric.name for metric in scorer.metrics}


def test_by_default_those_are_taken_whose_networks_are_packaged() -> None:
    pocket = PocketReferences(split="held_out", count=1)
    assert [one.name for one in default_choices(TOYS, has_masks=False)] == ["backbone"]
    assert [one.name for one in default_choices(TOYS, has_masks=True)] == ["backbone", "si_iou", "artefacts"]
    choices = default_choices(pocket, has_masks=True)
    assert [one.name for one in choices] == ["backbone", "si_iou", "artefacts", "truth"]
    assert check(choices, backbone=MAIN, references=pocket) == []
    scorers = [load_scorer(one, backbone=MAIN, references=pocket) for one in choices]
    assert [one.name for one in scorers] == ["backbone", "si_iou", "artefacts", "truth"]
    names = [metric.name for one in scorers for metric in one.metrics]
    assert len(set(names)) == len(names)


def test_what_looks_inside_the_pictures_masks_is_refused_where_they_have_none() -> None:
    choices = [Choice(name="backbone"), Choice(name="si_iou"), Choice(name="artefacts")]
    found = check(choices, backbone=MAIN, references=TOYS, has_masks=False)
    assert found == [
        f"metric {name}: looks inside the pictures' masks; give --segmenter, or leave it out"
        for name in ("si_iou", "artefacts")
    ]


def test_no_two_scorers_share_a_column(tmp_path: Path) -> None:
    clip, dino = save_clip(tmp_path / "clip"), save_dino(tmp_path / "dino")
    alexnet = save_alexnet(tmp_path / "alexnet.pth")
    texts = ["backbone", "si_iou", "artefacts", f"clip={clip}", f"dino={dino}", f"dino_dense={dino}", "lite2"]
    texts += [f"dinov2={dino}", *([f"lpips={alexnet}"] if has_torchmetrics() else [])]
    assert problems(*texts) == []
    scorers: list[Scorer] = [load_scorer(read_choice(text), backbone=MAIN, references=TOYS) for text in texts]
    names = [metric.name for one in scorers for metric in one.metrics]
    assert len(set(names)) == len(names) and {"vsm", "lite2_vsm", "dinov2_cosine", "dino"} <= set(names)
    assert len({one.name for one in scorers}) == len(scorers)
    assert all(one.source and name == name.lower() for one in scorers for name in [one.name])
    for one in scorers:
        values = one.score([shot(noise(1)), shot(noise(2), 0, 1)], one.prepare(subject()))
        assert set(values) <= {metric.name for metric in one.metrics}


def has_torchmetrics() -> bool:
    return not any("torchmetrics" in line for line in problems("lpips=nowhere"))


def another_kind(folder: Path) -> None:
    edit_json(folder / "config.json", model_type="resnet")


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def a_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    no_weights(folder)


def cut_off(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-7])


def no_text_side(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("text_")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def no_vocabulary(folder: Path) -> None:
    for file in ("tokenizer.json", "vocab.json", "merges.txt"):
        (folder / file).unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("metric", "spoil", "said"),
    [
        (
            "clip",
            another_kind,
            "clip is needed, config.json says resnet; give a whole CLIPModel, such as openai/",
        ),
        ("clip", no_weights, "no model.safetensors in it"),
        ("clip", a_pickle, r"a pickle \(pytorch_model.bin\), which can run code"),
        ("clip", cut_off, "needs .* bytes by its header"),
        ("clip", no_text_side, r"its text side is missing \(no text_projection.weight\)"),
        ("clip", no_vocabulary, r"no tokenizer: tokenizer.json \(or vocab.json and merges.txt\)"),
        ("dino", another_kind, "dinov2 or dinov2_with_registers is needed, config.json says resnet"),
        ("dino_dense", another_kind, "give a DINOv2, such as facebook/dinov2-small"),
        ("dino_dense", a_pickle, "can run code"),
    ],
)
def test_a_folder_of_the_wrong_kind_is_refused_by_name(
    metric: str, spoil: Callable[[Path], None], said: str, tmp_path: Path
) -> None:
    folder = save_clip(tmp_path / "model") if metric == "clip" else save_dino(tmp_path / "model")
    assert problems(f"{metric}={folder}") == []
    spoil(folder)
    (line,) = problems(f"{metric}={folder}")
    assert line.startswith(f"metric {metric}: ") or str(folder) in line
    assert re.search(said, line), line
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        load_scorer(read_choice(f"{metric}={folder}"), backbone=MAIN, references=TOYS)


def test_clips_picture_side_alone_and_a_dino_for_clip_are_refused(tmp_path: Path) -> None:
    vision = save_model("clip projection", tmp_path / "vision")
    dino = save_dino(tmp_path / "dino")
    lines = problems(f"clip={vision}") + problems(f"clip={dino}")
    assert "clip is needed, config.json says clip_vision_model" in lines[0]
    assert "clip is needed, config.json says dinov2" in lines[1]


def test_every_other_thing_that_cannot_be_had_is_a_line(tmp_path: Path) -> None:
    assert "these references are of no known world" in problems("truth")[0]
    assert problems("clip", "clip")[0] == "metric clip: asked for 2 times; once is enough"
    assert "it is the main backbone already" in problems("lite0")[0]
    assert "its weights are packaged" in problems(f"lite2={tmp_path}")[0]
    assert "name a folder or hub id: transformers=FOLDER" in problems("transformers")[0]
    assert "no folder 'no/such/folder'" in problems("clip=no/such/folder")[0]
    (tmp_path / "file").write_text("")
    assert "is a file; the folder that holds it is needed" in problems(f"dino={tmp_path / 'file'}")[0]
    assert "config.json" in problems(f"dinov2={tmp_path}")[0]
    found = check(
        [Choice(name="backbone")], backbone=BackboneConfig(name="dinov2", path="x/y/z"), references=TOYS
    )
    assert "no folder 'x/y/z'" in found[0]


def test_of_a_hub_id_nothing_is_known_before_it_may_be_fetched(tmp_path: Path) -> None:
    """In a process of its own: the hub's client reads where it may go once, when it is imported."""
    code = """
        from divrl_core.config import BackboneConfig
        from divrl_core.evaluation.metrics.registry import Choice, check
        from tests.evaluation.toy_references import ToyReferences
        for downloads in (False, True):
            for line in check([Choice(name="clip"), Choice(name="dino")], backbone=BackboneConfig(),
                              references=ToyReferences(("ant",)), downloads=downloads):
                print(downloads, line)
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True, text=True, check=True, cwd=Path(__file__).resolve().parents[3],
    )  # fmt: skip
    lines = ran.stdout.splitlines()
    assert len(lines) == 2 and all(line.startswith("True ") for line in lines), ran.stdout
    assert "name its folder: clip=FOLDER; the metrics that are taken by default need no network" in lines[0]
    assert "name its folder: dino=FOLDER" in lines[1] and "openai/" not in lines[1]


def test_the_ids_in_the_table_are_those_that_are_loaded() -> None:
    assert KINDS["clip"].weights == clip_pair.DEFAULT
    assert (
        KINDS["dino"].weights == dino_class.DEFAULT
        and KINDS["dino_dense"].weights == dino_class.DENSE_DEFAULT
    )


def test_nothing_heavy_is_imported_with_the_registry_and_the_metrics() -> None:
    code = (
        "import sys, divrl_core.evaluation.metrics.registry as r, importlib\n"
        "for kind in r.KINDS.values(): importlib.import_module('divrl_core.evaluation.metrics.' + kind.module)\n"
        "print([name for name in ('transformers', 'diffusers', 'torchmetrics', 'imscore', 'torchvision') "
        "if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


# HPS through imscore's documented interface: its own model needs gigabytes of weights


class Liking:
    """Gives what imscore's models give: a number for each picture in [0, 1] and its prompt."""

    def __init__(self) -> None:
        self.asked: list[tuple[tuple[int, ...], list[str]]] = []

    def score(self, pixels: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        assert pixels.min() >= 0 and pixels.max() <= 1
        self.asked.append((tuple(pixels.shape), prompts))
        return pixels.mean(dim=(1, 2, 3)) + torch.tensor([float(len(prompt)) for prompt in prompts])


def test_hps_pairs_each_picture_with_its_own_prompt_whatever_the_shapes() -> None:
    model = Liking()
    scorer = HpsScorer(model, origin="test")
    pictures = [noise(0), noise(1, 32, 96), noise(2)]
    shots = [shot(one, number, name="fox" * (number + 1)) for number, one in enumerate(pictures)]
    values = scorer.score(shots, scorer.prepare(subject()))["hps"]
    expected = [
        torch.tensor(list(one.picture.tobytes())).float().mean().item() / 255 + len(one.question.pair.prompt)
        for one in shots
    ]
    assert values.tolist() == pytest.approx(expected, abs=1e-4)
    assert [shape for shape, _ in model.asked] == [(2, 3, 64, 64), (1, 3, 32, 96)]


def test_hps_is_loaded_as_imscore_documents_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "imscore" / "hps"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").write_text("")
    (package / "model.py").write_text(
        "import torch\n"
        "class HPSv2(torch.nn.Module):\n"
        "    @classmethod\n"
        "    def from_pretrained(cls, name):\n"
        "        if name == 'broken/model': raise OSError('offline')\n"
        "        model = cls(); model.name = name; return model\n"
        "    def score(self, pixels, prompts): return pixels.mean(dim=(1, 2, 3))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("imscore", "imscore.hps", "imscore.hps.model"):
        monkeypatch.setitem(sys.modules, name, None)  # so that what is imported here is forgotten afterwards
        del sys.modules[name]
    scorer = HpsScorer.load()
    assert scorer.source == "HPSv2.1 through imscore (RE-N-Y/hpsv21)"
    assert scorer.score([shot(noise(0))], scorer.prepare(subject()))["hps"].shape == (1,)
    with pytest.raises(
        FileNotFoundError, match=r"metric hps: broken/model: imscore cannot load it \(offline\)"
    ):
        HpsScorer.load("broken/model")
    with pytest.raises(FileNotFoundError, match=r"a folder with model\.safetensors is needed"):
        HpsScorer.check(str(package))
    with pytest.raises(FileNotFoundError, match="no folder 'a/b/c'"):
        HpsScorer.check("a/b/c")


def test_without_imscore_hps_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hps, "find_spec", lambda name: None)
    assert problems("hps") == [
        'metric hps: needs the package imscore, which is not installed; run: pip install "divrl[hps]"'
    ]
