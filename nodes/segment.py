"""Segment Subject: a mask of the subject by a segmentation model of the user's."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.model_management as management
import comfy.model_patcher
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import io

from .convert import to_bchw
from .model_folders import SEGMENTATION, segmentation_models

if TYPE_CHECKING:
    from ..divrl_core.models.segmentation.base import Segmenter

logger = logging.getLogger("divrl")

NO_MODEL = f"(none yet: put one into models/{SEGMENTATION})"
BYTES_PER_PIXEL = 2**12  # of a segmentation model's activations, generously


class SegmentSubject(io.ComfyNode):
    """The subject of each picture as a mask, 1 on the subject."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DivRL_SegmentSubject",
            display_name="Segment Subject",
            category="DivRL",
            description=(
                "A mask of the subject (1 = subject) for the scoring and sampling nodes, by a segmentation model in "
                "models/divrl_segmentation: a .onnx file such as rembg's, or a folder of a transformers model."
            ),
            search_aliases=[
                "divrl",
                "remove background",
                "background removal",
                "rembg",
                "u2net",
                "birefnet",
                "mask subject",
                "segmentation",
            ],
            inputs=[
                io.Image.Input("image", tooltip="The pictures; each gets a mask of its own."),
                io.Combo.Input(
                    "model",
                    options=segmentation_models() or [NO_MODEL],
                    tooltip="A file or folder in models/divrl_segmentation: .onnx, or config.json and .safetensors.",
                ),
                io.String.Input(
                    "labels",
                    default="",
                    tooltip=(
                        "The model's classes that are the subject: dog, cat. Empty: all but background, or the thing "
                        "in the middle. A .onnx file knows no classes: leave it empty."
                    ),
                ),
                io.Float.Input(
                    "threshold",
                    default=0.5,
                    min=0.0,
                    max=0.99,
                    step=0.01,
                    tooltip="Probability above which a pixel (of an instance model: a segment) counts.",
                ),
                io.Combo.Input(
                    "normalisation",
                    options=["imagenet", "imagenet-mean", "half", "symmetric", "none"],
                    default="imagenet",
                    advanced=True,
                    tooltip="How colours are fed to a .onnx file: imagenet for U2-Net and BiRefNet.",
                ),
                io.Combo.Input(
                    "output",
                    options=["probability", "stretched"],
                    default="probability",
                    advanced=True,
                    tooltip="How a .onnx file's answer is read: as it is, or stretched from its least to its greatest.",
                ),
            ],
            outputs=[io.Mask.Output(display_name="mask", tooltip="One a picture, 1 on the subject.")],
        )

    @classmethod
    def execute(
        cls, image: torch.Tensor, model: str, labels: str, threshold: float, normalisation: str, output: str
    ) -> io.NodeOutput:
        segmenter = load_segmenter(
            model,
            labels=labels.strip() or None,
            threshold=threshold,
            normalisation=normalisation,
            output=output,
        )
        return io.NodeOutput(masks_of(segmenter, to_bchw(image, "image"), model).float())


def load_segmenter(model: str, **settings: Any) -> Segmenter:
    """The model of a choice in the node's list. Raises ValueError, FileNotFoundError or ImportError in one line."""
    from ..divrl_core.config import SegmenterConfig
    from ..divrl_core.models.segmentation.base import load_segmenter as load

    if model == NO_MODEL:
        raise ValueError(
            f"model: there is none in models/{SEGMENTATION}: put a .onnx file there, or a folder with a transformers "
            "segmentation model (config.json, preprocessor_config.json, .safetensors)"
        )
    try:
        config = SegmenterConfig(model=path_of(model), **settings)
    except ValueError as error:
        raise ValueError(str(error).replace("data.segmenter.", "")) from error
    # onnxruntime holds its own memory; transformers' weights are moved by ComfyUI.
    segmenter = load(config, device=management.get_torch_device() if config.is_onnx else "cpu")
    logger.info("segmentation: %s", segmenter.source)
    return segmenter


def path_of(model: str) -> str:
    """The path of a file in models/divrl_segmentation, or of the folder of a model's config.json there."""
    if model.lower().endswith(".onnx"):
        return str(folder_paths.get_full_path_or_raise(SEGMENTATION, model))
    return str(Path(folder_paths.get_full_path_or_raise(SEGMENTATION, f"{model}/config.json")).parent)


def masks_of(segmenter: Segmenter, pictures: torch.Tensor, name: str) -> torch.Tensor:
    """Bool (B, H, W) of pictures (B, 3, H, W). Raises ValueError naming the pictures in which nothing was found."""
    if segmenter.module is not None:
        patcher = comfy.model_patcher.ModelPatcher(
            torch.nn.ModuleList(
                [segmenter.module]
            ),  # ComfyUI writes `device` on it, which transformers reads alone
            load_device=management.get_torch_device(),
            offload_device=management.text_encoder_offload_device(),
        )
        needed = BYTES_PER_PIXEL * pictures.shape[-2] * pictures.shape[-1]
        # Whole: its layers are plain ones, which ComfyUI cannot run half here and half there.
        management.load_models_gpu([patcher], memory_required=needed, force_full_load=True)
    progress, masks = comfy.utils.ProgressBar(len(pictures)), []
    for picture in pictures:
        management.throw_exception_if_processing_interrupted()
        masks.append(segmenter.masks(picture[None])[0])
        progress.update(1)
    empty = [str(number) for number, mask in enumerate(masks, 1) if not mask.any()]
    if empty:
        raise ValueError(
            f"{name} found no subject in picture {', '.join(empty)} of {len(masks)}: name the subject's labels, lower "
            "the threshold, take another model, or paint a mask"
        )
    return torch.stack(masks)
