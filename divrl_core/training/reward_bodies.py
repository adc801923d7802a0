"""The bodies of a question to a reward server: safetensors, or JSON with PNG files in base64; both ways.

Reading trusts nothing: kinds, shapes, lengths and sides are checked before memory is spent on them. Nothing is pickled.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from .reward_wire import (
    JSON,
    MOST_PICTURES,
    MOST_SIDE_PX,
    MOST_TEXT,
    PROTOCOL,
    SAFETENSORS,
    Question,
    WireError,
    read_json,
    read_tensors,
)

WORDS = ("reference_key", "reference_id", "group_id", "prompt")


def write_question(question: Question, body: str) -> tuple[bytes, str]:
    """A question as bytes with their content type; `body` is safetensors or png."""
    words = {name: getattr(question, name) for name in WORDS}
    if body == "png":
        said: dict[str, Any] = {"protocol": PROTOCOL, **words}
        said["pictures"] = [_png(picture) for picture in question.pictures]
        if question.reference is not None:
            image, mask = question.reference
            said |= {"reference": _png(image), "mask": _png(mask.to(torch.uint8) * 255)}
        return json.dumps(said).encode(), JSON
    tensors = {"pictures": question.pictures.contiguous()}
    if question.reference is not None:
        image, mask = question.reference
        tensors |= {"reference": image.contiguous(), "mask": mask.to(torch.uint8).contiguous()}
    return save(tensors, metadata={"protocol": str(PROTOCOL), **words}), SAFETENSORS


def read_question(content: bytes, content_type: str) -> Question:
    """The question in a body. Raises WireError for everything that is not one."""
    if content_type == SAFETENSORS:
        found, words = read_tensors(content)
        tensors: Mapping[str, Tensor] = found
    else:
        words = read_json(content)
        tensors = _pictures_of(words)
    if str(words.get("protocol")) != str(PROTOCOL):
        raise WireError(
            f"the question is of version {words.get('protocol')!r} of the protocol, this is {PROTOCOL}"
        )
    for name in WORDS:
        if not isinstance(words.get(name), str) or len(words[name]) > MOST_TEXT:
            raise WireError(f"{name} must be a text of at most {MOST_TEXT} characters")
    if "pictures" not in tensors:
        raise WireError(f"pictures are missing; there is {', '.join(sorted(tensors)) or 'nothing'}")
    pictures = _checked(tensors["pictures"], "pictures", dims=4)
    if not 1 <= len(pictures) <= MOST_PICTURES:
        raise WireError(f"pictures must be 1 to {MOST_PICTURES}, got {len(pictures)}")
    reference = None
    if "reference" in tensors or "mask" in tensors:
        if not {"reference", "mask"} <= tensors.keys():
            raise WireError("reference and mask belong together")
        image, mask = _checked(tensors["reference"], "reference", dims=3), tensors["mask"]
        if mask.shape != image.shape[:2] or mask.dtype not in (torch.uint8, torch.bool):
            raise WireError(
                f"mask must be uint8 {tuple(image.shape[:2])}, got {mask.dtype} {tuple(mask.shape)}"
            )
        reference = (image, mask > 0 if content_type == SAFETENSORS else mask > 127)
    return Question(pictures=pictures, reference=reference, **{name: words[name] for name in WORDS})


def _pictures_of(said: Mapping[str, Any]) -> dict[str, Tensor]:
    texts = said.get("pictures")
    if not isinstance(texts, list) or not 1 <= len(texts) <= MOST_PICTURES:
        raise WireError(f"pictures must be a list of 1 to {MOST_PICTURES} PNG files in base64")
    pictures = [_read_png(text, f"picture {place}", "RGB") for place, text in enumerate(texts)]
    sizes = {tuple(picture.shape) for picture in pictures}
    if len(sizes) > 1:
        raise WireError(f"pictures must be of one size, got {len(sizes)}")
    tensors = {"pictures": torch.stack(pictures)}
    for name, mode in (("reference", "RGB"), ("mask", "L")):
        if said.get(name) is not None:
            tensors[name] = _read_png(said[name], name, mode)
    return tensors


def _checked(picture: Tensor, name: str, *, dims: int) -> Tensor:
    shape = tuple(picture.shape)
    height_width = shape[-3:-1]
    if picture.dtype != torch.uint8 or len(shape) != dims or shape[-1] != 3:
        wanted = "(B, H, W, 3)" if dims == 4 else "(H, W, 3)"
        raise WireError(f"{name} must be uint8 {wanted}, got {picture.dtype} {shape}")
    if not all(1 <= side <= MOST_SIDE_PX for side in height_width):
        raise WireError(f"{name}: sides must be 1 to {MOST_SIDE_PX} px, got {height_width}")
    return picture


def _png(picture: Tensor) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture.numpy()).save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()


def _read_png(text: object, name: str, mode: str) -> Tensor:
    try:
        content = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if max(image.size) > MOST_SIDE_PX:
                raise WireError(f"{name}: sides must be 1 to {MOST_SIDE_PX} px, got {image.size}")
            return torch.from_numpy(np.array(image.convert(mode)))
    except WireError:
        raise
    except (binascii.Error, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise WireError(f"{name} must be a PNG file in base64 ({type(error).__name__})") from error
