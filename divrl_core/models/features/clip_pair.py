"""CLIP whole: pictures and prompts as vectors in one space, for measures of finished pictures.

transformers' CLIPModel with the tokenizer and the picture processor beside it, from a folder or hub id; no pickle is
read. The vectors are the projected embeddings, of length 1, in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from torch.nn import functional as F

from .clip import ClipBackbone
from .picture_processor import PictureProcessor, read_processor
from .vision_files import Purpose, VisionFiles, open_files

DEFAULT = "openai/clip-vit-large-patch14"
TOKENIZER = ("tokenizer.json", "vocab.json", "merges.txt")
TOKENIZER_FILES = (*TOKENIZER, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
AT_ONCE = 16
assert ClipBackbone.standard is not None
STANDARD = PictureProcessor(shortest_px=224, crop_px=224, normalisation=ClipBackbone.standard)


PURPOSE = Purpose(
    who="metric clip",
    kinds=("clip",),
    named="name its folder: clip=FOLDER",
    instead=f"give a whole CLIPModel, such as {DEFAULT}",
    otherwise="the metrics that are taken by default need no network",
    more_files=TOKENIZER_FILES,
)


def check_clip(files: VisionFiles) -> None:
    """Raise ValueError, in one line, where the folder lacks one of CLIP's two sides or its vocabulary."""
    assert files.folder is not None
    for tensor, side in (("visual_projection.weight", "picture"), ("text_projection.weight", "text")):
        if tensor not in files.tensors:
            raise ValueError(
                f"{PURPOSE.who}: {files.origin}: its {side} side is missing (no {tensor}); give a whole CLIPModel, "
                f"such as {DEFAULT}"
            )
    has_pair = all((files.folder / name).is_file() for name in TOKENIZER[1:])
    if not (files.folder / TOKENIZER[0]).is_file() and not has_pair:
        raise ValueError(
            f"{PURPOSE.who}: {files.origin}: no tokenizer: {TOKENIZER[0]} (or vocab.json and merges.txt) must lie "
            "beside the weights"
        )


class ClipPair:
    """A frozen CLIP. origin: where it is from, for figures."""

    def __init__(self, model: Any, tokenizer: Any, processor: PictureProcessor, *, origin: str) -> None:
        self.origin, self.processor = origin, processor
        self._model, self._tokenizer = model, tokenizer

    @classmethod
    def load(cls, path: str | None = None, *, device: str | torch.device = "cpu") -> ClipPair:
        """From a folder or hub id; None = `DEFAULT`.

        Raises FileNotFoundError where there are no such files, ValueError where they are another model's, damaged or
        pickled; one line each.
        """
        from transformers import CLIPModel, CLIPTokenizer

        from ..components import quiet, read_module, refuse_missing

        files = open_files(PURPOSE, path or DEFAULT)
        check_clip(files)
        assert files.folder is not None
        processor = read_processor(files, STANDARD)
        model, missing = read_module(
            files.folder, CLIPModel, dtype=torch.float32, device=torch.device("cpu"),
            config=_configuration(files),
        )  # fmt: skip
        refuse_missing(files.folder, CLIPModel, missing)
        with quiet():
            tokenizer = CLIPTokenizer.from_pretrained(str(files.folder), local_files_only=True)
        return cls(model.to(device), tokenizer, processor, origin=files.origin)

    @torch.no_grad()
    def pictures(self, pictures: Sequence[Any]) -> Tensor:
        """Vectors of PIL pictures of any size: (B, D), length 1."""
        parts = []
        for start in range(0, len(pictures), AT_ONCE):
            pixels = self.processor.pixels(pictures[start : start + AT_ONCE]).to(self._device)
            pooled = self._model.vision_model(pixel_values=pixels).pooler_output
            parts.append(self._model.visual_projection(pooled))
        return F.normalize(torch.cat(parts).float(), dim=1)

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Vectors of prompts, each cut to as many tokens as the model takes: (B, D), length 1."""
        most = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer(
            list(prompts), padding=True, truncation=True, max_length=most, return_tensors="pt"
        )
        ids, mask = (tokens[name].to(self._device) for name in ("input_ids", "attention_mask"))
        pooled = self._model.text_model(input_ids=ids, attention_mask=mask).pooler_output
        return F.normalize(self._model.text_projection(pooled).float(), dim=1)

    @property
    def _device(self) -> torch.device:
        return next(self._model.parameters()).device


def _configuration(files: VisionFiles) -> Any:
    """CLIP's configuration. Raises ValueError, in one line, when config.json makes none."""
    from transformers import CLIPConfig

    try:
        return CLIPConfig.from_dict(dict(files.config))
    except (ValueError, TypeError, KeyError, AttributeError, StrictDataclassError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{PURPOSE.who}: {files.origin}: its config.json makes no CLIPConfig: {reason}"
        ) from error
