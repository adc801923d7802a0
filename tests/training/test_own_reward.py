"""Rewards of one's own: found by name, called with pictures, and every mistake told with function and group."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from divrl_core.config import RewardConfig
from divrl_core.models.features.base import Backbone, load_backbone
from divrl_core.rewards.gate import Reward
from divrl_core.rewards.score import Scores
from divrl_core.training.own_reward import OwnReward
from divrl_core.training.references import Reference
from divrl_core.training.reward_checks import reward_problems
from divrl_core.training.rewarding import Rewarder

from .tiny_run import ToyReferences

SIZE_PX = 64
REFERENCES = ToyReferences(("ant", "bee"))
ANT, ANT_TOO, BEE, _ = REFERENCES.pairs
UNKNOWN = Scores(torch.full((2,), torch.nan), torch.full((2,), torch.nan), torch.zeros(2, dtype=torch.long))


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(RewardConfig().backbone)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    before, path = set(sys.modules), list(sys.path)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def write(folder: Path, source: str, name: str = "mine_to_test.py") -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(textwrap.dedent(source), encoding="utf-8")


def pictures() -> Tensor:
    return torch.stack([REFERENCES.load(name, SIZE_PX).image for name in ("ant", "bee")])


def redness(pictures: Tensor, reference: Reference, prompt: str) -> Tensor:
    return pictures[:, 0].mean(dim=(1, 2))


def test_a_function_of_the_working_directory_is_found_also_in_a_package_and_with_its_neighbours(
    workplace: Path,
) -> None:
    write(workplace, "", "house/__init__.py")
    write(workplace, "SCALE = 3.0", "house/scale.py")
    write(
        workplace,
        """
        from .scale import SCALE

        def reward(pictures, reference, prompt):
            import beside_to_test  # found when it runs, too
            return SCALE * beside_to_test.ONE * pictures.mean(dim=(1, 2, 3))
        """,
        "house/rewards.py",
    )
    write(workplace, "ONE = 1.0", "beside_to_test.py")
    before = list(sys.path)
    own = OwnReward.load("house.rewards:reward")
    assert sys.path == [*before, str(workplace)], "what is installed is still found first"
    paid = own(pictures(), REFERENCES.load("ant", SIZE_PX), ANT, UNKNOWN)
    assert torch.equal(paid, 3 * pictures().mean(dim=(1, 2, 3)))


def test_a_callable_object_is_a_reward_too(workplace: Path) -> None:
    write(
        workplace,
        """
        class Weighted:
            def __init__(self, weight): self.weight = weight
            def __call__(self, pictures, reference, prompt): return self.weight * pictures.mean((1, 2, 3))

        twice = Weighted(2.0)
        """,
    )
    paid = OwnReward.load("mine_to_test:twice")(pictures(), REFERENCES.load("ant", SIZE_PX), ANT, UNKNOWN)
    assert torch.equal(paid, 2 * pictures().mean(dim=(1, 2, 3)))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("other = 1", "mine_to_test has no reward; it has none"),
        ("def bonus(pictures, reference, prompt): ...", "has no reward; it has bonus"),
        ("reward = 3", "must be a function (pictures, reference, prompt), got a value of type int"),
        ("class reward: pass", "got a class"),
        (
            "def reward(pictures): ...",
            "must take (pictures, reference, prompt), and scores if it likes; it takes (pict",
        ),
        ("def reward(pictures, reference, prompt, weight): ...", "missing a required argument: 'weight'"),
        ("async def reward(pictures, reference, prompt): ...", "got an async one"),
        ("import no_such_package", "No module named 'no_such_package' (mine_to_test.py, line 1)"),
        ("def reward(:", "SyntaxError: invalid syntax (mine_to_test.py, line 1)"),
        (
            "x = 1\ny = 1 / 0",
            "importing mine_to_test: ZeroDivisionError: division by zero (mine_to_test.py, line 2)",
        ),
    ],
)
def test_what_can_be_known_at_the_start_is_told_at_the_start(
    workplace: Path, source: str, words: str
) -> None:
    write(workplace, source)
    config = RewardConfig(kind="own", function="mine_to_test:reward")
    (line,) = reward_problems(config)
    assert line.startswith("reward.function=mine_to_test:reward") and words in line and "\n" not in line


def test_a_module_that_is_not_there_is_named(workplace: Path) -> None:
    for dotted, missing in (("nowhere_at_all:f", "nowhere_at_all"), ("json.nowhere:f", "json.nowhere")):
        (line,) = reward_problems(RewardConfig(kind="own", function=dotted))
        assert line == (
            f"reward.function={dotted}: there is no module {missing} in the working directory or among the "
            "installed packages"
        )


@pytest.mark.parametrize(
    ("returns", "words"),
    [
        (lambda count: [1.0] * count, "the reward must be a tensor (2,), one number a picture, got list"),
        (
            lambda count: torch.zeros(count, 1),
            "must be real numbers (2,), one a picture, got torch.float32 (2, 1)",
        ),
        (lambda count: torch.zeros(()), "got torch.float32 ()"),
        (lambda count: torch.zeros(count, dtype=torch.complex64), "got torch.complex64 (2,)"),
        (
            lambda count: torch.tensor([0.0, torch.inf]),
            "of picture 1 is infinite; return NaN where it is undefined",
        ),
        (
            lambda count: Reward(*[torch.zeros(count + (n == 2)) for n in range(4)]),
            "vsm must be real numbers (2,)",
        ),
        (lambda count: {}["no such key"], "KeyError: 'no such key' (test_own_reward.py, line "),
        (
            lambda count: torch.zeros(2, 3) @ torch.zeros(2, 3),
            "RuntimeError: mat1 and mat2 shapes cannot be multiplied",
        ),
    ],
)
def test_what_it_does_wrong_later_is_told_in_one_line_with_function_and_group(
    backbone: Backbone, returns: Any, words: str
) -> None:
    def broken(pictures: Tensor, reference: Reference, prompt: str) -> Any:
        return returns(len(pictures))

    ours = Rewarder(RewardConfig(), backbone, size_px=SIZE_PX, judge=OwnReward(broken, "reward.function=a:b"))
    with pytest.raises(ValueError) as caught:
        ours.reward(pictures(), REFERENCES, ANT)
    line = str(caught.value)
    assert line.startswith("reward.function=a:b, group ant#0: ") and words in line and "\n" not in line


def test_the_function_is_given_the_pictures_the_reference_and_the_prompt_without_gradients(
    backbone: Backbone,
) -> None:
    seen: dict[str, Any] = {}

    def look(pictures: Tensor, reference: Reference, prompt: str) -> Tensor:
        seen.update(pictures=pictures, reference=reference, prompt=prompt, grad=torch.is_grad_enabled())
        return redness(pictures, reference, prompt)

    ours = Rewarder(RewardConfig(), backbone, size_px=SIZE_PX, judge=OwnReward(look))
    ours.reward(pictures(), REFERENCES, ANT_TOO)
    toy = REFERENCES.load("ant", SIZE_PX)
    assert torch.equal(seen["pictures"], pictures()) and seen["prompt"] == ANT_TOO.prompt and not seen["grad"]
    assert torch.equal(seen["reference"].image, toy.image) and torch.equal(seen["reference"].mask, toy.mask)


def test_nssm_and_vsm_are_measured_beside_it_and_given_where_they_are_asked_for(backbone: Backbone) -> None:
    def plus_one(pictures: Tensor, reference: Reference, prompt: str, scores: Scores) -> Tensor:
        return scores.nssm + 1

    formula = Rewarder(RewardConfig(), backbone, size_px=SIZE_PX).reward(pictures(), REFERENCES, ANT)
    for function, total in ((redness, pictures()[:, 0].mean(dim=(1, 2))), (plus_one, formula.nssm + 1)):
        ours = Rewarder(RewardConfig(), backbone, size_px=SIZE_PX, judge=OwnReward(function))
        reward = ours.reward(pictures(), REFERENCES, ANT)
        assert torch.equal(reward.total, total)
        for part in ("nssm", "vsm", "gap"):
            assert torch.equal(getattr(reward, part), getattr(formula, part)), part


def test_parts_that_it_returns_itself_are_kept_and_nan_stays_undefined(backbone: Backbone) -> None:
    def with_parts(pictures: Tensor, reference: Reference, prompt: str) -> Reward:
        half = torch.full((len(pictures),), 0.5, dtype=torch.float64)
        return Reward(total=torch.tensor([torch.nan, 1.0]), nssm=half, vsm=half / 2, gap=half * 0)

    ours = Rewarder(RewardConfig(), backbone, size_px=SIZE_PX, judge=OwnReward(with_parts))
    reward = ours.reward(pictures(), REFERENCES, ANT)
    assert reward.total.isnan().tolist() == [True, False]
    assert (reward.nssm.tolist(), reward.vsm.tolist(), reward.nssm.dtype) == (
        [0.5] * 2,
        [0.25] * 2,
        torch.float32,
    )


def test_running_out_of_memory_is_not_taken_for_the_functions_mistake() -> None:
    def too_large(pictures: Tensor, reference: Reference, prompt: str) -> Tensor:
        raise torch.OutOfMemoryError("no memory")

    with pytest.raises(torch.OutOfMemoryError):
        OwnReward(too_large)(pictures(), REFERENCES.load("ant", SIZE_PX), ANT, UNKNOWN)


def test_only_a_reward_that_takes_groups_says_so(backbone: Backbone, workplace: Path) -> None:
    for takes, is_group in (("pictures", False), ("group", True)):
        config = RewardConfig(kind="own", function="a:b", function_takes=takes)  # type: ignore[arg-type]
        ours = Rewarder(config, backbone, size_px=SIZE_PX, judge=OwnReward(redness))
        assert ours.takes_groups is is_group
