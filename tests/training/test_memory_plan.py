"""The planned memory of a run against the real objects of one: persistent tensors to the byte."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from divrl_core.config import GrpoConfig, NftConfig, TrainConfig, from_mapping
from divrl_core.config_cfm import CfmConfig
from divrl_core.config_rollout import ALL_BUT_THE_LAST
from divrl_core.models.features.base import load_backbone
from divrl_core.models.flux import FluxAdapter
from divrl_core.models.lora import OLD, lora_parameters
from divrl_core.models.pipeline_config import pipeline_config
from divrl_core.models.text import TextEncoders
from divrl_core.rl.ema import ema_start
from divrl_core.training.algorithms import ALGORITHMS
from divrl_core.training.cards import card_of
from divrl_core.training.encoded_pairs import EncodedPairs
from divrl_core.training.memory_plan import MemoryPlan, plan_memory
from divrl_core.training.optimizer import make_optimizer
from divrl_core.training.optimizer_bytes import optimizer_bytes
from divrl_core.training.placement import units_of_process
from divrl_core.training.plan_changes import changed, changes, largest_batch
from divrl_core.training.plan_counts import caches, lora_numbers, trajectories
from divrl_core.training.plan_inputs import PlannedConfig, Workload
from divrl_core.training.rollout import roll_out
from divrl_core.training.run_plan import plan_run
from divrl_core.training.start import make_policy, open_adapter

from .nft_runs import nft_config
from .tiny_run import tiny_config, toy_data

CPU = torch.device("cpu")
KONTEXT = "black-forest-labs/FLUX.1-Kontext-dev"


def load_of(config: PlannedConfig, **changed: Any) -> Workload:
    return Workload(config=config, pipeline=pipeline_config(config.model.path), device="cpu", **changed)


def part(memory: MemoryPlan, name: str, phase: str, place: str = "device") -> int:
    return sum(row.bytes.get(phase, 0) for row in memory.rows if (row.name, row.place) == (name, place))  # type: ignore[call-overload]


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of unique storages."""
    found = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(found.values())


def module_bytes(module: nn.Module) -> int:
    return bytes_of([*module.parameters(), *module.buffers()])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("make_config", [tiny_config, nft_config])
def test_persistent_parts_are_those_of_a_real_run_to_the_byte(
    tiny_pipeline: Path, dtype: str, make_config: Callable[..., TrainConfig]
) -> None:
    config = make_config(tiny_pipeline, model={"dtype": dtype})
    memory = plan_memory(load_of(config))
    adapter = open_adapter(config, CPU)
    policy = make_policy(config, adapter, Accelerator(), None)
    parameters = policy.parameters
    old = []
    if config.algorithm == "nft":
        old = list(lora_parameters(adapter.transformer, adapter=OLD).values())
    beside = {id(tensor) for tensor in [*parameters.values(), *old]}
    frozen = [tensor for tensor in adapter.transformer.parameters() if id(tensor) not in beside]
    assert not any(tensor.requires_grad for tensor in [*frozen, *old])
    assert part(memory, "base", "train") == bytes_of(frozen)
    assert part(memory, "LoRA", "train") == bytes_of(parameters.values())
    for phase in ("sample", "train", "evaluate"):
        assert part(memory, "LoRA of the old policy", phase) == bytes_of(old)

    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    assert part(memory, "gradients", "train") == bytes_of(parameter.grad for parameter in parameters.values())  # type: ignore[misc]
    optimizer = make_optimizer(config.optim, list(parameters.values()))
    optimizer.step()
    assert part(memory, "optimizer", "train") == state_bytes(optimizer)
    average = ema_start(parameters)
    assert part(memory, "average (EMA)", "train", "host") == bytes_of(average.values())
    assert part(memory, "VAE", "sample") == module_bytes(adapter.vae)


@pytest.mark.parametrize("name", ["adamw", "adamw8bit", "prodigy"])
def test_each_optimizer_holds_what_is_planned(tiny_pipeline: Path, name: str) -> None:
    config = tiny_config(
        tiny_pipeline, optim={"name": name}, lora={"rank": 40}
    )  # some of them large enough for 8 bits
    policy = make_policy(config, open_adapter(config, CPU), Accelerator(), None)
    numbers = [parameter.numel() for parameter in policy.parameters.values()]
    assert tuple(numbers) == lora_numbers(load_of(config))
    for parameter in policy.parameters.values():
        parameter.grad = torch.full_like(parameter, 1e-3)
    optimizer = make_optimizer(config.optim, list(policy.parameters.values()))
    optimizer.step()
    assert optimizer_bytes(name, numbers) == state_bytes(optimizer)


def test_text_encoders_and_backbone_are_counted_to_the_byte(tiny_pipeline: Path) -> None:
    adapter = FluxAdapter.load(str(tiny_pipeline), dtype="bfloat16")
    text: TextEncoders = adapter._text
    adapter.encode_text(["a toy fox"])
    for name in ("lite0", "pocket"):
        config = tiny_config(tiny_pipeline, model={"dtype": "bfloat16"})
        config = replace(
            config, reward=replace(config.reward, backbone=replace(config.reward.backbone, name=name))
        )
        memory = plan_memory(load_of(config))
        backbone = load_backbone(config.reward.backbone)
        assert part(memory, "reward backbone", "train") == module_bytes(backbone.module)  # type: ignore[attr-defined]
        assert part(memory, "text encoders", "encode") == module_bytes(nn.ModuleList([text._clip, text._t5]))


@pytest.mark.parametrize(
    ("rollout", "objective"),
    [
        ({"stochastic_steps": (0, 1, 2)}, "clip"),
        ({"stochastic_steps": (0, 1, 2), "trained_steps_per_update": 1}, "clip"),
        ({"stochastic_steps": ALL_BUT_THE_LAST, "window_size": 2}, "clip"),
        ({"stochastic_steps": (0, 1, 2), "trained_steps_per_update": 1}, "dppo"),
    ],
    ids=str,
)
def test_trajectories_are_those_of_a_real_rollout_to_the_byte(
    tiny_pipeline: Path, rollout: dict[str, Any], objective: str
) -> None:
    config = tiny_config(
        tiny_pipeline,
        model={"dtype": "bfloat16"},
        rollout={"steps": 4, **rollout},
        grpo={"objective": objective},
    )
    assert trajectories(load_of(config)) == bytes_of(remembered(config))


def test_of_nft_clean_latents_alone_are_remembered(tiny_pipeline: Path) -> None:
    config = nft_config(tiny_pipeline, model={"dtype": "bfloat16"}, rollout={"steps": 4})
    held = remembered(config)
    assert all(tensor.dtype == torch.float32 for tensor in held)
    assert trajectories(load_of(config)) == bytes_of(held)
    rows = {row.name: row.note for row in plan_memory(load_of(config)).rows}
    assert rows["trajectories"] == "12 samples of clean latents alone"


def remembered(config: TrainConfig) -> list[Tensor]:
    """What an update's rollout leaves in host memory."""
    adapter = open_adapter(config, CPU)
    policy = make_policy(config, adapter, Accelerator(), None)
    encoded, data = EncodedPairs(adapter, policy.size_px), toy_data()
    encoded.encode(data.train, data.train.pairs, is_quiet=True)
    plan = ALGORITHMS[config.algorithm].plan(config, policy.times(config.rollout.steps), 0)
    grpo, held = config.grpo, []
    for unit in units_of_process(
        0, 1, groups=grpo.groups_per_update, group_size=grpo.group_size, micro_batch=grpo.micro_batch
    ):
        pair = data.train.pairs[unit.group]
        given = encoded.conditioning([pair]).repeat(len(unit.samples))
        batch = roll_out(policy, plan, given, pair, unit, seed=0, update=0).on_host()
        held.append(batch.tokens)
        for step in batch.steps:
            held += [step.x_t, step.x_next, step.log_prob, *([] if step.mean is None else [step.mean])]
    return held


def test_caches_are_those_of_the_encoded_pairs_to_the_byte(tiny_pipeline: Path) -> None:
    config = tiny_config(tiny_pipeline, model={"dtype": "bfloat16"})
    adapter, data = open_adapter(config, CPU), toy_data()
    encoded = EncodedPairs(adapter, config.model.image_size_px or 0)
    encoded.encode(data.train, data.train.pairs, is_quiet=True)
    held = [tensor for entry in encoded._store._held.values() for tensor in entry.values()]
    pairs = data.train.pairs
    counts = {"prompts": len({p.prompt for p in pairs}), "references": len({p.reference_id for p in pairs})}
    assert caches(load_of(config, **counts))[0] == bytes_of(held)
    assert caches(load_of(config))[0] == 512 * 2**20  # not known: what may be held at most


def test_activations_follow_checkpointing_and_the_micro_batch(tiny_pipeline: Path) -> None:
    def activations(**changed: Any) -> int:
        config = tiny_config(tiny_pipeline, grpo={"micro_batch": changed.pop("batch", 3)}, model=changed)
        return part(plan_memory(load_of(config)), "activations", "train")

    assert activations(gradient_checkpointing=True) < activations(gradient_checkpointing=False)
    assert activations(batch=6) == pytest.approx(2 * activations(batch=3), rel=0.05)
    assert activations(batch=5) == activations(batch=3)  # groups of 6 are cut into 3 and 3


def test_offloaded_parts_move_to_the_host(tiny_pipeline: Path) -> None:
    here = plan_memory(load_of(tiny_config(tiny_pipeline)))
    config = tiny_config(
        tiny_pipeline, model={"offload_blocks": 1, "gradient_checkpointing": True}, optim={"offload": True}
    )
    away = plan_memory(load_of(config))
    moved = part(away, "offloaded blocks", "train", "host")
    assert moved > 0
    assert part(away, "base", "train") == part(here, "base", "train") - moved
    assert part(away, "visiting block", "train") == moved
    assert part(away, "optimizer", "train") == 0
    weights = part(here, "LoRA", "train")
    assert part(away, "optimizer", "train", "host") == part(here, "optimizer", "train") + weights
    with pytest.raises(ValueError, match="this transformer has 2 blocks"):
        plan_memory(load_of(changed_model(config, offload_blocks=3)))


def changed_model(config: TrainConfig, **fields: Any) -> TrainConfig:
    return replace(config, model=replace(config.model, **fields))


def full(**sections: dict[str, Any]) -> Workload:
    model = {"path": KONTEXT, "dtype": "bfloat16"} | sections.pop("model", {})
    config = from_mapping(TrainConfig, {"model": model, **sections})
    return Workload(config=config, pipeline=pipeline_config(KONTEXT))


def test_a_sharded_base_takes_its_share_and_the_samples_are_spread() -> None:
    one = full()
    eight = replace(one, processes=8)
    assert part(plan_memory(eight), "base", "train") == part(plan_memory(one), "base", "train")
    assert trajectories(eight) * 8 == trajectories(one)
    sharded = plan_memory(replace(eight, is_sharded=True))
    assert part(sharded, "base", "train") == -(-part(plan_memory(one), "base", "train") // 8)
    assert (
        part(sharded, "gathered weights", "train") > 0 == part(plan_memory(one), "gathered weights", "train")
    )
    assert trajectories(replace(one, processes=5)) * 5 > trajectories(one)  # 16 groups do not divide by 5


def test_each_change_that_is_told_fits_when_it_is_planned_whole() -> None:
    load, card = full(), card_of("24GB")
    assert not card.fits(plan_memory(load).peak)
    found = changes(load, card)
    assert {"model.quantization", "model.offload_blocks"} <= {name for one in found for name in one.settings}
    for change in found:
        whole = plan_memory(replace(changed(load, change.settings), traced_rank=None))
        assert change.fits
        assert card.fits(whole.peak), change.words
        assert whole.peak == pytest.approx(change.peak, rel=0.02)


def test_the_fewest_blocks_are_offloaded_and_the_largest_batch_is_found() -> None:
    load, card = full(), card_of("24GB")
    blocks = next(
        change.settings["model.offload_blocks"]
        for change in changes(load, card)
        if "model.offload_blocks" in change.settings
    )
    assert not card.fits(plan_memory(changed(load, {"model.offload_blocks": blocks - 1})).peak)
    wide = full(grpo={"group_size": 63})
    most = largest_batch(wide, card_of("48GB"))
    assert most is not None
    sizes = {count: GrpoConfig(group_size=63, micro_batch=count) for count in (most, most + 1)}
    assert [card_of("48GB").fits(peak_of(wide, grpo)) for grpo in sizes.values()] == [True, False]


def peak_of(load: Workload, grpo: GrpoConfig) -> int:
    assert isinstance(load.config, TrainConfig)
    return plan_memory(replace(load, config=replace(load.config, grpo=grpo))).peak


def test_several_changes_are_told_together_where_none_suffices_alone() -> None:
    load, card = (
        full(model={"dtype": "float32"}, optim={"name": "prodigy"}, lora={"rank": 256}),
        card_of("16GB"),
    )
    (together,) = changes(load, card)
    assert together.fits
    assert len(together.settings) > 1
    assert card.fits(plan_memory(replace(changed(load, together.settings), traced_rank=None)).peak)
    assert changes(load, card_of("4GB")) == ()


def test_cfm_keeps_its_average_on_the_device_and_frees_the_vae() -> None:
    config = from_mapping(CfmConfig, {"model": {"path": "pocket-text-to-image"}, "lora": {"rank": 4}})
    memory = plan_memory(load_of(config))
    assert memory.phases == ("encode", "train", "evaluate")
    assert part(memory, "average (EMA)", "train") == part(memory, "LoRA", "train") > 0
    assert part(memory, "VAE", "train") == 0 < part(memory, "VAE", "evaluate")


def test_time_is_work_at_the_rate_that_is_stated() -> None:
    config = full().config
    planned = plan_run(config, rate_tflops=100.0, pipeline=pipeline_config(KONTEXT))
    assert planned.cost.update_seconds == pytest.approx(planned.cost.update_tflop / 100)
    names = {row.name: row.unit_tflop for row in planned.cost.rows}
    assert names["recomputation"] == pytest.approx(names["rollout"] * 5 / 6)
    assert planned.fits is None
    assert planned.fitting_sizes == ("48gb", "80gb")
    with_kl = plan_run(
        from_mapping(
            TrainConfig, {"model": {"path": KONTEXT, "dtype": "bfloat16"}, "grpo": {"kl_weight": 0.1}}
        ),
        card=card_of("8x80GB"),
    )
    assert [row.name for row in with_kl.cost.rows][-1] == "KL reference"
    assert with_kl.load.processes == 8


def test_nft_is_planned_with_its_old_policy_and_its_forwards() -> None:
    grpo, nft = full(), full(algorithm="nft", nft={"times_per_sample": 2})
    planned = {
        load.config.algorithm: plan_run(load.config, rate_tflops=100.0, pipeline=load.pipeline)  # type: ignore[union-attr]
        for load in (grpo, nft)
    }
    work = {row.name: row.unit_tflop for row in planned["nft"].cost.rows}
    assert list(work) == [
        "rollout",
        "decoding and reward",
        "training",
        "recomputation",
        "old policy",
        "KL reference",
    ]
    assert work["recomputation"] == work["old policy"] == work["KL reference"]
    assert work["old policy"] == pytest.approx(work["rollout"] * 2 / 6)
    trained = {row.name: row.unit_tflop for row in planned["grpo"].cost.rows}
    assert work["training"] == pytest.approx(trained["training"] * 2 / 5)
    without_kl = replace(nft.config, nft=NftConfig(kl_weight=0.0))
    names = [row.name for row in plan_run(without_kl, rate_tflops=100.0, pipeline=nft.pipeline).cost.rows]
    assert names[-1] == "old policy"
    memory = planned["nft"].memory
    assert part(memory, "LoRA of the old policy", "train") == part(memory, "LoRA", "train") > 0
    assert part(memory, "LoRA of the KL term", "train") == 0, "KL holds on to the base"
    assert trajectories(nft) < trajectories(grpo)


def test_kl_at_early_steps_alone_costs_a_reference_there_alone() -> None:
    def kl_work(**grpo: Any) -> float:
        plan = plan_run(
            full(grpo={"kl_weight": 0.1, **grpo}).config,
            rate_tflops=1.0,
            pipeline=pipeline_config(KONTEXT),
        )
        return next(row.unit_tflop for row in plan.cost.rows if row.name == "KL reference")

    assert kl_work(kl_steps=2) == pytest.approx(kl_work() * 2 / 5)


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    values = [value for state in optimizer.state.values() for value in state.values()]
    return bytes_of(value for value in values if isinstance(value, Tensor))
