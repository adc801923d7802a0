"""Scoring beside sampling: the same rewards in the same order, errors that arrive, and blocks that end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from divrl_core.config import RewardConfig
from divrl_core.models.features.base import Backbone, load_backbone
from divrl_core.training import reward_queue
from divrl_core.training.own_reward import OwnReward
from divrl_core.training.references import Reference
from divrl_core.training.reward_device import is_same_device, usable_device
from divrl_core.training.reward_queue import RewardQueue
from divrl_core.training.rewarding import Rewarder, open_rewarder

from .tiny_run import ToyReferences

SIZE_PX = 64
REFERENCES = ToyReferences(("ant", "bee"))
PAIRS = REFERENCES.pairs
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(RewardConfig().backbone)


def batches(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(size, 3, SIZE_PX, SIZE_PX, generator=generator) for size in (3, 2, 1) * count][:count]


def rewarder_of(
    backbone: Backbone, judge: Callable[[Tensor], Tensor] | None = None, *, is_apart: bool
) -> Rewarder:
    """With `judge` a reward that is this function of the pictures, else gated."""

    def own(pictures: Tensor, reference: Reference, prompt: str) -> Tensor:
        assert judge is not None
        return judge(pictures)

    config = RewardConfig(kind="gated", recipe="paper")
    given = None if judge is None else OwnReward(own, "own")
    return Rewarder(config, backbone, size_px=SIZE_PX, judge=given, is_apart=is_apart)


def mean(pictures: Tensor) -> Tensor:
    return pictures.mean(dim=(1, 2, 3))


def test_rewards_are_the_same_bits_in_the_same_order_whether_a_thread_scores_or_not(
    backbone: Backbone,
) -> None:
    collected = []
    for is_apart in (False, True):
        with RewardQueue(rewarder_of(backbone, is_apart=is_apart)) as queue:
            assert queue.is_overlapped is is_apart
            for batch, pair in zip(batches(4), PAIRS, strict=True):
                queue.submit(batch, REFERENCES, pair)
            collected.append(queue.collect())
            assert queue.collect() == [], "what was collected is gone"
            queue.submit(batches(1)[0], REFERENCES, PAIRS[0])
            collected[-1] += queue.collect()
    assert [len(reward.total) for reward in collected[0]] == [3, 2, 1, 3, 3]
    for one, other in zip(*collected, strict=True):
        for part in ("total", "nssm", "vsm", "gap"):
            assert torch.equal(getattr(one, part), getattr(other, part)), part


def test_a_thread_scores_while_the_caller_goes_on_and_both_times_are_measured(backbone: Backbone) -> None:
    def slow(pictures: Tensor) -> Tensor:
        time.sleep(0.2)
        return mean(pictures)

    for is_apart in (True, False):
        ours = rewarder_of(backbone, slow, is_apart=is_apart)
        with RewardQueue(ours) as queue:
            queue.submit(batches(1)[0], REFERENCES, PAIRS[0])
            has_waited = queue.waited_seconds
            time.sleep(1.0)  # the next pictures are sampled
            queue.collect()
        assert queue.seconds >= 0.2
        assert (has_waited < 0.2) is is_apart
        assert (queue.waited_seconds < 0.2) is is_apart


def test_what_shares_the_models_device_is_scored_in_the_callers_thread(backbone: Backbone) -> None:
    threads: list[threading.Thread] = []

    def note(pictures: Tensor) -> Tensor:
        threads.append(threading.current_thread())
        return mean(pictures)

    for is_apart in (False, True):
        with RewardQueue(rewarder_of(backbone, note, is_apart=is_apart)) as queue:
            queue.submit(batches(1)[0], REFERENCES, PAIRS[0])
            queue.collect()
    assert threads[0] is threading.main_thread() and threads[1] is not threading.main_thread()


@pytest.mark.parametrize("is_apart", [False, True])
def test_an_error_is_raised_in_the_caller_and_nothing_is_scored_after_it(
    backbone: Backbone, is_apart: bool
) -> None:
    scored: list[float] = []

    def fails_at_second(pictures: Tensor) -> Tensor:
        scored.append(0.0)
        return pictures.mean() if len(scored) == 2 else mean(pictures)

    with (
        pytest.raises(ValueError, match=r"^own, group ant#1: the reward must be real numbers \(2,\)"),
        RewardQueue(rewarder_of(backbone, fails_at_second, is_apart=is_apart)) as queue,
    ):
        for batch, pair in zip(batches(4), PAIRS, strict=True):
            queue.submit(batch, REFERENCES, pair)
        queue.collect()
    assert len(scored) == 2


def test_an_error_stops_a_caller_who_would_go_on_sampling(backbone: Backbone) -> None:
    def broken(pictures: Tensor) -> Tensor:
        raise SystemExit("not even an Exception")

    with (
        RewardQueue(rewarder_of(backbone, broken, is_apart=True)) as queue,
        pytest.raises(SystemExit, match="not even"),
    ):
        for _ in range(1000):
            queue.submit(batches(1)[0], REFERENCES, PAIRS[0])
            time.sleep(0.01)


def test_leaving_the_block_early_ends_the_thread_and_what_waits_is_not_scored(backbone: Backbone) -> None:
    scored: list[int] = []

    def slow(pictures: Tensor) -> Tensor:
        scored.append(len(pictures))
        time.sleep(0.3)
        return mean(pictures)

    before = threading.active_count()
    with (
        pytest.raises(KeyboardInterrupt),
        RewardQueue(rewarder_of(backbone, slow, is_apart=True)) as queue,
    ):
        for batch in batches(5):
            queue.submit(batch, REFERENCES, PAIRS[0])
        raise KeyboardInterrupt
    assert threading.active_count() == before
    assert len(scored) <= 1


def test_leaving_the_block_waits_no_longer_than_the_patience(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reward_queue, "PATIENCE_S", 0.1)
    release = threading.Event()

    def stuck(pictures: Tensor) -> Tensor:
        release.wait(30)
        return mean(pictures)

    started = time.perf_counter()
    with RewardQueue(rewarder_of(backbone, stuck, is_apart=True)) as queue:
        queue.submit(batches(1)[0], REFERENCES, PAIRS[0])
    assert time.perf_counter() - started < 10
    release.set()


def test_pictures_that_wait_have_a_bound_and_the_caller_waits_beyond_it(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reward_queue, "MOST_WAITING_BYTES", 1)
    go_on = threading.Event()
    most = 0

    def slow(pictures: Tensor) -> Tensor:
        nonlocal most
        go_on.wait(30)
        most = max(most, len(queue._waiting))
        return mean(pictures)

    queue = RewardQueue(rewarder_of(backbone, slow, is_apart=True))
    with queue:
        threading.Timer(0.3, go_on.set).start()
        for batch in batches(6):
            queue.submit(batch, REFERENCES, PAIRS[0])
        assert go_on.is_set(), "one is scored, one waits, the third has no room"
        assert len(queue.collect()) == 6
    assert most == 1 and queue.waited_seconds > 0.1


def test_outside_of_its_block_nothing_is_taken_and_nothing_hangs(backbone: Backbone) -> None:
    queue = RewardQueue(rewarder_of(backbone, is_apart=True))
    with pytest.raises(RuntimeError, match="inside its with block"):
        queue.submit(batches(1)[0], REFERENCES, PAIRS[0])
    with queue:
        queue.submit(batches(1)[0], REFERENCES, PAIRS[0])
    with pytest.raises(RuntimeError, match="inside its with block"):
        queue.submit(batches(1)[0], REFERENCES, PAIRS[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("model", "device"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_with_a_gpu_pictures_go_to_the_rewards_device_and_rewards_come_back_to_the_cpu(
    model: str, device: str
) -> None:
    config = RewardConfig(kind="gated", device=device)
    ours = open_rewarder(config, size_px=SIZE_PX, model_device=torch.device(model))
    assert ours.is_apart
    expected = [ours.reward(batch, REFERENCES, pair) for batch, pair in zip(batches(4), PAIRS, strict=True)]
    with RewardQueue(ours) as queue:
        for batch, pair in zip(batches(4), PAIRS, strict=True):
            queue.submit(batch.to(model), REFERENCES, pair)
        collected = queue.collect()
    for one, other in zip(expected, collected, strict=True):
        assert other.total.device == CPU and torch.equal(one.total.cpu(), other.total)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gpu", "must be a device such as cuda:1 or cpu, got 'gpu'"),
        ("cuda:99", "cannot be used here: there is"),
        ("meta", "cannot be used here ("),
    ],
)
def test_a_device_that_cannot_be_used_is_one_line(name: str, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        open_rewarder(RewardConfig(device=name), size_px=SIZE_PX, model_device=CPU)
    line = str(caught.value)
    assert line.startswith("reward.device") and words in line and "\n" not in line


def test_the_reward_works_apart_exactly_where_its_device_is_another_than_the_models() -> None:
    assert usable_device("cpu") == CPU
    assert is_same_device(torch.device("cpu"), torch.device("cpu:0"))
    assert not is_same_device(torch.device("cuda:0"), torch.device("cuda:1"))
    for device, model, is_apart in ((None, "cpu", False), ("cpu", "cpu:0", False), ("cpu", "cuda:0", True)):
        ours = open_rewarder(RewardConfig(device=device), size_px=SIZE_PX, model_device=torch.device(model))
        assert (ours.is_apart, ours.device.type) == (is_apart, "cpu")
