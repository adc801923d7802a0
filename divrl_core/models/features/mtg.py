"""Reward backbone `mtg`: Mind-the-Glitch, the backbone of DivRL's paper, rebuilt on diffusers.

Sources: arXiv:2509.21989 (the features), arXiv:2412.03439 (CleanDIFT), and the layout of the published weights. A
picture becomes the latent of Stable Diffusion 2.1, goes without noise through CleanDIFT's UNet at a learned timestep
and under the empty prompt, and two stacks make semantic and visual features of the UNet's decoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...rewards.features import FeatureBatch, VisualFeature
from ...rewards.score import ScoreSettings
from ..fake_modules import on_meta
from .base import BackboneSettings, Precision, merge_settings, resize_to_square
from .diffusion_taps import TAPS, tap_width, unet_taps
from .mtg_files import MtgFiles, find_files
from .mtg_layout import STACKS, MtgLayout, own_weights, read_checkpoint, read_layout, stack_shape
from .mtg_stacks import AggregationStack, StackShape
from .sd21 import (
    PUBLISHED_TEXT_TOKENS,
    PUBLISHED_UNET,
    PUBLISHED_VAE,
    build_encoder,
    build_unet,
    empty_prompt,
    read_config,
)

if TYPE_CHECKING:
    from ...config import BackboneConfig

CALIBRATED = BackboneSettings(
    image_size_px=768,
    score=ScoreSettings(tau_s=0.7, tau_v=0.7, nssm_pool=2, agreement="anywhere", one_to_one=True),
    gate=0.5,
    consistency_cutoff=0.6,
)
"""The paper's (arXiv:2606.23950)."""

CELL_PX = 16
_MULTIPLE_PX = 64  # the UNet halves the latents, an eighth of the picture's side, three times
# For plans: every tap, at the published widths. Which taps the weights use is in experiment_cfg.yaml.
_PLANNED_PROJECTION, _PLANNED_GROUPS = 384, 32


class MindTheGlitch(nn.Module):
    """The networks, frozen. Latents in the UNet's dtype, the stacks in float32."""

    def __init__(
        self, unet: Any, vae: Any, stacks: Sequence[StackShape], *, taps: Sequence[str], text_tokens: int
    ) -> None:
        super().__init__()
        self.unet, self.vae, self.taps = unet, vae, tuple(taps)
        self.semantic, self.visual = (AggregationStack(shape) for shape in stacks)
        self.timestep = nn.Parameter(torch.tensor(261.0))  # CleanDIFT's start
        prompt = torch.zeros(1, text_tokens, unet.config.cross_attention_dim)
        self.register_buffer("prompt", prompt, persistent=False)
        self.prompt: Tensor

    def decoder_taps(self, pictures: Tensor) -> list[Tensor]:
        """The taps of square pictures (B, 3, S, S) in [0, 1], in the order of `self.taps`."""
        encoded = self.vae.encode((2 * pictures - 1).to(self.vae.dtype)).latent_dist
        latents = (encoded.mode() * self.vae.config.scaling_factor).to(self.unet.dtype)
        prompt = self.prompt.to(latents.dtype).expand(len(latents), -1, -1)
        return unet_taps(self.unet, latents, self.timestep.expand(len(latents)), prompt, self.taps)


class MtgBackbone:
    """Semantic features for matching, visual features for agreement and for structure, on a grid of 16 px."""

    name = "mtg"

    def __init__(
        self, module: MindTheGlitch, settings: BackboneSettings = CALIBRATED, *, origin: str
    ) -> None:
        _check_size(settings)
        self.settings = settings
        self.source = (
            f"Mind-the-Glitch ({origin}), SD 2.1 taps {', '.join(module.taps)}, {settings.image_size_px} px"
        )
        self._module, self._origin = module, origin

    @classmethod
    def load(
        cls, config: BackboneConfig, *, device: str | torch.device = "cpu", precision: Precision = "float32"
    ) -> MtgBackbone:
        """The published weights from the folder or hub id that the settings name, on a device.

        "bfloat16": VAE and UNet in it, the stacks in float32. Raises ValueError and FileNotFoundError in one line where
        a file is missing, or is not what it should be.
        """
        settings = merge_settings(CALIBRATED, config)
        _check_size(settings)
        files = find_files(config)
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        module = _read(files, torch.device(device), dtype)
        folder = Path(str(config.path)).expanduser()
        return cls(module, settings, origin=folder.resolve().name if folder.is_dir() else str(config.path))

    @classmethod
    def without_weights(cls, config: BackboneConfig) -> MtgBackbone:
        """The published sizes with every tap, for plans; no file is read."""
        widths = tuple(tap_width(PUBLISHED_UNET["block_out_channels"], tap) for tap in TAPS)
        shape = StackShape(
            widths=widths,
            blocks=1,
            bottleneck=_PLANNED_PROJECTION // 4,
            projection=_PLANNED_PROJECTION,
            norm_groups=_PLANNED_GROUPS,
        )
        module = on_meta(
            lambda: MindTheGlitch(
                build_unet(PUBLISHED_UNET, "Stable Diffusion 2.1"),
                build_encoder(PUBLISHED_VAE, "Stable Diffusion 2.1"),
                [shape] * len(STACKS),
                taps=tuple(TAPS),
                text_tokens=PUBLISHED_TEXT_TOKENS,
            ),
            torch.float32,
        )
        return cls(module, merge_settings(CALIBRATED, config), origin="planned")

    @property
    def module(self) -> MindTheGlitch:
        """All weights, for those who move or count them."""
        return self._module

    def with_settings(self, settings: BackboneSettings) -> MtgBackbone:
        """The same networks under other settings."""
        return MtgBackbone(self._module, settings, origin=self._origin)

    @torch.no_grad()
    def extract(self, images: Tensor) -> FeatureBatch:
        """Features of pictures (B, 3, H, W) in [0, 1] on a grid of a sixteenth of `image_size_px`, in float32.

        One picture after the other: a picture of 768 px fills a device, and its features do not hang on the others.
        """
        if len(images) > 1:
            return FeatureBatch.cat([self.extract(image) for image in images.split(1)])
        device = self._module.timestep.device
        images = resize_to_square(images.to(device), self.settings.image_size_px).clamp(0, 1)
        taps = self._module.decoder_taps(images)
        grid = self.settings.image_size_px // CELL_PX
        visual = self._module.visual(taps, grid)
        return FeatureBatch(
            semantic=self._module.semantic(taps, grid),
            structure=visual,
            visual=(VisualFeature(name="mtg", values=visual),),
        )


def _read(files: MtgFiles, device: torch.device, dtype: torch.dtype) -> MindTheGlitch:
    """The networks with their weights on the device, the UNet and the VAE in `dtype`."""
    layout, tensors = read_layout(files.experiment), read_checkpoint(files.checkpoint)
    module = on_meta(lambda: _empty(files, layout, tensors), torch.float32)
    expected = {name: value.shape for name, value in module.state_dict().items()}
    weights = own_weights(tensors, expected, path=files.checkpoint)
    for name, value in weights.items():
        # copied out of the mapped file, in which a tensor may lie where other kernels, of other bits, take it
        kind = dtype if name.startswith(("unet.", "vae.")) else torch.float32
        weights[name] = value.to(device, kind, copy=True)
    module.load_state_dict(weights, assign=True)
    prompt = empty_prompt(files.base)
    if prompt.shape[-1] != module.prompt.shape[-1]:
        raise ValueError(
            f"{files.base}: the text encoder gives {prompt.shape[-1]} channels, the UNet takes "
            f"{module.prompt.shape[-1]}; Stable Diffusion 2.1 is needed"
        )
    module.prompt = prompt.to(device, dtype)
    return module.requires_grad_(False).eval()


def _empty(files: MtgFiles, layout: MtgLayout, tensors: Mapping[str, Tensor]) -> MindTheGlitch:
    """The networks that the files describe, without weights."""
    where = str(files.base)
    unet = build_unet(read_config(files.base, "unet"), where)
    widths = [tap_width(unet.config.block_out_channels, tap) for tap in layout.taps]
    shapes = [
        stack_shape(tensors, stack, widths, layout.norm_groups, path=files.checkpoint) for stack in STACKS
    ]
    vae = build_encoder(read_config(files.base, "vae"), where)
    return MindTheGlitch(unet, vae, shapes, taps=layout.taps, text_tokens=PUBLISHED_TEXT_TOKENS)


def _check_size(settings: BackboneSettings) -> None:
    if settings.image_size_px % _MULTIPLE_PX:
        raise ValueError(
            f"reward.backbone.image_size_px: mtg needs a multiple of {_MULTIPLE_PX}, got {settings.image_size_px}"
        )
