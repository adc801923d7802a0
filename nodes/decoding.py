"""Candidates' latents as pictures: by the VAE when finished, by a TAESD, where one is installed, when foreseen."""

from __future__ import annotations

from typing import Any

import comfy.model_management as management
import comfy.taesd.taesd
import folder_paths
import torch
from torch import Tensor

AUTO, VAE = "auto", "vae"
TAESD = comfy.taesd.taesd.TAESD


class Decoder:
    """Latents in the model's own space (as samplers see them) to pictures (B, 3, H, W) in [0, 1], row by row."""

    def __init__(self, vae: Any, model: Any, *, foreseen_by: str = AUTO) -> None:
        """`model`: ComfyUI's model, whose latent format counts. `foreseen_by`: "auto" (TAESD if installed) or "vae"."""
        self._vae, self._model = vae, model
        self._small = None if foreseen_by == VAE or _is_small(vae) else _installed_taesd(model.latent_format)

    @property
    def name(self) -> str:
        """What decodes the pictures that are foreseen."""
        return "VAE" if self._small is None else "TAESD"

    def foresee(self, latents: Tensor) -> Tensor:
        """Pictures of predicted clean latents, quickly."""
        if self._small is None:
            return self.finish(self._model.process_latent_out(latents.float()))
        device = management.vae_device()
        small = self._small.to(device)
        parts = []
        for row in latents.split(1):
            management.throw_exception_if_processing_interrupted()
            parts.append(small.decode(row.float().to(device)).add(1).div(2).clamp(0, 1).cpu())
        self._small.to(management.vae_offload_device())
        return torch.cat(parts)

    def finish(self, latents: Tensor) -> Tensor:
        """Pictures of latents as ComfyUI hands them around, each as the stock VAE Decode makes it."""
        parts = []
        for row in latents.split(1):
            management.throw_exception_if_processing_interrupted()
            parts.append(self._vae.decode(row).movedim(-1, 1).float().cpu())
        return torch.cat(parts)


def _is_small(vae: Any) -> bool:
    return isinstance(getattr(vae, "first_stage_model", None), TAESD)


def _installed_taesd(latent_format: Any) -> Any:
    """The TAESD of a latent format from models/vae_approx, or None."""
    name = getattr(latent_format, "taesd_decoder_name", None)
    if name is None:
        return None
    files = [file for file in folder_paths.get_filename_list("vae_approx") if file.startswith(name)]
    if not files:
        return None
    path = folder_paths.get_full_path("vae_approx", files[0])
    return TAESD(None, path, latent_channels=latent_format.latent_channels).eval()
