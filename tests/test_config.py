"""Settings: what is refused, in which words, and that files and overrides give what they say."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from divrl_core.config import (
    BackboneConfig,
    GrpoConfig,
    NftConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
    TrainConfig,
)
from divrl_core.settings import apply_overrides, as_recorded, from_mapping, list_settings, merge, to_mapping


def refused(mapping: dict[str, Any]) -> str:
    with pytest.raises(ValueError) as caught:
        from_mapping(TrainConfig, mapping, "run.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@settings(deadline=None)
@given(
    group_size=st.integers(2, 30),
    lr=st.floats(1e-9, 1.0),
    steps=st.integers(3, 40),
    tracker=st.none() | st.sampled_from(["wandb", "tensorboard"]),
)
def test_settings_survive_json_and_yaml(group_size: int, lr: float, steps: int, tracker: str | None) -> None:
    mapping = {
        "grpo": {"group_size": group_size, "micro_batch": 1},
        "optim": {"lr": lr},
        "rollout": {"steps": steps, "stochastic_steps": [0, 1]},
        "run": {"tracker": tracker},
    }
    config = from_mapping(TrainConfig, mapping)
    plain = to_mapping(config)
    assert from_mapping(TrainConfig, json.loads(json.dumps(plain))) == config
    assert from_mapping(TrainConfig, yaml.safe_load(yaml.safe_dump(plain))) == config
    assert (config.grpo.group_size, config.optim.lr, config.run.tracker) == (group_size, lr, tracker)


def test_defaults_are_the_papers() -> None:
    config = TrainConfig.explore()
    assert (config.grpo.group_size, config.rollout.steps, config.run.eval_steps) == (21, 6, 28)
    assert (config.reward.kind, config.reward.penalty_weight, config.run.updates) == ("nssm", 5.0, 3200)
    assert config.grpo.samples_per_update == 336
    assert config.lora.resolved_alpha == 128.0


def test_the_papers_reward_has_its_name_and_the_default_is_cropped() -> None:
    default, paper = RewardConfig(), RewardConfig(kind="gated", recipe="paper", gate=0.6)
    assert (default.paid_structure, paper.paid_structure) == ("nssm_cropped", "nssm")
    assert [(gate.measure, gate.least) for gate in paper.asked] == [("vsm", 0.6)]
    appendix = RewardConfig(recipe="paper", backbone=BackboneConfig(name="dinov2"))
    assert [gate.measure for gate in appendix.asked] == ["cosine"]


def test_a_record_from_before_structure_was_a_setting_means_nssm() -> None:
    recorded = as_recorded(TrainConfig, {"reward": {"kind": "gated"}})
    assert from_mapping(TrainConfig, recorded).reward.paid_structure == "nssm"
    assert as_recorded(TrainConfig, {"reward": {"structure": "matched"}})["reward"] == {
        "structure": "matched"
    }
    assert as_recorded(TrainConfig, {"lora": {"rank": 4}}) == {"lora": {"rank": 4}}, (
        "no reward, nothing to add"
    )
    assert from_mapping(TrainConfig, {"reward": {"kind": "gated"}}).reward.paid_structure == "nssm_cropped"


def test_the_suppress_stage_is_gated_and_holds_on_to_the_explore_lora() -> None:
    config = from_mapping(TrainConfig, {"stage": "suppress", "run": {"init_lora": "explore.safetensors"}})
    assert (config.reward.kind, config.grpo.kl_reference) == ("gated", "init")
    assert config == TrainConfig.suppress(init_lora="explore.safetensors")


def test_a_file_may_overrule_the_stage_defaults() -> None:
    mapping = {"stage": "suppress", "run": {"init_lora": "a"}, "reward": {"kind": "linear", "gate": 0.4}}
    config = from_mapping(TrainConfig, mapping)
    assert (config.reward.kind, config.reward.gate, config.grpo.kl_reference) == ("linear", 0.4, "init")


def test_suppress_without_a_lora_is_refused() -> None:
    assert "--from" in refused({"stage": "suppress"})


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ({"grpo": {"grop_size": 8}}, "unknown setting grpo.grop_size; the nearest is grpo.group_size"),
        ({"group_size": 8}, "unknown setting group_size; the nearest is grpo.group_size"),
        ({"reward": {"backbone": {"taus": 0.5}}}, "the nearest is reward.backbone.tau_s"),
        (
            {"grpo": {"groups_per_update": 2, "optimizer_steps_per_rollout": 3}},
            "must be at most grpo.groups_per_update",
        ),
        ({"model": {"offload_blocks": 3, "quantization": "nf4"}}, "take one of the two"),
        ({"model": {"offload_blocks": 3, "compile": True}}, "exclude each other"),
        ({"model": {"quantization": "fp8", "dtype": "float16"}}, "needs model.dtype=bfloat16 or float32"),
        ({"model": {"quantization": "nf4", "transformer_file": "a.gguf"}}, "quantised already"),
        ({"reward": {"recipe": "paper", "structure": "matched"}}, "reward.structure exclude each other"),
        ({"reward": {"recipe": "paper", "gates": ["vsm>=0.5"]}}, "reward.gates exclude each other"),
        ({"reward": {"recipe": "paper", "structure_cap": 0.5}}, "reward.structure_cap exclude each other"),
        ({"reward": {"recipe": "papers"}}, "did you mean paper?"),
        ({"reward": {"kind": "own"}}, "reward.function belong together"),
        ({"reward": {"function": "a:b"}}, "reward.function belong together"),
        ({"reward": {"kind": "own", "function": "a b"}}, "must be package.module:name, got 'a b'"),
        ({"reward": {"kind": "remote"}}, "reward.remote.url belong together"),
        ({"reward": {"kind": "remote", "remote": {"url": "ftp://x"}}}, "must be http://HOST:PORT"),
        ({"reward": {"function_takes": "group"}}, "says nothing with reward.kind=nssm"),
        ({"grpo": {"group_size": 1, "micro_batch": 1}}, "grpo.group_size must be at least 2, got 1"),
        ({"grpo": {"group_size": "many"}}, "grpo.group_size must be a whole number, got 'many'"),
        ({"grpo": {"group_size": True}}, "grpo.group_size must be a whole number, got True"),
        ({"grpo": 3}, "grpo must be a section of settings, got 3"),
        ({"reward": {"kind": "gatd"}}, "did you mean gated?"),
        ({"optim": {"lr": float("nan")}}, "optim.lr must be finite"),
        ({"optim": {"betas": [0.9]}}, "optim.betas must be a list of 2 numbers"),
        ({"optim": {"betas": [0.9, 1.0]}}, "optim.betas must be at least 0 and below 1, got 1.0"),
        ({"rollout": {"steps": 4}}, "step 3, the last of 4, is always deterministic"),
        ({"rollout": {"stochastic_steps": []}}, "rollout.stochastic_steps needs different indices"),
        ({"rollout": {"stochastic_steps": [1, 1]}}, "rollout.stochastic_steps needs different indices"),
        ({"rollout": {"trained_steps_per_update": 6}}, "at most the number of stochastic steps, 5"),
        ({"rollout": {"solver": "cps", "noise_level": 1.2}}, "at most 1 for the solver cps"),
        ({"rollout": {"noise_levels": [0.8, 0.5]}}, "one for each of the 5 stochastic steps, got 2"),
        ({"rollout": {"noise_levels": [0.8, 0.5, 0.4, 0.4, 0.0]}}, "must be at most 2 and above 0, got 0.0"),
        (
            {"rollout": {"solver": "cps", "noise_levels": [0.8, 1.2], "stochastic_steps": [0, 3]}},
            "at most 1 for the solver cps, got 1.2 at step 3",
        ),
        ({"rollout": {"window_size": 6}}, "rollout.window_size must be at most 5: the last of 6 steps"),
        (
            {"rollout": {"window_size": 2, "stochastic_steps": [0, 1]}},
            "rollout.window_size=2 and rollout.stochastic_steps=[0, 1] contradict each other",
        ),
        ({"rollout": {"window_size": 2, "noise_levels": [0.8, 0.4]}}, "take rollout.noise_level"),
        ({"rollout": {"window_stride": 2}}, "says nothing without rollout.window_size"),
        ({"rollout": {"window_every_updates": 2}}, "says nothing without rollout.window_size"),
        (
            {"rollout": {"window_size": 2, "trained_steps_per_update": 3}},
            "number of stochastic steps, 2, got 3",
        ),
        (
            {"rollout": {"solver": "cps", "window_size": 2, "noise_level": 1.2}},
            "at most 1 for the solver cps, got 1.2 at step 0",
        ),
        (
            {"rollout": {"stochastic_steps": [2, 3]}, "grpo": {"kl_steps": 2}},
            "grpo.kl_steps=2: no trained step lies below it, the first is 2",
        ),
        ({"algorithm": "ppo"}, "algorithm must be one of grpo, nft, got 'ppo'"),
        (
            {"algorithm": "nft", "grpo": {"kl_weight": 0.1}},
            "grpo.kl_weight says nothing with algorithm=nft; take nft.kl_weight, with grpo.kl_weight=0",
        ),
        ({"algorithm": "nft", "grpo": {"kl_steps": 1}}, "grpo.kl_steps says nothing with algorithm=nft"),
        (
            {"algorithm": "nft", "grpo": {"objective": "dppo"}},
            "grpo.objective says nothing with algorithm=nft",
        ),
        (
            {"algorithm": "nft", "rollout": {"trained_steps_per_update": 1}},
            "rollout.trained_steps_per_update says nothing with algorithm=nft; take nft.times_per_sample",
        ),
        (
            {"algorithm": "nft", "rollout": {"window_size": 1}},
            "rollout.window_size says nothing with algorithm=nft; take nft.noisy_rollout=true",
        ),
        (
            {"algorithm": "nft", "nft": {"times_per_sample": 7}},
            "nft.times_per_sample must be at most rollout.steps with nft.times=schedule: got 7 of 6",
        ),
        ({"nft": {"beta": 0}}, "nft.beta must be above 0, got 0"),
        ({"nft": {"times": "all"}}, "nft.times must be one of schedule, uniform"),
        ({"grpo": {"kl_reference": "init"}}, "needs run.init_lora"),
        ({"model": {"image_size_px": 130}}, "model.image_size_px must be a multiple of 16, got 130"),
        ({"model": {"path": ""}}, "model.path must not be empty"),
        ({"model": {"dtype": "float16"}}, "model.dtype=float16 cannot be trained"),
        ({"model": {"dtype": "float16"}, "run": {"mixed_precision": "fp16"}}, "take bfloat16 or float32"),
        ({"run": {"mixed_precision": "fp16"}}, "run.mixed_precision=fp16 cannot be trained"),
        ({"model": {"dtype": "bfloat16"}, "run": {"mixed_precision": "fp16"}}, "take bf16 or no"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line_that_names_it(mapping: dict[str, Any], words: str) -> None:
    message = refused(mapping)
    assert message.startswith("run.yaml: ")
    assert words in message


def test_what_yaml_reads_otherwise_is_read_as_meant() -> None:
    text = "optim: {lr: 3e-4, eps: 1e-15, ema_decay: 0}\nrun: {mixed_precision: no}\n"
    config = from_mapping(TrainConfig, yaml.safe_load(text))
    assert (config.optim.lr, config.optim.eps, config.optim.ema_decay) == (3e-4, 1e-15, 0.0)
    assert config.run.mixed_precision == "no"


def test_a_dataclass_made_by_hand_is_checked_too() -> None:
    with pytest.raises(ValueError, match=r"grpo\.optimizer_steps_per_rollout must be at most"):
        GrpoConfig(groups_per_update=2, optimizer_steps_per_rollout=3)
    with pytest.raises(ValueError, match=r"run\.updates must be at least 1"):
        RunConfig(updates=0)
    with pytest.raises(AttributeError):
        RunConfig().updates = 3  # type: ignore[misc]


def test_overrides_are_laid_over_a_copy_and_the_later_wins() -> None:
    mapping = {"grpo": {"group_size": 21}}
    result = apply_overrides(
        mapping, ["grpo.group_size=8", "reward.backbone.tau_s=.5", "grpo.group_size=4"], parse=yaml.safe_load
    )
    assert result == {"grpo": {"group_size": 4}, "reward": {"backbone": {"tau_s": 0.5}}}
    assert mapping == {"grpo": {"group_size": 21}}


@pytest.mark.parametrize("override", ["grpo.group_size", "=3", "grpo..x=3", "grpo.group_size.deep=3"])
def test_an_override_of_the_wrong_form_is_refused(override: str) -> None:
    with pytest.raises(ValueError, match="override"):
        apply_overrides({"grpo": {"group_size": 21}}, [override], parse=yaml.safe_load)


def test_merging_keeps_what_only_one_side_has() -> None:
    assert merge({"a": {"x": 1, "y": 2}, "b": 3}, {"a": {"y": 5}, "c": 6}) == {
        "a": {"x": 1, "y": 5},
        "b": 3,
        "c": 6,
    }


def test_small_groups_are_allowed_with_a_warning() -> None:
    small = TrainConfig.explore(grpo=GrpoConfig(group_size=3, micro_batch=3))
    assert any("grpo.group_size is 3" in line for line in small.advice())
    assert TrainConfig.explore().advice() == ()


def test_trained_steps_count_the_choice_or_all_stochastic_steps() -> None:
    assert RolloutConfig().trained_steps == 5
    assert RolloutConfig(trained_steps_per_update=2).trained_steps == 2


def windows(**fields: Any) -> list[tuple[int, ...]]:
    config = RolloutConfig(**fields)
    return [config.steps_of(update) for update in range(12)]


def test_a_window_slides_to_the_last_stochastic_step_and_goes_back_to_the_first() -> None:
    # Six steps: 0..4 may be noisy, so a window of two starts at 0, 1, 2 or 3, three updates each.
    found = windows(window_size=2, window_every_updates=3)
    assert found == [(0, 1)] * 3 + [(1, 2)] * 3 + [(2, 3)] * 3 + [(3, 4)] * 3
    # A stride of two would start at 0, 2 and 4: the last place is the last possible one, 3.
    assert windows(window_size=2, window_stride=2, window_every_updates=1)[:5] == [
        (0, 1), (2, 3), (3, 4), (0, 1), (2, 3),
    ]  # fmt: skip
    assert set(windows(window_size=5, window_every_updates=1)) == {(0, 1, 2, 3, 4)}
    assert set(windows()) == {(0, 1, 2, 3, 4)}


@given(steps=st.integers(2, 12), size=st.integers(1, 11), stride=st.integers(1, 12), every=st.integers(1, 4))
def test_a_window_holds_neighbours_leaves_the_last_step_alone_and_reaches_every_other(
    steps: int, size: int, stride: int, every: int
) -> None:
    size = min(size, steps - 1)
    config = RolloutConfig(
        steps=steps, window_size=size, window_stride=min(stride, size), window_every_updates=every
    )
    met = [config.steps_of(update) for update in range(every * len(config.windows))]
    for window in met:
        assert len(window) == size and window[-1] - window[0] == size - 1 and window[-1] < steps - 1
    assert set().union(*met) == set(range(steps - 1)), "a stride of at most the size leaves no step out"
    assert config.steps_of(every * len(config.windows)) == met[0]


def test_trained_steps_below_a_limit_are_counted_over_windows_and_choices() -> None:
    assert RolloutConfig().trained_below(None) == 5
    assert RolloutConfig().trained_below(2) == 2
    assert RolloutConfig(trained_steps_per_update=2).trained_below(1) == pytest.approx(2 / 5)
    # Windows (0, 1), (1, 2), (2, 3), (3, 4) hold 2, 1, 0 and 0 steps below 2.
    assert RolloutConfig(window_size=2).trained_below(2) == pytest.approx(3 / 4)


def test_dppo_with_one_optimizer_step_is_said_to_be_inert() -> None:
    (line,) = TrainConfig.explore(grpo=GrpoConfig(objective="dppo")).advice()
    assert "drops nothing with grpo.optimizer_steps_per_rollout=1" in line
    two = GrpoConfig(objective="dppo", optimizer_steps_per_rollout=2)
    assert TrainConfig.explore(grpo=two).advice() == ()


def test_settings_of_the_algorithm_that_is_not_taken_are_told() -> None:
    small = TrainConfig.explore(nft=NftConfig(beta=0.1))
    assert small.advice() == ("nft.* says nothing: algorithm is grpo",)
    assert TrainConfig.explore(algorithm="nft", nft=NftConfig(beta=0.1)).advice() == ()
    many = {"algorithm": "nft", "nft": {"times_per_sample": 9, "times": "uniform"}}
    assert from_mapping(TrainConfig, many).nft.times_per_sample == 9
    noisy = {"algorithm": "nft", "nft": {"noisy_rollout": True}, "rollout": {"window_size": 1}}
    assert from_mapping(TrainConfig, noisy).rollout.window_size == 1


def test_the_work_of_a_sample_follows_from_the_algorithm() -> None:
    assert vars(TrainConfig.explore().work_of_a_sample) == {
        "rollout": 6, "trained": 5, "old_policy": 0, "kl_reference": 0,
    }  # fmt: skip
    held = TrainConfig.explore(grpo=GrpoConfig(kl_weight=0.1, kl_steps=2))
    assert held.work_of_a_sample.kl_reference == 2
    assert vars(TrainConfig.explore(algorithm="nft").work_of_a_sample) == {
        "rollout": 6, "trained": 3, "old_policy": 3, "kl_reference": 3,
    }  # fmt: skip


def test_kl_steps_without_kl_are_warned_of() -> None:
    (line,) = TrainConfig.explore(grpo=GrpoConfig(kl_steps=2)).advice()
    assert line.startswith("grpo.kl_steps says nothing")
    assert TrainConfig.explore(grpo=GrpoConfig(kl_steps=2, kl_weight=0.1)).advice() == ()


def every_setting() -> Iterator[Any]:
    return list_settings(TrainConfig)


def test_every_setting_says_what_it_means_in_a_sentence() -> None:
    rows = list(every_setting())
    assert {"grpo.group_size", "reward.backbone.tau_s", "stage"} <= {row.name for row in rows}
    for row in rows:
        assert row.help.endswith("."), f"{row.name}: {row.help!r} is no sentence"
        assert row.type != "section of settings", row.name


def test_reading_settings_does_not_import_torch() -> None:
    code = "import sys, divrl_core.config; print(sorted(m for m in ('torch', 'yaml') if m in sys.modules))"
    root = Path(__file__).resolve().parents[1]
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
