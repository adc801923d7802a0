"""The pocket world as a benchmark: which figures, how many, their truth and their other stance."""

from __future__ import annotations

import numpy as np
import pytest

from divrl_core.config import SegmenterConfig
from divrl_core.evaluation.benchmarks.opening import open_benchmark
from divrl_core.pocket.references import PocketReferences
from divrl_core.training.references import known_world

from .benchmark_files import asked


def test_its_figures_are_those_of_a_runs_validation() -> None:
    benchmark = open_benchmark("pocket")
    validation = PocketReferences(split="held_out", count=16, seed=0)
    assert tuple(one.pair for one in benchmark.questions) == validation.pairs
    assert (benchmark.kind, benchmark.name, len(benchmark.reference_ids)) == ("pocket", "pocket world", 16)
    assert benchmark.source.endswith("held-out figures of seed 0: 16 references, 64 prompts")


def test_a_number_after_a_colon_is_the_number_of_figures() -> None:
    three, two = open_benchmark("pocket:3"), open_benchmark("pocket:2")
    assert len(three.reference_ids) == 3
    assert asked(three)[: len(asked(two))] == asked(two)
    assert asked(open_benchmark("pocket:3", references=2)) == asked(two)
    assert asked(open_benchmark("pocket:2", seed=1)) != asked(two)


@pytest.mark.parametrize("prompts", [None, 2])
def test_its_truth_stays_in_reach(prompts: int | None) -> None:
    references = open_benchmark("pocket:2", prompts=prompts).references
    world = known_world(references)
    assert isinstance(world, PocketReferences)
    assert {pair.reference_id for pair in references.pairs} <= {pair.reference_id for pair in world.pairs}


def test_the_first_prompts_of_each_figure_are_asked_under_their_numbers() -> None:
    questions = open_benchmark("pocket:2", prompts=2).questions
    assert [one.number for one in questions] == [0, 1, 0, 1]


def test_the_subject_is_what_prompts_call_the_figure() -> None:
    for question in open_benchmark("pocket:4").questions:
        assert question.subject in question.pair.prompt
        assert question.subject == f"toy {question.collection}"
        assert not question.is_style


def test_each_figure_has_a_view_in_another_stance() -> None:
    benchmark = open_benchmark("pocket:2")
    for reference_id in benchmark.reference_ids:
        (view,) = benchmark.views[reference_id]
        picture = np.asarray(view.load())
        shown = benchmark.references.load(reference_id, 128).image.permute(1, 2, 0).numpy() * 255
        assert picture.shape == (128, 128, 3)
        assert np.abs(picture - shown).mean() > 1
        assert reference_id in view.where


@pytest.mark.parametrize("spec", ["pocket:", "pocket:0", "pocket:-1", "pocket:two", "pocket:²", "pocket:1.5"])
def test_anything_but_a_number_of_figures_is_refused(spec: str) -> None:
    with pytest.raises(ValueError, match=f"pocket:24 for 24 figures, got '{spec}'"):
        open_benchmark(spec)


def test_a_segmenter_is_refused() -> None:
    with pytest.raises(ValueError, match="whose masks are exact"):
        open_benchmark("pocket", segmenter=SegmenterConfig(model="u2net.onnx"))
    assert (
        open_benchmark("pocket:1", segmenter=SegmenterConfig()).references.mask_source == "exact (rendered)"
    )
