"""What the backbones from transformers' vision models share: how they are read, what they see, how they are asked.

One pass of the model gives patch tokens (structure and matches, `patches.py`) and one vector of the whole picture.
Pictures are seen whole, as squares, resized bilinearly. A model sees squares of its own size, or of `image_size_px`,
its position encodings interpolated as its class does it.
"""

from __future__ import annotations

import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn

from ...rewards.features import FeatureBatch
from .base import BackboneSettings, Precision, merge_settings, resize_to_square
from .patches import LEAST_SIDE, patch_features, patch_settings
from .vision_files import Normalisation, VisionFiles, open_files, planned_files

if TYPE_CHECKING:
    from ...config import BackboneConfig

logger = logging.getLogger("divrl")

Built = TypeVar("Built")
NEEDED = "a vision transformer is needed (DINOv2, DINOv3, SigLIP, CLIP, ViT), or the packaged lite0"
_INTERPOLATE = "interpolate_pos_encoding"


class VisionTransformerBackbone(ABC):
    """A vision model of transformers as a backbone; a subclass names its classes and reads its outputs."""

    name: ClassVar[str]
    default_path: ClassVar[str | None]
    """The hub id whose weights are taken when the settings name none."""
    standard: ClassVar[Normalisation | None]
    """The normalisation where the files say nothing of it."""
    published: ClassVar[Mapping[str, Mapping[str, Any]]]
    """Hub id -> what its config.json says, for plans without it."""
    renamed: ClassVar[Mapping[str, str]] = {}
    """Names of weights in files of other layouts -> transformers' own, as regular expressions."""

    def __init__(
        self, model: nn.Module, settings: BackboneSettings, normalisation: Normalisation, *, origin: str
    ) -> None:
        config: Any = model.config
        size, patch, own = settings.image_size_px, _side(config, "patch_size"), _side(config, "image_size")
        if patch is None:
            raise ValueError(f"backbone {self.name}: {origin} has no patch tokens: {NEEDED}")
        if (size % patch and size != own) or size // patch < LEAST_SIDE:
            raise ValueError(
                f"backbone {self.name}: reward.backbone.image_size_px must be a multiple of {patch}, the side of "
                f"{origin}'s patches, from {LEAST_SIDE * patch} up, got {size}"
            )
        if settings.weight_s8:
            raise ValueError(f"backbone {self.name}: it has no features of stride 8: leave out weight_s8")
        self.settings = settings
        self.source = (
            f"{type(model).__name__} ({origin}), {getattr(config, 'hidden_size', '?')} wide, patches of {patch} px, "
            f"{size} px, thresholds not calibrated"
        )
        self._model, self._normalisation, self._origin = model, normalisation, origin
        takes = inspect.signature(type(model).forward).parameters
        self._options = {"interpolate_pos_encoding": True} if size != own and _INTERPOLATE in takes else {}

    @classmethod
    def load(
        cls, config: BackboneConfig, *, device: str | torch.device = "cpu", precision: Precision = "float32"
    ) -> VisionTransformerBackbone:
        """The pretrained backbone on a device, the user's settings laid over the uncalibrated ones.

        Raises FileNotFoundError when there are no such files, ValueError when they are another model's, damaged or
        pickled, or do not fit the settings. One line each.
        """
        from ..components import read_module, refuse_missing

        files = open_files(cls.name, cls._path(config), config.revision)
        normalisation = cls._normalisation_of(files)
        kind, model_config = cls._kind(files)
        settings = cls._settings(files, model_config, config)
        assert files.folder is not None
        logger.info("loading backbone %s (%s, %s)", cls.name, kind.__name__, precision)
        model, missing = read_module(
            files.folder,
            kind,
            dtype=torch.bfloat16 if precision == "bfloat16" else torch.float32,
            device=torch.device("cpu"),
            config=model_config,
            key_mapping=dict(cls.renamed) or None,
        )
        refuse_missing(files.folder, kind, cls._without_what_may_lack(model, missing))
        return cls(model.to(device), settings, normalisation, origin=files.origin)

    @classmethod
    def without_weights(cls, config: BackboneConfig) -> VisionTransformerBackbone:
        """The same model untrained, from its config.json or the published sizes, for plans."""
        files = planned_files(cls.name, cls._path(config), config.revision, cls.published)
        kind, model_config = cls._kind(files)
        settings = cls._settings(files, model_config, config)
        unit = Normalisation(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        model = _built(cls.name, kind, files, lambda: kind(model_config)).eval().requires_grad_(False)
        return cls(model, settings, unit, origin=files.origin)

    @property
    def module(self) -> nn.Module:
        """All weights."""
        return self._model

    @torch.no_grad()
    def extract(self, images: Tensor) -> FeatureBatch:
        """Features of pictures (B, 3, H, W) in [0, 1] on the grid of patches, in float32; one pass of the model."""
        weight = next(self._model.parameters())
        images = resize_to_square(images.to(weight.device), self.settings.image_size_px).clamp(0, 1)
        mean, std = (
            images.new_tensor(values)[:, None, None]
            for values in (self._normalisation.mean, self._normalisation.std)
        )
        tokens, image = self._look(((images - mean) / std).to(weight.dtype))
        return patch_features(
            tokens, images, colour_scale=self.settings.colour_scale, name=self.source, image=image
        )

    @classmethod
    @abstractmethod
    def _kind(cls, files: VisionFiles) -> tuple[type[nn.Module], Any]:
        """The class of transformers that reads these files, and its configuration."""

    def _look(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, T, C) whose last ones are the patches, and the whole pictures (B, Ci), of normalised pictures."""
        output = self._model(pixel_values=pixels, **self._options)
        return output.last_hidden_state, output.pooler_output

    @classmethod
    def _without_what_may_lack(cls, model: nn.Module, missing: list[str]) -> list[str]:
        """The missing weights that the model cannot do without."""
        return missing

    @classmethod
    def _normalisation_of(cls, files: VisionFiles) -> Normalisation:
        found = files.normalisation or cls.standard
        if found is None:
            raise ValueError(
                f"backbone {cls.name}: {files.origin}: nothing says how its pictures are normalised; put its "
                "preprocessor_config.json with image_mean and image_std beside config.json"
            )
        return found

    @classmethod
    def _path(cls, config: BackboneConfig) -> str:
        path = config.path or cls.default_path
        assert path is not None  # the settings ask for it
        return path

    @classmethod
    def _settings(cls, files: VisionFiles, model_config: Any, config: BackboneConfig) -> BackboneSettings:
        """The uncalibrated settings at the model's own size, with every value that the user set in its place."""
        own = _side(model_config, "image_size")
        size = config.image_size_px or own
        if size is None:
            raise ValueError(
                f"backbone {cls.name}: {files.origin} says no side of the square pictures that it sees; set "
                f"reward.backbone.image_size_px, or take another model: {NEEDED}"
            )
        return merge_settings(patch_settings(size), config)


def read_configuration(backbone: str, kind: Any, files: VisionFiles) -> Any:
    """A configuration of that class from config.json. Raises ValueError, in one line, when it does not fit."""
    return _built(backbone, kind, files, lambda: kind.from_dict(files.vision))


def _built(backbone: str, kind: type[Any], files: VisionFiles, build: Callable[[], Built]) -> Built:
    try:
        return build()
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, StrictDataclassError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"backbone {backbone}: {files.origin}: its config.json makes no {kind.__name__}: {reason}"
        ) from error


def _side(config: Any, field: str) -> int | None:
    """A side in pixels, which some write as two equal numbers; None where there is none or no square."""
    value = getattr(config, field, None)
    sides = set(value) if isinstance(value, (list, tuple)) else {value}
    side = sides.pop()
    return side if not sides and isinstance(side, int) else None
