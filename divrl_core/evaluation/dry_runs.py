"""What `sample`, `inspect` and `score` would do: every input is checked, nothing is loaded or written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..config import BackboneConfig, ModelConfig, SegmenterConfig
from ..models.attention_probe import check_blocks, default_blocks
from ..models.encoder_trace import backbone_size
from ..models.flux import DTYPES
from ..models.lora_apply import check_architecture
from ..models.lora_file import LoraFile, read_lora
from ..models.pipeline_config import PipelineConfig, pipeline_config
from ..models.segmentation.files import segmenter_problems
from ..models.traced_model import config_key, transformer_on_meta
from ..training.backbone_checks import check_backbone
from ..training.plan_text import gib
from ..training.preflight import model_problems, raise_problems
from ..training.sampling_memory import sampling_memory
from .attention_maps import checked_points
from .lora_request import is_letterboxed, layout_of, model_of, trained_with
from .sample import check_request, load_reference, lora_file_of
from .score import BATCH_SIZE
from .score_inputs import read_inputs


@dataclass(frozen=True, kw_only=True)
class Request:
    """Pictures of a subject, as the options of `sample` and `inspect` ask for them."""

    model: str | None
    reference: Path
    mask: Path | None
    segmenter: SegmenterConfig | None = None
    prompt: str
    lora: Path | None
    strengths: Sequence[float] = ()
    seeds: Sequence[int]
    steps: int
    size_px: tuple[int, int] | None
    layout: str | None
    dtype: str
    device: str


def sampling_lines(asked: Request) -> list[str]:
    """What `sample` takes, a line each: what is read, made, and how much memory.

    Raises FileNotFoundError or ValueError, in one line, for whatever is wrong with the inputs.
    """
    lines, _, (height, width) = _looked_at(asked)
    rows = len(dict.fromkeys([0.0, *asked.strengths])) if asked.lora else 1
    pictures = rows * len(asked.seeds)
    made = f"pictures: {rows} x {len(asked.seeds)} of {width} x {height} px, {asked.steps} steps each"
    return [*lines, f"{made}: {pictures * asked.steps} forwards"]


def attention_lines(asked: Request, *, blocks: Sequence[str], points: Sequence[tuple[int, int]]) -> list[str]:
    """What `inspect attention` takes, a line each. Raises as `sampling_lines`, and for a strange block or point."""
    lines, pipeline, size = _looked_at(asked)
    counts = zip(("double", "single"), pipeline.blocks)
    names = [f"{kind}.{place}" for kind, count in counts for place in range(count)]
    chosen = tuple(blocks) or default_blocks(names)
    check_blocks(chosen, names)
    places = checked_points(points, size)
    made = f"a picture of {size[1]} x {size[0]} px: {asked.steps} forwards"
    return [*lines, f"{made}; {len(places)} points in {', '.join(chosen)}"]


def _looked_at(asked: Request) -> tuple[list[str], PipelineConfig, tuple[int, int]]:
    """Every input checked: lines about it, the pipeline's configuration, and (height, width) of the pictures."""
    check_request(
        asked.prompt, asked.seeds, asked.lora, asked.strengths or (1.0,), asked.steps, asked.size_px
    )
    lora_path = None if asked.lora is None else lora_file_of(asked.lora)
    lora = None if lora_path is None else read_lora(lora_path, with_weights=False)
    name = model_of(asked.model, lora)
    unusable = [] if asked.segmenter is None else segmenter_problems(asked.segmenter)
    raise_problems([*model_problems(ModelConfig(path=name)), *unusable])
    pipeline = pipeline_config(name)
    layout = layout_of(asked.layout, lora) or pipeline.layout
    side = trained_with(lora, "image_size_px") or pipeline.image_size_px
    size = asked.size_px or (side, side)
    if lora is not None:
        transformer = transformer_on_meta(config_key(pipeline.parts["transformer"]), torch.float32)
        check_architecture(transformer, lora)
    load_reference(asked.reference, asked.mask, *size, is_whole=is_letterboxed(layout, lora))
    memory = sampling_memory(
        pipeline,
        DTYPES[asked.dtype],
        size_px=size,
        layout=layout,
        text_tokens=trained_with(lora, "max_text_tokens") or pipeline.text_tokens,
        lora_numbers=_numbers_of(lora),
        device="cpu" if asked.device == "cpu" else "cuda",
    )
    lines = [
        f"model: {name}, {asked.dtype} on {asked.device}, the reference in layout {layout}",
        *([pipeline.remark] if pipeline.remark else []),
        f"LoRA: {_words_of(lora)}",
        f"subject: {asked.reference}, mask: {asked.mask or f'its alpha channel, else {_otherwise(asked)}'}",
        f"memory: {gib(memory.encode)} while encoding, {gib(memory.sample)} while sampling",
    ]
    return lines, pipeline, size


def score_lines(
    images: Path,
    references: Path,
    mask: Path | None,
    backbone: BackboneConfig | None = None,
    segmenter: SegmenterConfig | None = None,
) -> list[str]:
    """What scoring takes, a line each. Raises FileNotFoundError, or DataProblems with all that is wrong."""
    backbone = backbone or BackboneConfig()
    check_backbone(backbone)
    inputs = read_inputs(images, references, mask, segmenter)
    shapes = {(picture.reference_id, picture.shape) for picture in inputs.pictures}
    passes = -(-len(inputs.pictures) // BATCH_SIZE) + len(shapes)
    side = max(max(picture.shape) for picture in inputs.pictures)
    batch = min(BATCH_SIZE, len(inputs.pictures))
    size, _ = backbone_size(backbone, batch=batch, size_px=side)
    known = len({picture.reference_id for picture in inputs.pictures})
    return [
        f"pictures: {len(inputs.pictures)} in {images}; references: {known}, masks: {inputs.references.mask_source}",
        f"backbone: {backbone.name}, at least {passes} passes of at most {BATCH_SIZE} pictures",
        f"memory: {gib(size.weights + size.working)}",
    ]


def _otherwise(asked: Request) -> str:
    return "the whole picture" if asked.segmenter is None else f"made by {asked.segmenter.model}"


def _numbers_of(lora: LoraFile | None) -> int:
    return 0 if lora is None else sum(tensor.numel() for tensor in lora.tensors.values())


def _words_of(lora: LoraFile | None) -> str:
    return "none" if lora is None else f"{lora.path}, {len(lora.modules)} layers, rank {lora.rank}"
