"""How the frozen base is held: from which file, in how many bits, on which side of the bus. Nothing heavy is imported.

What can be said before a model is read is said here, a line each.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

# Kind -> the packages it needs; "none" and "fp8" need torch and diffusers alone.
QUANTIZATIONS: dict[str, tuple[str, ...]] = {
    "none": (),
    "fp8": (),
    "int8": ("bitsandbytes",),
    "nf4": ("bitsandbytes",),
    "torchao_int8": ("torchao",),
}
# Tried with torch 2.13 on the CPU: fp8's casting breaks the recomputation, torchao's layers break the compiler, and
# bitsandbytes' int8 layers fall into a hundred graphs.
NOT_COMPILED = ("fp8", "int8", "torchao_int8")


@dataclass(frozen=True, kw_only=True)
class BaseOptions:
    """Settings of model.* that change how the transformer is read and held; the defaults change nothing."""

    transformer_file: Path | None = None
    """A single file that stands in for the weights in the pipeline's transformer folder."""
    quantization: str = "none"
    """A key of QUANTIZATIONS."""
    offload_blocks: int = 0
    """So many of the last blocks keep their frozen weights in host memory."""
    compile: bool = False
    """Whether the blocks are compiled."""
    is_sharded: bool = False
    """Whether the weights wait in host memory to be spread over processes (sharding.py)."""

    def __post_init__(self) -> None:
        if self.quantization not in QUANTIZATIONS:
            raise ValueError(
                f"model.quantization must be one of {', '.join(QUANTIZATIONS)}, got {self.quantization!r}"
            )
        if self.compile and self.quantization in NOT_COMPILED:
            raise ValueError(
                f"model.compile does not go with model.quantization={self.quantization}; take model.compile=false, or "
                "model.quantization=none or nf4"
            )
        if self.offload_blocks < 0:
            raise ValueError(f"model.offload_blocks must be at least 0, got {self.offload_blocks}")
        is_packed = self.transformer_file is not None and self.transformer_file.suffix.lower() == ".gguf"
        if is_packed and (self.is_sharded or self.offload_blocks):
            other = (
                "spread over processes" if self.is_sharded else f"offloaded ({self.offload_blocks} blocks)"
            )
            raise ValueError(
                f"model.transformer_file={self.transformer_file} is a quantised base, which cannot be {other} too: "
                "take one of the two"
            )
        if self.is_sharded and (self.quantization != "none" or self.offload_blocks):
            name = "quantization" if self.quantization != "none" else "offload_blocks"
            raise ValueError(
                f"a base that is spread over processes (--sharded, FSDP2) cannot have model.{name}="
                f"{getattr(self, name)} too: take one of the two"
            )

    @property
    def missing_packages(self) -> list[str]:
        """A line for each package that the options need and that is not installed."""
        needed = dict.fromkeys(QUANTIZATIONS[self.quantization], f"model.quantization={self.quantization}")
        if self.transformer_file is not None and self.transformer_file.suffix.lower() == ".gguf":
            needed["gguf"] = f"model.transformer_file={self.transformer_file}"
        return [
            f"{setting} needs the package {name}: pip install {name} (or divrl[quantization])"
            for name, setting in needed.items()
            if find_spec(name) is None
        ]


def offload_problem(blocks: int, *, gradient_checkpointing: bool) -> str | None:
    """Why a training run cannot keep `blocks` blocks on the host; None where it can."""
    if not blocks or gradient_checkpointing:
        return None
    return (
        f"model.offload_blocks={blocks} needs model.gradient_checkpointing=true: without it the backward pass holds "
        "on to every block's weights, and nothing is saved; set it, or model.offload_blocks=0"
    )
