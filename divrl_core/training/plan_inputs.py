"""What a run's settings and its model's configuration say together: sizes, tokens, batches. Nothing is counted here."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..config import TrainConfig
from ..config_cfm import CfmConfig
from ..models.attention import kernel_name
from ..models.encoder_trace import VaeShape, vae_shape
from ..models.layout import NO_REFERENCE
from ..models.pipeline_config import PipelineConfig
from ..models.planned_kernels import DeviceKind
from ..models.traced_model import TraceRequest, config_key

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PlannedConfig = TrainConfig | CfmConfig


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A run as the planner sees it."""

    config: PlannedConfig
    pipeline: PipelineConfig
    device: DeviceKind = "cuda"
    processes: int = 1
    is_sharded: bool = False
    """FSDP2: each process holds its share of the base."""
    prompts: int | None = None
    """How many different prompts are encoded; None: not known yet."""
    references: int | None = None
    traced_rank: int | None = None
    """Activations are traced with this rank of the LoRA, for a search over smaller ones; None: the run's own."""

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and latents."""
        return DTYPES[self.config.model.dtype]

    @property
    def is_cfm(self) -> bool:
        """Whether it is supervised training of pairs."""
        return isinstance(self.config, CfmConfig)

    @property
    def size_px(self) -> int:
        """Side of the pictures."""
        return self.config.model.image_size_px or self.pipeline.image_size_px

    @property
    def text_tokens(self) -> int:
        """T5 tokens of a prompt."""
        return self.config.model.max_text_tokens or self.pipeline.text_tokens

    @property
    def vae(self) -> VaeShape:
        """How pictures become tokens."""
        return vae_shape(self.pipeline)

    @property
    def target_tokens(self) -> int:
        """Tokens of the picture that is made."""
        return self.vae.tokens(self.size_px)

    @property
    def latent_numbers(self) -> int:
        """Numbers in one picture's latent."""
        return self.target_tokens * self.vae.token_width

    @property
    def image_tokens(self) -> int:
        """Tokens of target and reference, which are of one size."""
        layout = self.config.model.layout or self.pipeline.layout
        return self.target_tokens * (1 if layout == NO_REFERENCE else 2)

    @property
    def micro_batch(self) -> int:
        """Samples in one forward of training: the largest part that a group is cut into, or the pairs of a batch."""
        if isinstance(self.config, CfmConfig):
            return self.config.objective.batch_size
        grpo = self.config.grpo
        parts = -(-grpo.group_size // grpo.micro_batch)
        return -(-grpo.group_size // parts)

    def trace_request(self, batch: int) -> TraceRequest:
        """The transformer with the run's LoRA and a batch of so many samples."""
        config = self.config
        return TraceRequest(
            config=config_key(self.pipeline.parts["transformer"]),
            dtype=self.dtype,
            lora_rank=self.traced_rank or config.lora.rank,
            lora_targets=config.lora.targets,
            batch=batch,
            image_tokens=self.image_tokens,
            text_tokens=self.text_tokens,
            target_tokens=None if self.is_cfm else self.target_tokens,
            autocast=config.run.mixed_precision == "bf16",
            device=self.device,
            attention=kernel_name(None, self.device, self.dtype),
            keeps_inputs=config.model.quantization == "int8",
        )
