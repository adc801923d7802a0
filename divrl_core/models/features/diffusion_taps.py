"""Feature maps out of the decoder of Stable Diffusion's UNet, as CleanDIFT names them: us1 to us10.

Source: arXiv:2412.03439 (CleanDIFT). At 768 px of SD 2.1: us1, us2 1280 x 12 x 12; us3 to us5 1280 x 24 x 24; us6 1280,
us7, us8 640 x 48 x 48; us9 640, us10 320 x 96 x 96.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from types import MappingProxyType
from typing import Any

from torch import Tensor
from torch.nn import Module

TAPS: Mapping[str, str] = MappingProxyType(
    {
        "us1": "up_blocks.0.resnets.0",
        "us2": "up_blocks.0.resnets.1",
        "us3": "up_blocks.0.upsamplers.0",
        "us4": "up_blocks.1.attentions.0",
        "us5": "up_blocks.1.attentions.1",
        "us6": "up_blocks.1.upsamplers.0",
        "us7": "up_blocks.2.attentions.0",
        "us8": "up_blocks.2.attentions.1",
        "us9": "up_blocks.2.upsamplers.0",
        "us10": "up_blocks.3.attentions.0",
    }
)
"""Tap -> the module of diffusers' UNet2DConditionModel whose output it is, in the order in which they run."""


class _AllTaken(Exception):
    """The last tap is there; the rest of the UNet would be of no use."""


def tap_width(block_out_channels: Sequence[int], tap: str) -> int:
    """Channels of a tap: those of its block, counted from the UNet's middle."""
    block = int(TAPS[tap].split(".")[1])
    return block_out_channels[len(block_out_channels) - 1 - block]


def missing_taps(unet: Module) -> list[str]:
    """The taps that this UNet has no module for."""
    modules = {name for name, _ in unet.named_modules()}
    return [tap for tap, module in TAPS.items() if module not in modules]


def unet_taps(
    unet: Any, latents: Tensor, timestep: Tensor, prompt: Tensor, taps: Sequence[str]
) -> list[Tensor]:
    """The outputs of the named taps for latents (B, 4, h, w), in the order of `taps`, in the UNet's dtype.

    timestep: scalar or (B,), 0 to 1000. prompt: (B, L, C), the text's embedding. The pass ends after the last tap, so
    that the taps are what a whole pass would give.
    """
    last = max(taps, key=list(TAPS).index)
    taken: dict[str, Tensor] = {}

    def keeper(tap: str) -> Callable[[Module, Any, Any], None]:
        def keep(module: Module, inputs: Any, output: Any) -> None:
            taken[tap] = output if isinstance(output, Tensor) else output[0]
            if tap == last:
                raise _AllTaken

        return keep

    with ExitStack() as hooks:
        for tap in taps:
            hooks.callback(unet.get_submodule(TAPS[tap]).register_forward_hook(keeper(tap)).remove)
        with suppress(_AllTaken):
            unet(latents, timestep, encoder_hidden_states=prompt, return_dict=False)
    return [taken[tap] for tap in taps]
