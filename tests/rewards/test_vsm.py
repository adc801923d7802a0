"""VSM: eq. 3 by hand, its two readings, and what is undefined."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from divrl_core.rewards.vsm import Vsm, vsm

LAW = settings(deadline=None, derandomize=True, max_examples=60)


def _vsm(semantic: list, visual: list, **changes: object) -> Vsm:
    settings_ = {"source_mask": None, "target_mask": None, "tau_s": 0.7, "tau_v": 0.7, "one_to_one": False}
    return vsm(torch.tensor([semantic]), torch.tensor([visual]), **{**settings_, **changes})


# Four sources, three targets. Best semantic: .9 (target 0), .8 (0), .75 (2), .3 (1).
SEMANTIC = [[0.9, 0.1, 0.2], [0.8, 0.2, 0.1], [0.1, 0.4, 0.75], [0.2, 0.3, 0.1]]
# At the match: .2, .9, .8, .9; anywhere: .95, .9, .8, .9.
VISUAL = [[0.2, 0.95, 0.1], [0.9, 0.1, 0.1], [0.3, 0.3, 0.8], [0.9, 0.9, 0.9]]


def test_agreement_anywhere_worked_by_hand():
    # Kept: sources 0, 1, 2. All three agree somewhere: 3/3.
    result = _vsm(SEMANTIC, VISUAL, agreement="anywhere")
    assert result.kept.tolist() == [[True, True, True, False]]
    assert result.agrees.tolist() == [[True, True, True, False]]
    assert result.score.item() == 1.0


def test_agreement_at_the_match_worked_by_hand():
    # Source 0 matches target 0, where it looks different: 2/3.
    result = _vsm(SEMANTIC, VISUAL, agreement="match")
    assert result.match[0, :3].tolist() == [0, 0, 2]
    assert result.agrees.tolist() == [[False, True, True, False]]
    assert result.score.item() == pytest.approx(2 / 3)


def test_one_to_one_keeps_the_best_source_of_each_target():
    # Sources 0 and 1 both match target 0; 0 is the better. At the match only source 2 agrees: 1/2.
    result = _vsm(SEMANTIC, VISUAL, agreement="match", one_to_one=True)
    assert result.kept.tolist() == [[True, False, True, False]]
    assert result.score.item() == 0.5


def test_one_to_one_keeps_the_first_of_equal_sources():
    result = _vsm([[0.9, 0.1], [0.9, 0.1], [0.1, 0.8]], [[0.9, 0.9]] * 3, one_to_one=True)
    assert result.kept.tolist() == [[True, False, True]]


def test_thresholds_must_be_exceeded_not_met():
    assert _vsm([[0.75]], [[0.9]], tau_s=0.75).score.isnan().item()
    assert _vsm([[0.9]], [[0.75]], tau_v=0.75).score.item() == 0.0


def test_masks_choose_sources_and_targets():
    # Without target 0, sources 0 and 1 find no part; without source 2 nothing is left of 0, 1, 3 either.
    targets = torch.tensor([False, True, True])
    result = _vsm(SEMANTIC, VISUAL, target_mask=targets)
    assert result.kept.tolist() == [[False, False, True, False]]
    sources = torch.tensor([[True, True, False, True]])
    assert _vsm(SEMANTIC, VISUAL, source_mask=sources).kept.tolist() == [[True, True, False, False]]
    assert _vsm(SEMANTIC, VISUAL, source_mask=sources, target_mask=targets).score.isnan().item()


def test_anywhere_means_among_the_target_cells_only():
    # Source 0 agrees with target 1 only (.95).
    result = _vsm(SEMANTIC[:1], VISUAL[:1], target_mask=torch.tensor([True, False, True]))
    assert result.kept.tolist() == [[True]]
    assert result.score.item() == 0.0


def test_a_source_outside_the_mask_cannot_push_another_out():
    outside_is_better = _vsm(
        SEMANTIC, VISUAL, source_mask=torch.tensor([[False, True, True, True]]), one_to_one=True
    )
    assert outside_is_better.kept.tolist() == [[False, True, True, False]]


def test_swapped_appearance_fools_anywhere_but_not_the_match():
    """Every part finds its place, but each wears another part's look."""
    parts = torch.eye(4)[None]
    swapped = torch.eye(4).roll(1, dims=0)[None]
    common = {"source_mask": None, "target_mask": None, "tau_s": 0.7, "tau_v": 0.7}
    assert vsm(parts, swapped, **common, agreement="anywhere").score.item() == 1.0
    assert vsm(parts, swapped, **common, agreement="match").score.item() == 0.0


# Undefined is not zero


def test_nothing_kept_is_undefined_and_only_for_that_picture():
    semantic = torch.tensor([SEMANTIC, [[0.1, 0.2, 0.3]] * 4])
    result = vsm(
        semantic, torch.ones_like(semantic), source_mask=None, target_mask=None, tau_s=0.7, tau_v=0.7
    )
    assert result.score.isnan().tolist() == [False, True]


@pytest.mark.parametrize("which", ["semantic", "visual"])
def test_nan_in_play_is_undefined_and_out_of_play_is_ignored(which: str):
    semantic, visual = torch.tensor([SEMANTIC]), torch.tensor([VISUAL])
    {"semantic": semantic, "visual": visual}[which][0, 2, 1] = torch.nan
    common = {"target_mask": None, "tau_s": 0.7, "tau_v": 0.7}
    assert vsm(semantic, visual, source_mask=None, **common).score.isnan().item()
    without = vsm(semantic, visual, source_mask=torch.tensor([[True, True, False, True]]), **common)
    assert without.score.item() == 1.0


# Laws, against a slow and plain reading of the words


def _plain_vsm(
    semantic: torch.Tensor, visual: torch.Tensor, targets: list[int], agreement: str, one_to_one: bool
) -> float:
    matched = {}
    for source in range(semantic.shape[0]):
        best = max(targets, key=lambda target: (semantic[source, target].item(), -target))
        if semantic[source, best] > 0.2:
            matched[source] = best
    if one_to_one:
        for target in targets:
            rivals = [source for source, found in matched.items() if found == target]
            rivals.sort(key=lambda source: (-semantic[source, target].item(), source))
            for loser in rivals[1:]:
                del matched[loser]
    looked_at = {s: targets if agreement == "anywhere" else [t] for s, t in matched.items()}
    agreeing = [s for s, where in looked_at.items() if any(visual[s, t] > 0.2 for t in where)]
    return len(agreeing) / len(matched) if matched else float("nan")


@LAW
@given(
    seed=st.integers(0, 10_000),
    sources=st.integers(1, 8),
    cells=st.integers(1, 6),
    agreement=st.sampled_from(["anywhere", "match"]),
    one_to_one=st.booleans(),
)
def test_vsm_equals_a_plain_reading(seed: int, sources: int, cells: int, agreement: str, one_to_one: bool):
    generator = torch.Generator().manual_seed(seed)
    # Few distinct values, so that ties are common.
    semantic, visual = (
        torch.randint(-2, 5, (2, sources, cells), generator=generator).float() / 10 for _ in range(2)
    )
    targets = torch.rand(cells, generator=generator) < 0.7
    targets[0] = True
    result = vsm(
        semantic,
        visual,
        source_mask=None,
        target_mask=targets,
        tau_s=0.2,
        tau_v=0.2,
        agreement=agreement,
        one_to_one=one_to_one,
    )
    for index in range(2):
        plain = _plain_vsm(
            semantic[index], visual[index], targets.nonzero()[:, 0].tolist(), agreement, one_to_one
        )
        assert result.score[index].item() == pytest.approx(plain, nan_ok=True)


@LAW
@given(seed=st.integers(0, 10_000))
def test_agreement_at_the_match_is_never_above_anywhere(seed: int):
    generator = torch.Generator().manual_seed(seed)
    semantic, visual = (torch.rand(3, 6, 5, generator=generator) for _ in range(2))
    common = {"source_mask": None, "target_mask": None, "tau_s": 0.3, "tau_v": 0.6}
    strict = vsm(semantic, visual, **common, agreement="match").score
    loose = vsm(semantic, visual, **common, agreement="anywhere").score
    assert bool((strict <= loose).all())


# Errors


def test_what_does_not_fit_is_refused():
    cells = torch.zeros(2, 4, 3)
    common = {"tau_s": 0.7, "tau_v": 0.7}
    with pytest.raises(ValueError, match=r"got semantic \(2, 4, 3\) and visual \(2, 4, 2\)"):
        vsm(cells, cells[..., :2], source_mask=None, target_mask=None, **common)
    with pytest.raises(ValueError, match=r"source_mask must be bool \(2, 4\), got torch.bool \(4,\)"):
        vsm(cells, cells, source_mask=torch.ones(4, dtype=torch.bool), target_mask=None, **common)
    with pytest.raises(ValueError, match=r"target_mask must be bool \(3,\), got torch.float32"):
        vsm(cells, cells, source_mask=None, target_mask=torch.ones(3), **common)
    with pytest.raises(ValueError, match='agreement must be "anywhere" or "match", got \'here\''):
        vsm(cells, cells, source_mask=None, target_mask=None, agreement="here", **common)
    with pytest.raises(ValueError, match="at least one cell a side"):
        vsm(cells[..., :0], cells[..., :0], source_mask=None, target_mask=None, **common)
