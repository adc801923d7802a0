"""The parts of a run's memory: what each takes, and in which phases it is there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from ..config import TrainConfig
from ..config_cfm import CfmConfig
from ..models.base_bytes import BaseBytes
from ..models.encoder_trace import reward_size, text_encoder_size, vae_size
from ..models.transformer_trace import TransformerTrace
from .cards import GIB
from .optimizer_bytes import optimizer_bytes
from .plan_counts import FLOAT, base_of, caches, lora_numbers, samples_of_process, trace_of, trajectories
from .plan_inputs import Workload

Phase = Literal["encode", "sample", "train", "evaluate"]
Place = Literal["device", "host"]
NamedPart = tuple[str, Mapping[Phase, int], str]
KEPT_REFERENCES = 512  # whose features a rewarder keeps
VAE_BATCH = 8  # pictures that the VAE takes at once, at most
GATHERED_BLOCKS = 2  # FSDP2 gathers a block while it computes another


def device_parts(load: Workload, *, is_quick: bool) -> Iterator[NamedPart]:
    """What lies on the training device."""
    config = load.config
    model, optim = config.model, config.optim
    resident = _resident(load)
    lora, base = lora_numbers(load), base_of(load)
    parameters = sum(lora)
    held, note = _held_base(load, base)
    yield "base", _in(resident, held), note
    if load.is_sharded:
        gathered = base.root + sum(sorted(base.blocks)[-GATHERED_BLOCKS:])
        words = f"{GATHERED_BLOCKS} blocks, and what is outside of them"
        yield "gathered weights", _in(resident, gathered), words
    if model.offload_blocks:
        visiting = max(base.blocks[len(base.blocks) - model.offload_blocks :], default=0)
        yield "visiting block", _in(resident, visiting), f"{model.offload_blocks} blocks live on the host"
    layers = len(lora) // 2
    yield "LoRA", _in(resident, FLOAT * parameters), f"{layers} layers, rank {config.lora.rank}, float32"
    for name, words in _copies(load).items():
        yield name, _in(resident, FLOAT * parameters), words
    yield "gradients", {"train": FLOAT * parameters}, "float32"
    if not optim.offload:
        yield "optimizer", _in(resident, _moments(load, lora)), optim.name
    if load.is_cfm:
        yield "average (EMA)", _in(resident, FLOAT * parameters), "float32"

    trace = trace_of(load, load.micro_batch, is_quick=is_quick)
    kept, words = (
        (trace.checkpointed, "checkpointed") if model.gradient_checkpointing else (trace.saved, "all kept")
    )
    yield "activations", {"train": kept}, f"{load.micro_batch} samples, {words}"
    if model.gradient_checkpointing and load.device == "cuda":
        beside = trace.saved - trace.checkpointed if model.quantization == "int8" else 0
        beside += int(load.micro_batch * BESIDE_AUTOGRAD.get(model.quantization, 0.0) * GIB)
        yield (
            "kept by packed layers",
            {"train": beside},
            f"{model.quantization}: checkpointing does not free it",
        )
    if any(base.unpacked):
        unpacked = max(base.unpacked) if model.gradient_checkpointing else sum(base.unpacked)
        yield "unpacked weights", {"train": unpacked}, f"autograd keeps them ({model.quantization})"
    yield "working memory", _working(load, trace, base, is_quick=is_quick), "the most that lives for a moment"

    text = text_encoder_size(load.pipeline, load.dtype, load.text_tokens)
    yield "text encoders", {"encode": text.weights}, "freed afterwards"
    vae = vae_size(load.pipeline, load.dtype, batch=1, size_px=load.size_px, is_decoding=False)
    yield "VAE", _in(("encode", *(resident if not load.is_cfm else ("evaluate",))), vae.weights), ""
    if isinstance(config, TrainConfig) and not _reward_is_elsewhere(config):
        backbone, reference = reward_size(config.reward, batch=load.micro_batch, size_px=load.size_px)
        kept_references = min(KEPT_REFERENCES, load.references or KEPT_REFERENCES)
        features = kept_references * reference
        further = (config.reward.second_backbone.name, config.reward.held_out_backbone.name)
        names = ", ".join(filter(None, (config.reward.backbone.name, *further)))
        yield "reward backbone", _in(("encode", *resident), backbone.weights), names
        yield (
            "reference features",
            _in(("encode", *resident), features),
            f"{kept_references} references at most",
        )


BESIDE_AUTOGRAD = {"nf4": 0.8, "torchao_int8": 0.65}
"""GiB a sample that packed layers held in training beyond the trace, FLUX at 512 px, micro-batch 3, on one H200
(docs/full-size.md). That it grows with the batch is an assumption. int8 keeps its inputs where checkpointing does not
see them: there everything is counted as without checkpointing, which was more than was measured."""


def host_parts(load: Workload) -> Iterator[NamedPart]:
    """What lies in host memory."""
    config, lora, base = load.config, lora_numbers(load), base_of(load)
    parameters = sum(lora)
    resident = _resident(load)
    if config.model.offload_blocks:
        at_home = sum(base.blocks[len(base.blocks) - config.model.offload_blocks :])
        yield "offloaded blocks", _in(resident, at_home), f"{config.model.offload_blocks} blocks"
    if config.optim.offload:
        moments = _moments(load, lora) + FLOAT * parameters
        yield "optimizer", _in(resident, moments), f"{config.optim.name}, with the weights it steps"
        yield "gradients", {"train": FLOAT * parameters}, "while it steps"
    if not load.is_cfm:
        yield "average (EMA)", _in(resident, FLOAT * parameters), "float32"
    if isinstance(config, TrainConfig):
        of_what = (
            "clean latents alone"
            if config.algorithm == "nft"
            else f"{config.rollout.trained_steps} trained steps"
        )
        yield (
            "trajectories",
            {"sample": trajectories(load), "train": trajectories(load)},
            f"{samples_of_process(load)} samples of {of_what}",
        )
        if (config.reward.device or "").startswith("cpu"):
            backbone, reference = reward_size(config.reward, batch=load.micro_batch, size_px=load.size_px)
            there = backbone.weights + backbone.working + KEPT_REFERENCES * reference
            yield "reward backbone", _in(("encode", *resident), there), "reward.device=cpu"
    cached, words = caches(load)
    yield "caches", _in(("encode", *resident), cached), words
    saving = (2 + len(_copies(load))) * FLOAT * parameters + _moments(load, lora)
    yield "checkpoint", {"evaluate": saving}, "while it is written"


def _copies(load: Workload) -> dict[str, str]:
    """The LoRAs that stand beside the trained one, with what they are."""
    config = load.config
    if not isinstance(config, TrainConfig):
        return {}
    kl = {"LoRA of the KL term": "frozen copy of the start"} if config.holds_on_to_start else {}
    old = {"LoRA of the old policy": "draws the samples, follows the trained one"}
    return {**kl, **old} if config.has_old_policy else kl


def _resident(load: Workload) -> tuple[Phase, ...]:
    """The phases in which the transformer is there."""
    return ("train", "evaluate") if load.is_cfm else ("sample", "train", "evaluate")


def _in(phases: Sequence[Phase], size: int) -> dict[Phase, int]:
    return dict.fromkeys(phases, size)


def _held_base(load: Workload, base: BaseBytes) -> tuple[int, str]:
    """The part of the base that lies on the device, and how it is held."""
    model = load.config.model
    kind = model.dtype if model.quantization == "none" else f"{model.quantization}, the rest {model.dtype}"
    if (model.transformer_file or "").endswith(".gguf"):
        kind = f"the .gguf file, the rest {model.dtype}"
    blocks = base.blocks[: len(base.blocks) - model.offload_blocks]
    whole = base.root + sum(blocks)
    if not load.is_sharded:
        return whole, kind
    return -(-whole // load.processes), f"1/{load.processes} of it; {kind}"


def _moments(load: Workload, lora: Sequence[int]) -> int:
    is_fresh = load.config.run.init_lora is None
    return optimizer_bytes(load.config.optim.name, lora, is_fresh=is_fresh)


def _working(load: Workload, trace: TransformerTrace, base: BaseBytes, *, is_quick: bool) -> dict[Phase, int]:
    """The most that lives for a moment in each phase, beside what is kept."""
    config, model = load.config, load.config.model
    text = text_encoder_size(load.pipeline, load.dtype, load.text_tokens)
    encoding = vae_size(
        load.pipeline, load.dtype, batch=1, size_px=load.size_px, is_decoding=False, device=load.device
    )
    training = trace.working_checkpointed if model.gradient_checkpointing else trace.working
    if isinstance(config, TrainConfig) and (config.kl_weight > 0 or config.has_old_policy):
        training = max(training, trace.sampling)
    working: dict[Phase, int] = {"encode": max(text.working, encoding.working)}
    working["train"] = training + base.largest_unpacked
    pictures = min(VAE_BATCH, load.micro_batch)
    if isinstance(config, CfmConfig):
        checked = trace_of(load, len(config.run.validation_times), is_quick=is_quick)
        sampling, pictures = checked.sampling, 1
    else:
        sampling = trace.sampling
    decoding = vae_size(
        load.pipeline, load.dtype, batch=pictures, size_px=load.size_px, is_decoding=True,
        is_tiled=model.vae_tiling, device=load.device,
    )  # fmt: skip
    working["evaluate"] = max(sampling + base.largest_unpacked, decoding.working)
    if isinstance(config, TrainConfig):
        working["sample"] = working["evaluate"]
        if not _reward_is_elsewhere(config):
            backbone, _ = reward_size(config.reward, batch=load.micro_batch, size_px=load.size_px)
            working["encode"] = max(working["encode"], backbone.working)
            working["sample"] = working["evaluate"] = max(working["sample"], backbone.working)
    return working


def _reward_is_elsewhere(config: TrainConfig) -> bool:
    return config.reward.device is not None
