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

from divrl_core.config import GrpoConfig, RolloutConfig, RunConfig, TrainConfig
from divrl_core.settings import apply_overrides, from_mapping, list_settings, merge, to_mapping


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
