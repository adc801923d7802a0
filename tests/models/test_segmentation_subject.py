"""Which classes and which segment are the subject, worked by hand."""

from __future__ import annotations

import pytest
import torch

from divrl_core.models.segmentation.base import flags_of
from divrl_core.models.segmentation.subject import COCO_THINGS, central_segment, subject_classes

PASCAL = {0: "background", 1: "cat", 2: "dog", 3: "sofa"}
STREET = {0: "road", 1: "sky", 2: "person", 3: "car", 4: "rider"}
ROOMS = {0: "wall", 1: "door, double door", 2: "bed", 3: "floor"}


def classes_of(classes: dict[int, str], *labels: str, finds_segments: bool = False) -> set[int]:
    return set(subject_classes(classes, labels, name="a model", finds_segments=finds_segments))


def test_labels_that_are_named_are_the_subject() -> None:
    assert classes_of(PASCAL, "dog", "CAT") == {1, 2}
    assert classes_of(ROOMS, "double door") == {1}
    assert classes_of(STREET, "sky", finds_segments=True) == {1}
    assert classes_of({0: "Traffic_Light"}, "traffic light") == {0}


def test_without_labels_all_but_background_is() -> None:
    assert classes_of(PASCAL) == {1, 2, 3}
    assert classes_of({0: "cat", 1: "Background"}, finds_segments=True) == {0}


def test_segments_of_models_without_background_are_things_by_coco_s_names() -> None:
    assert classes_of(STREET, finds_segments=True) == {2, 3}
    assert classes_of(ROOMS, finds_segments=True) == {2}
    assert len(COCO_THINGS) == 80
    assert {"person", "hair drier", "toothbrush", "hot dog"} <= COCO_THINGS


def test_a_label_that_no_class_has_is_told_with_the_classes_there_are() -> None:
    with pytest.raises(
        ValueError,
        match=r"'dgo' is none of its classes \(did you mean dog\?\); it knows background, cat, dog, sofa",
    ):
        classes_of(PASCAL, "dgo")
    many = {number: f"class {number}" for number in range(150)}
    with pytest.raises(ValueError, match=r"class 39 and 110 more$"):
        classes_of(many, "wombat")


def test_without_any_rule_the_labels_are_asked_for() -> None:
    with pytest.raises(
        ValueError, match="is named background: name the subject's by labels; it knows road, sky"
    ):
        classes_of(STREET)
    with pytest.raises(
        ValueError, match="none as a thing of COCO: name the subject's by labels; it knows road"
    ):
        classes_of({0: "road"}, finds_segments=True)


def test_a_small_segment_in_the_middle_outweighs_a_larger_one_at_the_edge() -> None:
    """9 x 9 pixels: 3 x 3 in the middle, and a row at the edge.

    Centres lie at -8/9, -6/9 ... 8/9. The middle weighs (1 + 2 exp(-2 (2/9)^2))^2 = 7.89, the first row
    exp(-2 (8/9)^2) times the sum of its columns, .206 x 5.39 = 1.11, and three of them 3.8.
    """
    segments = torch.zeros(9, 9, dtype=torch.int64)
    segments[3:6, 3:6] = 1
    segments[:1] = 2
    assert central_segment(segments, [1, 2]) == 1
    segments[:3] = 2
    assert int((segments == 2).sum()) == 3 * int((segments == 1).sum())
    assert central_segment(segments, [1, 2]) == 1
    assert central_segment(segments, [2]) == 2
    assert central_segment(segments, []) is None


@pytest.mark.parametrize("factor", [1, 2, 3, 5, 8])
def test_a_straight_edge_stays_where_it_is_at_every_whole_factor(factor: int) -> None:
    saliency = torch.zeros(2, 4, 6)
    saliency[0, :, 2:] = 1.0
    saliency[1, 3:] = 1.0
    expected = saliency.repeat_interleave(factor, 1).repeat_interleave(factor, 2) > 0.5
    assert torch.equal(flags_of(saliency, 4 * factor, 6 * factor, 0.5), expected)
