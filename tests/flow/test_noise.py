"""Noise by name."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from divrl_core.flow.noise import keyed_noise, keyed_seed

LAW = settings(deadline=None, derandomize=True, max_examples=50)

KEY = {"seed": 3, "stream": "rollout", "update": 7, "group": "fox-01#3", "sample": 2, "step": 4}


def test_the_same_key_gives_the_same_noise_whatever_was_drawn_before():
    first = keyed_noise((6, 4), **KEY)
    torch.manual_seed(0)
    keyed_noise((100,), seed=9, stream="other")
    assert torch.equal(keyed_noise((6, 4), **KEY), first)


def test_drawing_leaves_torchs_own_random_state_alone():
    before = torch.get_rng_state()
    keyed_noise((64, 16), **KEY)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_part_of_the_key_changes_the_noise():
    base = keyed_noise((16, 4), **KEY)
    others = {"seed": 4, "stream": "heldout", "update": 8, "group": "fox-01#4", "sample": 3, "step": 5}
    for part, value in others.items():
        assert not torch.equal(keyed_noise((16, 4), **{**KEY, part: value}), base), part


@LAW
@given(
    first=st.tuples(st.text(max_size=8), st.text(max_size=8)),
    second=st.tuples(st.text(max_size=8), st.text(max_size=8)),
)
def test_parts_never_run_into_each_other(first: tuple[str, str], second: tuple[str, str]):
    seeds = [keyed_seed(seed=0, stream=stream, group=group) for stream, group in (first, second)]
    assert (seeds[0] == seeds[1]) == (first == second)


def test_numbers_beside_each_other_never_run_into_each_other():
    assert keyed_seed(seed=1, stream="s", sample=12, step=3) != keyed_seed(
        seed=1, stream="s", sample=1, step=23
    )


def test_a_seed_never_changes_between_processes_and_releases():
    # int(blake2b('[3, "rollout", 7, "fox-01#3", 2, 4]', 8 bytes), big-endian) >> 1
    assert keyed_seed(**KEY) == 2206449014290093587


@LAW
@given(seed=st.integers(0, 2**40), update=st.integers(0, 10**6), group=st.text(max_size=20))
def test_seeds_have_63_bits(seed: int, update: int, group: str):
    assert 0 <= keyed_seed(seed=seed, stream="rollout", update=update, group=group) < 2**63


def test_noise_is_standard_normal_and_uncorrelated_between_samples():
    noise = torch.stack([keyed_noise((256, 16), **{**KEY, "sample": k}).flatten() for k in range(32)])
    assert abs(noise.mean().item()) < 0.01
    assert abs(noise.std().item() - 1) < 0.01
    off_diagonal = torch.corrcoef(noise) - torch.eye(32)
    assert off_diagonal.abs().max().item() < 0.08  # 5 standard errors of 1/64


def test_bfloat16_noise_is_the_float32_noise_rounded():
    assert torch.equal(
        keyed_noise((64,), **KEY, dtype=torch.bfloat16), keyed_noise((64,), **KEY).to(torch.bfloat16)
    )
