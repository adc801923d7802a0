"""Everything is checked, and told by name, before any picture is made."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from divrl_core.config import SegmenterConfig
from divrl_core.evaluation.benchmarks.base import Benchmark, View, names_of
from divrl_core.rewards.score import object_cells
from divrl_core.training.picture_references import (
    CheckedSource,
    PictureFile,
    PictureReferences,
    PictureSource,
)
from divrl_core.training.references import PromptPair, Reference, ReferenceSet

from .stand_ins import Counted, benchmark_of, contest_of, hold, random_lora, toys

HEADER = {"model": {"path": "pocket"}}
BOTH = ("copy_excess", "copy_paste", "nssm", "nssm_cropped", "vsm")


def refused(output: Path, words: str, *given, **settings) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        hold(contest_of(*given, **settings), output)
    assert not list(output.rglob("*.png"))


def test_a_lora_of_another_architecture_is_refused_by_name(tiny_pipeline: Path, tmp_path: Path) -> None:
    lora = random_lora(Path("pocket"), tmp_path / "fox.safetensors")
    words = r"--model fox: .*fox\.safetensors: belongs to another architecture: .*; the base is "
    refused(tmp_path / "out", words, tiny_pipeline, "base", str(lora))


def test_loras_of_different_bases_are_refused_by_their_names(tiny_pipeline: Path, tmp_path: Path) -> None:
    one = random_lora(tiny_pipeline, tmp_path / "one.safetensors", settings=HEADER)
    other_settings = {"model": {"path": "pocket-text-to-image"}}
    two = random_lora(tiny_pipeline, tmp_path / "two.safetensors", settings=other_settings)
    words = "one and two were trained with different base models, pocket and pocket-text-to-image; give --base, or"
    refused(tmp_path / "out", words, tiny_pipeline, str(one), str(two), base=None)


def test_the_base_is_what_the_loras_were_trained_on_and_so_is_the_size(tmp_path: Path) -> None:
    header = {"model": {"path": "pocket-text-to-image", "image_size_px": 64}, "stage": "explore"}
    header["reward"] = {"kind": "gated"}
    lora = random_lora(
        Path("pocket-text-to-image"), tmp_path / "x.safetensors", settings=header, layout="width"
    )
    contest = contest_of(Path("unused"), "base", str(lora), base=None, size_px=None)
    assert (contest.base.model, contest.base.size_px) == ("pocket-text-to-image", 64)
    assert [model.trained_on for model in contest.models] == [(), BOTH]
    plain = contest_of(Path("unused"), "base", base=None, size_px=None)
    assert (plain.base.model, plain.base.size_px) == ("pocket", 128)


def test_columns_of_a_further_backbone_that_rewarded_the_lora_are_flagged(tmp_path: Path) -> None:
    header = {
        "model": {"path": "pocket"},
        "reward": {"kind": "gated"},
        "backbone": {"name": "mtg", "path": "x"},
    }
    lora = random_lora(Path("pocket"), tmp_path / "x.safetensors", settings=header)
    for scorers, expected in (
        (("mtg", "siglip"), {*BOTH, *(f"mtg_{name}" for name in BOTH)}),
        ((), set(BOTH)),
    ):
        waiting = [Counted(name=name).waiting() for name in scorers]
        contest = contest_of(Path("pocket"), str(lora), "best-of-2", scorers=waiting, size_px=None)
        assert set(contest.models[0].trained_on) == expected
        assert contest.models[1].trained_on == BOTH


def test_loras_of_different_sizes_need_one_to_be_asked_for(tiny_pipeline: Path, tmp_path: Path) -> None:
    loras = [
        random_lora(
            tiny_pipeline, tmp_path / f"x{side}.safetensors", settings={"model": {"image_size_px": side}}
        )
        for side in (32, 64)
    ]
    with pytest.raises(ValueError, match="different sizes, 32 and 64; give --size, or"):
        contest_of(tiny_pipeline, *map(str, loras), size_px=None)
    assert contest_of(tiny_pipeline, *map(str, loras), size_px=48).base.size_px == 48


def test_best_of_n_is_marked_as_paid_by_what_it_chooses_by(tiny_pipeline: Path) -> None:
    model = contest_of(tiny_pipeline, "best-of-4", steps=7).models[0]
    assert model.evaluations == 28 and model.trained_on == BOTH
    assert model.about.endswith("VSM >= 0.55, then nSSM, by lite0")


def test_a_prompt_that_is_missing_is_named(tiny_pipeline: Path, tmp_path: Path) -> None:
    benchmark = toys("ant", "bee")
    pair = PromptPair("bee#1", "bee", " ")
    questions = (*benchmark.questions[:3], replace(benchmark.questions[3], pair=pair))
    words = "bee: its prompt 1 is empty; write what to show"
    refused(tmp_path, words, tiny_pipeline, benchmark=replace(benchmark, questions=questions))


def test_half_a_character_in_a_prompt_is_named(tiny_pipeline: Path, tmp_path: Path) -> None:
    benchmark = toys("ant", prompts=(json.loads('"a \\ud800 fox"'),))
    words = r"ant: its prompt 0 holds half a character, which is no Unicode: 'a \\ud800 fox'; write it anew"
    refused(tmp_path, words, tiny_pipeline, benchmark=benchmark)


def test_two_questions_of_one_number_are_named(tiny_pipeline: Path, tmp_path: Path) -> None:
    benchmark = toys("ant")
    questions = (benchmark.questions[0], benchmark.questions[0])
    refused(
        tmp_path,
        "ant: has two questions of number 0",
        tiny_pipeline,
        benchmark=replace(benchmark, questions=questions),
    )


def photographs(folder: Path, *, broken: bool = False) -> Benchmark:
    """Two pictures, the whole of each its subject; `broken`: one is damaged after it was checked."""
    folder.mkdir(exist_ok=True)
    sources = []
    for name in ("ant", "bee"):
        path = folder / f"{name}.png"
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(path)
        file = PictureFile(where=str(path), read=lambda path=path: path)
        sources.append(CheckedSource(PictureSource(name, ("on a blue floor",), file), "whole picture", name))
    if broken:
        path.write_bytes(path.read_bytes()[:200])
    return benchmark_of(PictureReferences(sources), "photographs")


def test_a_picture_that_cannot_be_read_is_named_before_any_is_made(
    tiny_pipeline: Path, tmp_path: Path
) -> None:
    words = r"bee: .*truncated or damaged"
    refused(tmp_path / "out", words, tiny_pipeline, benchmark=photographs(tmp_path / "in", broken=True))


def test_another_picture_of_the_same_name_is_told(tiny_pipeline: Path, tmp_path: Path) -> None:
    hold(contest_of(tiny_pipeline, benchmark=photographs(tmp_path / "in")), tmp_path / "out")
    benchmark = photographs(tmp_path / "in")
    Image.new("RGB", (40, 40), (9, 99, 9)).save(tmp_path / "in/ant.png")
    with pytest.raises(ValueError, match="a different ant/0"):
        hold(contest_of(tiny_pipeline, benchmark=benchmark), tmp_path / "out")


@dataclass(frozen=True)
class Remasked:
    """Toys with masks of which the first `rows` and `columns` are the subject; of `only` this reference, or of all."""

    toys: ReferenceSet
    rows: int
    columns: int
    only: str | None = None
    mask_source: str = "files"

    @property
    def pairs(self) -> tuple[PromptPair, ...]:
        return self.toys.pairs

    def load(self, reference_id: str, size_px: int) -> Reference:
        found = self.toys.load(reference_id, size_px)
        if self.only not in (None, reference_id):
            return found
        mask = torch.zeros_like(found.mask)
        mask[: self.rows, : self.columns] = True
        return Reference(found.image, mask)


def speck() -> Benchmark:
    """Toys, one of whose subjects is but a speck of 2 x 2 px."""
    return benchmark_of(Remasked(toys().references, 2, 2, only="bee"))


def test_a_subject_too_small_for_a_scorer_is_named_before_any_picture_is_made(
    tiny_pipeline: Path, tmp_path: Path
) -> None:
    def check_mask(mask: torch.Tensor, *, name: str) -> None:
        object_cells(mask, (4, 4), 1, name)

    scorer = replace(Counted().waiting(), check_mask=check_mask)
    words = "bee: the mask covers 0 of the 4 x 4 cells"
    refused(tmp_path, words, tiny_pipeline, benchmark=speck(), scorers=[scorer])
    assert not list(tmp_path.iterdir())


def test_a_subject_too_small_to_choose_by_is_named_before_any_picture_is_made(
    tiny_pipeline: Path, tmp_path: Path
) -> None:
    benchmark = speck()
    refused(
        tmp_path,
        "bee: the mask covers 1 of the 12 x 12 cells",
        tiny_pipeline,
        "best-of-2",
        benchmark=benchmark,
    )
    hold(contest_of(tiny_pipeline, "base", benchmark=benchmark), tmp_path)  # nothing looks at its mask


def test_scores_under_another_mask_of_the_same_picture_are_refused(
    tiny_pipeline: Path, tmp_path: Path
) -> None:
    hold(contest_of(tiny_pipeline, "base"), tmp_path)
    other = benchmark_of(Remasked(toys().references, 16, 32))
    with pytest.raises(ValueError, match="scores: was made with a different mask of ant, mask of bee; name"):
        hold(contest_of(tiny_pipeline, "base", benchmark=other), tmp_path)


def test_best_of_n_alone_chooses_otherwise_under_another_mask(tiny_pipeline: Path) -> None:
    contest = contest_of(tiny_pipeline, "base", "best-of-2")
    for entry, differs in zip(contest.entries, (False, True), strict=True):
        one, other = (contest.made_with(entry, {}, {"mask of ant": mask}) for mask in "xy")
        assert (one != other) == differs


def test_scores_beside_other_views_of_a_subject_are_refused(tiny_pipeline: Path, tmp_path: Path) -> None:
    def with_view(grey: int) -> Benchmark:
        view = View(where="a view", load=lambda: Image.new("RGB", (8, 8), (grey, grey, grey)))
        return replace(toys(), views={"ant": (view,)})

    for _ in range(2):
        hold(contest_of(tiny_pipeline, benchmark=with_view(3)), tmp_path)
    with pytest.raises(ValueError, match="scores: was made with a different views of ant"):
        hold(contest_of(tiny_pipeline, benchmark=with_view(4)), tmp_path)


def test_finished_pictures_that_are_missing_or_damaged_are_named(tiny_pipeline: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    for name in names_of(toys().questions, 2):
        (theirs / name.file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 30), (90, 20, 20)).save(theirs / name.file)
    contest = contest_of(tiny_pipeline, str(theirs), base=None, size_px=None)
    assert contest.base.size_px == 512 and contest.models[0].evaluations is None
    (theirs / "bee/1_1.png").write_bytes(b"no picture")
    refused(
        tmp_path / "out", r"--model theirs: .*bee/1_1\.png: not a picture", tiny_pipeline, "base", str(theirs)
    )
    (theirs / "bee/1_1.png").unlink()
    refused(tmp_path / "out", r"--model theirs: .*has no bee/1_1\.png", tiny_pipeline, "base", str(theirs))


def test_everything_that_is_wrong_is_told_at_once(tiny_pipeline: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    segmenter = SegmenterConfig(model=str(tmp_path / "nowhere.onnx"))
    with pytest.raises(ValueError) as error:
        contest_of(tiny_pipeline, str(tmp_path / "empty"), segmenter=segmenter, benchmark=toys(prompts=("",)))
    told = str(error.value)
    assert "its prompt 0 is empty" in told and "nowhere.onnx" in told and "--model empty" in told


def test_a_strange_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no folder 'nowhere'"):
        contest_of(Path("nowhere"))


def test_pictures_that_nothing_here_made_are_not_taken_for_a_models(
    tiny_pipeline: Path, tmp_path: Path
) -> None:
    (tmp_path / "pictures/base/ant").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(tmp_path / "pictures/base/ant/0_0.png")
    with pytest.raises(ValueError, match="holds files that nothing here made"):
        hold(contest_of(tiny_pipeline), tmp_path)
