"""FLUX.1-Kontext as published, with random weights, for benchmarks/full_size.py: they cost what real ones do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from divrl_core.models.conditioning import Conditioning, TextEmbeddings
from divrl_core.models.flux import FluxAdapter
from divrl_core.models.hub import PipelineFolder
from divrl_core.models.published_configs import PUBLISHED_CLASSES, PUBLISHED_PARTS
from divrl_core.training.references import PromptPair

TEXT_TOKENS = 128
SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 4096,
    "max_shift": 1.15,
    "shift": 3.0,
    "use_dynamic_shifting": True,
}


class RandomPairs:
    """Conditioning of the real shapes, of random numbers."""

    def __init__(self, adapter: FluxAdapter, size_px: int) -> None:
        generator = torch.Generator(adapter.device).manual_seed(0)
        self._adapter, self._size_px = adapter, size_px

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=adapter.device).to(adapter.dtype)

        self._text = TextEmbeddings(prompt_embeds=draw(1, TEXT_TOKENS, 4096), pooled=draw(1, 768))
        self._reference = draw(1, *adapter.latent_shape(size_px, size_px))

    def conditioning(self, pairs: Sequence[PromptPair]) -> Conditioning:
        """As of `EncodedPairs`."""
        assert len(pairs) == 1
        side = self._size_px
        return self._adapter.conditioning(self._text, self._reference, height=side, width=side)


def write_configs(folder: Path, blocks: tuple[int, int] | None) -> PipelineFolder:
    """The published pipeline's configurations, without weights; `blocks`: other numbers of double and single blocks."""
    for part, published in {**PUBLISHED_PARTS, "scheduler": SCHEDULER}.items():
        config = dict(published)
        if part == "transformer" and blocks is not None:
            config |= {"num_layers": blocks[0], "num_single_layers": blocks[1]}
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / part / name).write_text(json.dumps(config))
    return PipelineFolder(path=folder, classes=PUBLISHED_CLASSES, image_size_px=512)


def random_transformer(folder: PipelineFolder, device: torch.device) -> nn.Module:
    """The transformer in bfloat16 with small random weights, made where it shall lie."""
    config = FluxTransformer2DModel.load_config(str(folder.part("transformer")))
    with torch.device("meta"):
        transformer = FluxTransformer2DModel.from_config(config)
    transformer = transformer.to(torch.bfloat16).to_empty(device=device)
    fill(transformer)
    return transformer.requires_grad_(False).eval()


def fill(module: nn.Module) -> None:
    """Weights of spread .02 from one drawn buffer: billions of drawn numbers would take minutes on a host."""
    source = torch.randn(1 << 24, generator=torch.Generator().manual_seed(0)).mul_(0.02)
    moved: dict[tuple[torch.device, torch.dtype], Tensor] = {}
    for parameter in module.parameters():
        kind = (parameter.device, parameter.dtype)
        if kind not in moved:
            moved[kind] = source.to(*kind)
        flat, own = parameter.data.view(-1), moved[kind]
        for start in range(0, flat.numel(), own.numel()):
            stop = min(start + own.numel(), flat.numel())
            flat[start:stop].copy_(own[: stop - start])
