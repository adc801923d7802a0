"""Which samples go through the model together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from divrl_core.training.placement import sample_parts


@given(group_size=st.integers(1, 60), at_most=st.integers(1, 70))
def test_a_group_is_cut_into_the_fewest_parts_of_nearly_equal_size(group_size: int, at_most: int) -> None:
    parts = sample_parts(group_size, at_most)
    assert [sample for part in parts for sample in part] == list(range(group_size))
    lengths = [len(part) for part in parts]
    assert max(lengths) <= at_most
    assert max(lengths) - min(lengths) <= 1
    assert (len(parts) - 1) * at_most < group_size


def test_twenty_one_samples_in_parts_of_at_most_four() -> None:
    assert [len(part) for part in sample_parts(21, 4)] == [3, 4, 3, 4, 3, 4]
