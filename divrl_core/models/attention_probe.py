"""Where tokens of the target look: a model's attention, read while it runs and changed in nothing.

In both kinds of FLUX blocks one sequence attends to itself: the prompt's tokens, the target's, the reference's. A
block is named by its kind and its place, "double.0" to "double.18" and "single.0" to "single.37" in a full FLUX. Only
the rows of the tokens asked for are computed, ``softmax(q k^T / sqrt(d))`` in float32 from the very q and k that the
kernel gets; the whole matrix never is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from .hub import PipelineFolder

KINDS = {"double": "transformer_blocks", "single": "single_transformer_blocks"}  # in the order they run
FULL_COUNTS = {"num_layers": 19, "num_single_layers": 38}  # where a config says nothing


@dataclass(frozen=True, kw_only=True)
class BlockAttention:
    """Where Q of the target's tokens look in one block, for B samples; float32, on the CPU.

    The three shares of a token sum to 1.
    """

    to_reference: Tensor
    """(B, Q, M) in [0, 1], mean over heads: attention to each of the reference's tokens. A row sums to
    `reference_share`."""
    text_share: Tensor
    """(B, Q) in [0, 1]: of a token's attention, what goes to the prompt."""
    target_share: Tensor
    """(B, Q): to the target, the token itself included."""
    reference_share: Tensor
    """(B, Q): to the reference."""
    heads: Tensor | None = None
    """(B, H, Q, M): `to_reference` of each head, where asked for."""


def block_names(folder: PipelineFolder) -> tuple[str, ...]:
    """Names of a pipeline's blocks, in the order they run. Reads its config, not its weights."""
    config = FluxTransformer2DModel.load_config(str(folder.part("transformer")), local_files_only=True)
    counts = (int(config.get(name, default)) for name, default in FULL_COUNTS.items())
    return tuple(f"{kind}.{place}" for kind, count in zip(KINDS, counts) for place in range(count))


def default_blocks(names: Sequence[str]) -> tuple[str, ...]:
    """The first block, the middle one and the last."""
    return tuple(dict.fromkeys((names[0], names[len(names) // 2], names[-1])))


def check_blocks(asked: Sequence[str], names: Sequence[str]) -> None:
    """Raise ValueError when a block is asked for that is none of `names`, twice, or when none is."""
    if not asked or len(set(asked)) != len(asked):
        raise ValueError(f"blocks must be different ones and at least one, got {list(asked)}")
    stranger = next((name for name in asked if name not in names), None)
    if stranger is not None:
        raise ValueError(f"there is no block {stranger!r}; there are {_in_words(names)}")


@contextmanager
def attention_probe(
    transformer: nn.Module,
    *,
    blocks: Sequence[str],
    target_tokens: Sequence[int],
    text_count: int,
    target_count: int,
    per_head: bool = False,
) -> Iterator[Mapping[str, BlockAttention]]:
    """Inside this block the transformer runs once; the mapping holds each block's attention when it has.

    What the transformer answers is the same, bit for bit. Call it within torch.no_grad(), or outside: what is
    recorded carries no gradient.

    Args:
        transformer: a FluxTransformer2DModel, with a LoRA or without.
        blocks: their names, e.g. ("double.0", "single.3").
        target_tokens: the Q tokens whose attention is read, from 0 to target_count - 1, row by row.
        text_count: the prompt's tokens L.
        target_count: the target's tokens N; all that follow are the reference's.
        per_head: keep every head beside their mean.

    Raises ValueError for an unknown block or token, when there is no reference, when attention is masked or not
    finite, and at the end when a block did not run, or its kernel does not go through torch's
    scaled_dot_product_attention.
    """
    modules = _attention_modules(transformer)
    check_blocks(blocks, list(modules))
    rows = _checked_rows(target_tokens, target_count)
    probe = _Probe([text_count + row for row in rows], text_count, target_count, per_head=per_head)
    with ExitStack() as hooks:
        for name in blocks:
            for handle in probe.watch(name, modules[name]):
                hooks.callback(handle.remove)
        with probe:
            yield probe.found
    for name in blocks:
        if name not in probe.found:
            raise ValueError(
                f"attention_probe: {name} ran, and not through torch's scaled_dot_product_attention, the one kernel "
                "that can be read; choose it by transformer.reset_attention_backend(), without "
                "DIFFUSERS_ATTN_BACKEND"
                if name in probe.ran
                else f"attention_probe: {name} did not run; call the transformer inside the block"
            )


class _Probe(TorchFunctionMode):
    """Sees every call of torch's attention, and takes note where a watched block makes its first one."""

    def __init__(self, rows: list[int], text_count: int, target_count: int, *, per_head: bool) -> None:
        super().__init__()
        self.rows, self.text_count, self.target_count, self.per_head = (
            rows,
            text_count,
            target_count,
            per_head,
        )
        self.found: dict[str, BlockAttention] = {}
        self.ran: set[str] = set()
        self.running: str | None = None

    def watch(self, name: str, module: nn.Module) -> Iterator[Any]:
        """Know by hooks when that block's attention runs; their handles."""

        def enter(*_: object) -> None:
            self.running = name

        def leave(*_: object) -> None:
            self.running = None
            self.ran.add(name)

        yield module.register_forward_pre_hook(enter)
        yield module.register_forward_hook(leave)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # An IP-Adapter's block calls again, for its own picture.
        if func is scaled_dot_product_attention and self.running and self.running not in self.found:
            self.found[self.running] = self._read(self.running, *args, **kwargs)
        return func(*args, **kwargs)

    @torch.no_grad()
    def _read(
        self,
        block: str,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> BlockAttention:
        """From q and k, (B, H, L + N + M, D) each; the arguments are those of scaled_dot_product_attention."""
        count, known = key.shape[-2], self.text_count + self.target_count
        asks_target_alone = query.shape[-2] == self.target_count  # the last block (last_block.py)
        if not (query.shape[-2] == count or asks_target_alone) or count <= known:
            raise ValueError(
                f"attention_probe: {block} has {query.shape[-2]} queries and {count} keys; a prompt of "
                f"{self.text_count} tokens, a target of {self.target_count} and a reference need more than {known}"
            )
        if attn_mask is not None or is_causal or enable_gqa:
            raise ValueError(
                f"attention_probe: the attention of {block} is masked or grouped; FLUX's is neither"
            )
        with torch.autocast(query.device.type, enabled=False):
            factor = query.shape[-1] ** -0.5 if scale is None else scale
            rows = [row - self.text_count for row in self.rows] if asks_target_alone else self.rows
            scores_BHQK = query[..., rows, :].float() @ key.float().transpose(-2, -1) * factor
            attention_BHQK = scores_BHQK.softmax(dim=-1)
        if not attention_BHQK.isfinite().all():
            raise ValueError(f"attention_probe: the attention of {block} is not finite")
        text, target, reference = (
            attention_BHQK.cpu()
            .split_with_sizes([self.text_count, self.target_count, count - known], dim=-1)
        )  # fmt: skip
        return BlockAttention(
            to_reference=reference.mean(dim=1),
            text_share=text.sum(dim=-1).mean(dim=1),
            target_share=target.sum(dim=-1).mean(dim=1),
            reference_share=reference.sum(dim=-1).mean(dim=1),
            heads=reference if self.per_head else None,
        )


def _attention_modules(transformer: nn.Module) -> dict[str, nn.Module]:
    return {
        f"{kind}.{place}": block.attn
        for kind, blocks in KINDS.items()
        for place, block in enumerate(getattr(transformer, blocks))
    }


def _checked_rows(target_tokens: Sequence[int], target_count: int) -> list[int]:
    rows = [int(token) for token in target_tokens]
    if not rows or not all(0 <= row < target_count for row in rows):
        raise ValueError(
            f"attention_probe: target_tokens must be at least one from 0 to {target_count - 1}, got {rows}"
        )
    return rows


def _in_words(names: Sequence[str]) -> str:
    """double.0 to double.18 and single.0 to single.37."""
    spans = []
    for kind in KINDS:
        own = [name for name in names if name.startswith(f"{kind}.")]
        if own:
            spans.append(own[0] if len(own) == 1 else f"{own[0]} to {own[-1]}")
    return " and ".join(spans)
