"""Masks by transformers' segmentation classes: by a class for each pixel, or by segments with a class each.

Pictures go through the model's own image processor, one at a time, in 8 bits. Which classes and segments are the
subject: `subject.py`. A cropping processor is told not to crop, so that the answer covers the whole picture.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .base import Segmenter, checked_pictures, flags_of
from .subject import central_segment

if TYPE_CHECKING:
    from ...config import SegmenterConfig
    from .files import SegmenterFiles


@dataclass(frozen=True)
class _Loaded(ABC):
    """A model of transformers with its image processor, and what is asked of it."""

    found: SegmenterFiles
    config: SegmenterConfig
    module: nn.Module
    processor: Any

    @property
    def name(self) -> str:
        return self.found.name

    @property
    def source(self) -> str:
        labels = self.config.subject_labels
        rule = f"the subject: {', '.join(labels)}" if labels else self._own_rule
        return f"{self.name} ({self.found.architecture}; {rule})"

    @property
    @abstractmethod
    def _own_rule(self) -> str:
        """What counts as the subject where no labels are named."""

    def masks(self, pictures: Tensor) -> Tensor:
        height, width = pictures.shape[-2:]
        levels = checked_pictures(pictures).mul(255).round().byte().movedim(1, -1).cpu().numpy()
        # None of them where the processor knows of none.
        options = {"do_center_crop": False} if getattr(self.processor, "do_center_crop", None) else {}
        device = next(self.module.parameters()).device
        found = []
        for picture in levels:
            inputs = self.processor(
                images=[picture], return_tensors="pt", input_data_format="channels_last", **options
            ).to(device)
            with torch.inference_mode():
                found.append(self._mask(self.module(**inputs), height, width))
        return torch.stack(found)

    @abstractmethod
    def _mask(self, outputs: Any, height: int, width: int) -> Tensor:
        """The subject, bool (height, width), from the model's outputs for one picture."""


class SemanticSegmenter(_Loaded):
    """A class for each pixel: the probabilities of the subject's classes together are above the threshold."""

    @property
    def _own_rule(self) -> str:
        return "the subject: all but background"

    def _mask(self, outputs: Any, height: int, width: int) -> Tensor:
        probabilities = outputs.logits.float().softmax(dim=1)
        saliency = probabilities[:, sorted(self.found.subject)].sum(dim=1)
        return flags_of(saliency, height, width, self.config.threshold)[0]


class SegmentSegmenter(_Loaded):
    """Segments with a class each: all of the labels' classes, or the one of the subject's classes in the middle.

    The threshold is on a segment's probability; within it transformers' own post-processing decides.
    """

    @property
    def _own_rule(self) -> str:
        return "the subject: the segment in the middle"

    def _mask(self, outputs: Any, height: int, width: int) -> Tensor:
        sizes = {"threshold": self.config.threshold, "target_sizes": [(height, width)]}
        if hasattr(self.processor, "post_process_panoptic_segmentation"):
            post_process = self.processor.post_process_panoptic_segmentation
            answer = post_process(outputs, label_ids_to_fuse=set(), **sizes)[0]
        else:
            answer = self.processor.post_process_instance_segmentation(outputs, **sizes)[0]
        segments = answer["segmentation"].cpu()
        numbers = [
            one["id"] for one in answer["segments_info"] or () if one["label_id"] in self.found.subject
        ]
        if not self.config.subject_labels:
            central = central_segment(segments, numbers)
            numbers = [] if central is None else [central]
        return torch.isin(segments, torch.tensor(numbers, dtype=segments.dtype))


def load_transformers(found: SegmenterFiles, config: SegmenterConfig, device: torch.device) -> Segmenter:
    """The model with its image processor, frozen, in float32.

    Raises ValueError in one line when the files are damaged or incomplete, ImportError when the class needs a package.
    """
    import transformers
    from safetensors import SafetensorError

    if found.kind == "semantic":
        loader: Any = transformers.AutoModelForSemanticSegmentation
    elif found.architecture == "RfDetrForInstanceSegmentation":
        loader = transformers.AutoModelForInstanceSegmentation
    else:
        loader = transformers.AutoModelForUniversalSegmentation
    safely = {"trust_remote_code": False, "local_files_only": True}
    try:
        with _quiet():
            # Pillow's processing where there is a choice: the same mask with and without torchvision.
            processor = transformers.AutoImageProcessor.from_pretrained(
                found.folder, use_fast=False, **safely
            )
            module, report = loader.from_pretrained(
                found.folder, use_safetensors=True, output_loading_info=True, dtype=torch.float32, **safely
            )
    except ImportError as error:
        raise ImportError(f"{found.name}: {_first_line(error)}") from error
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{found.name}: could not be loaded as {found.architecture}: {_first_line(error)}"
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:  # transformers fills the gaps with random numbers and goes on
        raise ValueError(
            f"{found.name}: {len(missing)} weights of {found.architecture} are not in the files, the first is "
            f"{missing[0]}; download or save the model again"
        )
    kind = SemanticSegmenter if found.kind == "semantic" else SegmentSegmenter
    return kind(found, config, module.requires_grad_(False).eval().to(device), processor)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' remarks while loading (the checks above replace them); put all back after."""
    from transformers.utils import logging

    level, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if has_bar:
            logging.enable_progress_bar()
