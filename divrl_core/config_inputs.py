"""The settings of what a run is given: the pipeline, its adapter and the references.

Imported through `config.py`, which gathers them.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from .settings import Settings, setting

LORA_TARGETS = ("attention", "attention+ffn", "attention+ffn+modulation")


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Settings):
    """Which pipeline is trained, how it takes its reference, and at what size and precision."""

    section: ClassVar[str] = "model"

    path: str = setting(
        "pocket",
        "A folder or hub id of a FLUX.1-Kontext or FLUX.1-dev pipeline, or pocket or pocket-text-to-image.",
    )
    revision: str | None = setting(None, "The hub revision; null = the newest.")
    layout: Literal["kontext", "width", "diagonal", "none"] | None = setting(
        None,
        "Where the reference's tokens lie: kontext (index 1), width (beside the target, as masked CFM trains it), "
        "diagonal (UNO), none (left out); null = the pipeline's: kontext, or width for a text-to-image one.",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = setting(
        "float32", "Storage of weights and latents; float16 cannot be trained (no loss scaling)."
    )
    guidance_scale: float = setting(2.5, "The embedded guidance, in training and sampling alike.", at_least=0)
    image_size_px: int | None = setting(
        None,
        "Side of the square pictures; null = the model's own (pocket 128, full Kontext 512).",
        unit="px",
        at_least=16,
    )
    max_text_tokens: int | None = setting(
        None,
        "T5 tokens a prompt may use; null = the pocket's tokenizer's, else 128.",
        unit="tokens",
        at_least=1,
    )
    gradient_checkpointing: bool = setting(
        True, "Recompute activations in the backward pass: less memory, more time."
    )
    transformer_file: str | None = setting(
        None,
        "One file with the transformer's weights (.safetensors, in fp8 too, or .gguf), in place of the pipeline's own.",
    )
    quantization: Literal["none", "fp8", "int8", "nf4", "torchao_int8"] = setting(
        "none",
        "How the frozen base is held: none (in model.dtype), fp8 (8 bits, computed in model.dtype), int8 or nf4 "
        "(bitsandbytes), torchao_int8 (torchao).",
    )
    offload_blocks: int = setting(
        0,
        "So many of the transformer's blocks keep their weights in host memory and visit the device to be used.",
        unit="blocks",
        at_least=0,
    )
    vae_tiling: bool = setting(False, "Encode and decode pictures tile by tile: less memory at large sizes.")
    compile: bool = setting(
        False,
        "torch.compile the blocks: faster on a GPU after minutes of compiling; the ratio is near 1, not exact.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size_px is not None and self.image_size_px % 16:
            raise ValueError(f"model.image_size_px must be a multiple of 16, got {self.image_size_px}")
        if self.offload_blocks and self.quantization != "none":
            raise ValueError(
                f"model.offload_blocks={self.offload_blocks} needs a base that is not quantised, got "
                f"model.quantization={self.quantization}; take one of the two (a quantised base is small already)"
            )
        if self.offload_blocks and self.compile:
            raise ValueError("model.offload_blocks and model.compile exclude each other: take one of the two")
        if self.quantization != "none" and self.dtype == "float16":
            raise ValueError(
                f"model.quantization={self.quantization} needs model.dtype=bfloat16 or float32, got float16"
            )
        if (self.transformer_file or "").lower().endswith(".gguf") and self.quantization != "none":
            raise ValueError(
                f"model.quantization={self.quantization} says nothing of a .gguf file, which is quantised already; "
                "take model.quantization=none"
            )

    @property
    def is_of_the_hub(self) -> bool:
        """Whether the path has the form owner/name, as repositories on the hub have; no file is looked at."""
        return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", self.path) is not None and self.path[:5] != "runs/"


@dataclass(frozen=True, kw_only=True)
class LoraConfig(Settings):
    """The trained low-rank adapter."""

    section: ClassVar[str] = "lora"

    rank: int = setting(64, "Rank of each adapter pair.", at_least=1)
    alpha: float | None = setting(
        None, "The adapter is scaled by alpha / rank; null = twice the rank (in cfm: the rank).", above=0
    )
    targets: str = setting(
        "attention+ffn",
        "Which linear layers of the blocks carry an adapter: attention, attention+ffn, attention+ffn+modulation, or a "
        "regular expression that matches whole module names.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.targets in LORA_TARGETS:
            return
        problem = f"lora.targets must be one of {', '.join(LORA_TARGETS)} or a regular expression of whole module names"
        if "." not in self.targets:
            near = difflib.get_close_matches(self.targets, LORA_TARGETS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"{problem}, got {self.targets!r}{hint}")
        try:
            re.compile(self.targets)
        except re.error as error:
            raise ValueError(f"{problem}, got {self.targets!r}: {error}") from error

    @property
    def resolved_alpha(self) -> float:
        """Alpha with null resolved: twice the rank."""
        return 2.0 * self.rank if self.alpha is None else self.alpha


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig(Settings):
    """The segmentation model that makes masks of pictures that bring none (docs/masks.md)."""

    section: ClassVar[str] = "data.segmenter"

    model: str | None = setting(
        None,
        "A folder or hub id of a transformers segmentation model, or a .onnx file: masks of pictures that bring none; "
        "null = there the whole picture counts.",
    )
    labels: str | None = setting(
        None,
        "The model's classes that are the subject, as in dog, cat; null = all but background, or the thing in the "
        "middle.",
    )
    threshold: float = setting(
        0.5, "Probability above which a pixel (of an instance model: a segment) counts.", at_least=0, below=1
    )
    normalisation: Literal["imagenet", "imagenet-mean", "half", "symmetric", "none"] = setting(
        "imagenet",
        "What a .onnx file is fed for colours x in [0, 1]: (x - mean) / std of ImageNet, x - mean, x - 1/2, 2x - 1, x.",
    )
    output: Literal["probability", "stretched"] = setting(
        "probability",
        "How a .onnx file's answer is read: as it is (through a sigmoid where it leaves [0, 1]), or stretched from its "
        "least to its greatest value.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model is None and self.labels is not None:
            raise ValueError("data.segmenter.labels says nothing without data.segmenter.model")
        if self.is_onnx and self.labels is not None:
            raise ValueError(
                f"data.segmenter.labels says nothing about a .onnx file, which knows no classes, got {self.model}"
            )

    @property
    def is_onnx(self) -> bool:
        """Whether the model is a file for onnxruntime, by its ending."""
        return (self.model or "").lower().endswith(".onnx")

    @property
    def subject_labels(self) -> tuple[str, ...]:
        """The labels one by one; none where the model's own rule is to choose."""
        return tuple(label.strip() for label in (self.labels or "").split(",") if label.strip())


@dataclass(frozen=True, kw_only=True)
class DataConfig(Settings):
    """References with their masks and prompts."""

    section: ClassVar[str] = "data"

    source: str = setting(
        "pocket", "A folder of pictures, a Hugging Face dataset id, or pocket = the built-in world."
    )
    held_out: str | None = setting(
        None, "A folder of references for evaluation only; null = some of the source are set apart."
    )
    held_out_references: int = setting(16, "How many references are evaluated, never trained on.", at_least=1)
    image_column: str = setting("image", "The dataset's column with the reference picture.")
    mask_column: str | None = setting(
        "mask", "The dataset's column with the object mask; null = whole picture."
    )
    caption_column: str = setting("captions", "The dataset's column with the prompts, one a line.")
    split: str = setting("train", "The dataset's split.")
    prompts_per_reference: int | None = setting(
        None, "Use the first so many prompts of each; null = all.", at_least=1
    )
    segmenter: SegmenterConfig = setting(
        SegmenterConfig(), "What makes the masks of pictures that bring none."
    )
