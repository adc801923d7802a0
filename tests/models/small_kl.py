"""FLUX's kind of VAE with few channels."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL


def small_kl(seed: int) -> AutoencoderKL:
    """8 times smaller latents of 16 channels, as FLUX's; random weights."""
    torch.manual_seed(seed)
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
        latent_channels=16,
        sample_size=64,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
