"""Which process makes which samples: every sample once, fairly, for any numbers."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from divrl_core.training.placement import sample_parts, share_of, turns, units_of_process


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


@settings(max_examples=150, deadline=None)
@given(
    processes=st.integers(1, 9),
    groups=st.integers(1, 9),
    group_size=st.integers(2, 24),
    micro_batch=st.integers(1, 30),
    shares=st.integers(1, 4),
    whole_groups=st.booleans(),
    in_lockstep=st.booleans(),
)
def test_every_sample_is_made_once_and_no_process_has_much_more_to_do(
    processes: int,
    groups: int,
    group_size: int,
    micro_batch: int,
    shares: int,
    whole_groups: bool,
    in_lockstep: bool,
) -> None:
    shares = min(shares, groups)
    of_all = [
        units_of_process(
            index,
            processes,
            groups=groups,
            group_size=group_size,
            micro_batch=micro_batch,
            shares=shares,
            whole_groups=whole_groups,
            in_lockstep=in_lockstep,
        )
        for index in range(processes)
    ]
    own = [[unit for unit in units if not unit.is_stand_in] for units in of_all]
    made = [(unit.group, sample) for units in own for unit in units for sample in unit.samples]
    assert sorted(made) == [(group, sample) for group in range(groups) for sample in range(group_size)]
    # The batch shapes are those of one process: what a sample goes through the model with never changes.
    parts = set(sample_parts(group_size, micro_batch))
    assert all(unit.samples in parts for units in own for unit in units)
    for share in range(shares):
        in_share = [[u for u in units if share_of(u.group, groups, shares) == share] for units in of_all]
        real = [len([unit for unit in units if not unit.is_stand_in]) for units in in_share]
        step = len(parts) if whole_groups else 1
        assert max(real) - min(real) <= step
        if in_lockstep:
            assert len({len(units) for units in in_share}) == 1
        else:
            assert not any(unit.is_stand_in for units in in_share for unit in units)
    if whole_groups:
        homes = [{unit.group for unit in units} for units in own]
        assert sum(map(len, homes)) == groups


def test_three_groups_of_two_parts_on_two_processes() -> None:
    units = [units_of_process(index, 2, groups=3, group_size=4, micro_batch=2) for index in (0, 1)]
    assert [(unit.group, unit.samples) for unit in units[0]] == [(0, (0, 1)), (0, (2, 3)), (1, (0, 1))]
    assert [(unit.group, unit.samples) for unit in units[1]] == [(1, (2, 3)), (2, (0, 1)), (2, (2, 3))]


@given(count=st.integers(0, 30), processes=st.integers(1, 9))
def test_turns_deal_every_number_once_and_in_lockstep_equally_many(count: int, processes: int) -> None:
    dealt = [turns(count, index, processes) for index in range(processes)]
    assert sorted(number for turn in dealt for number, _ in turn) == list(range(count))
    assert not any(stands_in for turn in dealt for _, stands_in in turn)
    level = [turns(count, index, processes, in_lockstep=True) for index in range(processes)]
    assert len({len(turn) for turn in level}) == 1
    assert sorted(number for turn in level for number, stands_in in turn if not stands_in) == list(
        range(count)
    )
