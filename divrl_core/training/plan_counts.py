"""Counts that a run's settings fix: parameters, samples of a process, latents that are kept, bytes of the base."""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations
from pathlib import Path

import torch

from ..config import RolloutConfig, TrainConfig
from ..config_cfm import CfmConfig
from ..models.base_bytes import BaseBytes, base_bytes, file_bytes
from ..models.lora_numbers import lora_numbers as numbers_of
from ..models.traced_model import config_key, transformer_on_meta
from ..models.transformer_trace import TransformerTrace, trace_transformer
from .placement import units_of_process
from .plan_inputs import Workload
from .tensor_store import HELD_BYTES

FLOAT = 4
MOST_CHOICES = 12  # stochastic steps of which every choice is looked at


def lora_numbers(load: Workload) -> tuple[int, ...]:
    """Numbers of lora_A and lora_B of each layer in turn. Raises ValueError when lora.targets match no layer."""
    lora = load.config.lora
    return numbers_of(config_key(load.pipeline.parts["transformer"]), lora.targets, lora.rank)


def base_of(load: Workload) -> BaseBytes:
    """Bytes of the frozen transformer as the settings hold it, whole. Raises FileNotFoundError for a missing file."""
    model = load.config.model
    key = config_key(load.pipeline.parts["transformer"])
    base = _base_bytes(key, load.dtype, model.quantization)
    if model.offload_blocks > len(base.blocks):
        raise ValueError(
            f"model.offload_blocks={model.offload_blocks}: this transformer has {len(base.blocks)} blocks; "
            f"set it to at most {len(base.blocks)}"
        )
    file = model.transformer_file
    return file_bytes(Path(file).expanduser(), base) if file and file.lower().endswith(".gguf") else base


def trace_of(load: Workload, batch: int, *, is_quick: bool = False) -> TransformerTrace:
    """Activations and working memory for a batch; quick: on the line through batches of 1 and 2."""
    if not is_quick:
        return trace_transformer(load.trace_request(batch))
    one, two = (vars(trace_transformer(load.trace_request(few))) for few in (1, 2))
    return TransformerTrace(**{name: one[name] + (batch - 1) * (two[name] - one[name]) for name in one})


def trajectories(load: Workload) -> int:
    """Bytes of one process's samples of an update, at most: the latents around trained steps, log-probs, clean latents.

    A latent between two trained steps is held once. An objective that compares means adds one of each trained step.
    """
    assert isinstance(load.config, TrainConfig)
    if load.config.algorithm == "nft":
        return clean_latents(load)
    rollout = load.config.rollout
    latents = most_latents(rollout) * load.latent_numbers * load.dtype.itemsize
    means = rollout.trained_steps if load.config.grpo.compares_means else 0
    each = latents + rollout.trained_steps * FLOAT + means * load.latent_numbers * FLOAT
    return samples_of_process(load) * each + clean_latents(load)


def clean_latents(load: Workload) -> int:
    """Bytes of one process's clean latents of an update: all that DiffusionNFT remembers of a rollout."""
    return samples_of_process(load) * load.latent_numbers * FLOAT


def most_latents(rollout: RolloutConfig) -> int:
    """Latents that a sample keeps, at most, whichever of the stochastic steps are trained."""
    steps = sorted(rollout.steps_of(0))  # wherever a window is, it keeps as many
    if rollout.trained_steps == len(steps):
        return len({*steps, *(step + 1 for step in steps)})
    if len(steps) > MOST_CHOICES:  # as if no two were neighbours
        return min(2 * rollout.trained_steps, len({*steps, *(step + 1 for step in steps)}))
    chosen = combinations(steps, rollout.trained_steps)
    return max(len({*some, *(step + 1 for step in some)}) for some in chosen)


def samples_of_process(load: Workload) -> int:
    """Samples of an update that the fullest process makes."""
    return max(map(sum, unit_sizes(load)))


def unit_sizes(load: Workload) -> tuple[tuple[int, ...], ...]:
    """For each process the sizes of the forwards that it makes of an update (explore, suppress)."""
    assert isinstance(load.config, TrainConfig)
    grpo = load.config.grpo
    return tuple(
        tuple(
            len(unit.samples)
            for unit in units_of_process(
                index,
                load.processes,
                groups=grpo.groups_per_update,
                group_size=grpo.group_size,
                micro_batch=grpo.micro_batch,
                shares=grpo.optimizer_steps_per_rollout,
                whole_groups=load.config.reward.function_takes == "group",
                in_lockstep=load.is_sharded,
            )
        )
        for index in range(load.processes)
    )


def caches(load: Workload) -> tuple[int, str]:
    """Bytes of encoded prompts and references held in memory at most, and in words of how many."""
    transformer = load.pipeline.parts["transformer"]
    numbers = load.text_tokens * int(transformer.get("joint_attention_dim", 4096))
    prompt = (numbers + int(transformer.get("pooled_projection_dim", 768))) * load.dtype.itemsize
    picture = load.latent_numbers * load.dtype.itemsize
    if load.prompts is None or load.references is None:
        return (
            HELD_BYTES,
            f"at most; {prompt / 1e6:.2f} MB a prompt, {picture / 1e6:.2f} MB a picture, the rest on disk",
        )
    pictures = load.references * (2 if isinstance(load.config, CfmConfig) else 1)
    whole = load.prompts * prompt + pictures * picture
    words = f"{load.prompts} prompts, {pictures} pictures"
    return min(HELD_BYTES, whole), words if whole <= HELD_BYTES else f"{words}: what is beyond lies on disk"


@lru_cache(maxsize=32)
def _base_bytes(config: str, dtype: torch.dtype, quantization: str) -> BaseBytes:
    return base_bytes(transformer_on_meta(config, dtype), dtype, quantization)
