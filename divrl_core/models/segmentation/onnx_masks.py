"""Masks by an ONNX file that answers a picture with the saliency of each pixel, as rembg's files do.

Input: one, float (B, 3, H, W); a picture is resized to H x W, its aspect not kept, as such models are trained. Where
the file leaves H and W open they are DYNAMIC_PX. Output: the first, (B, 1, H, W) or (B, H, W). One picture at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import checked_pictures, flags_of
from .files import PACKAGE_HINT

if TYPE_CHECKING:
    from ...config import SegmenterConfig
    from .files import SegmenterFiles

DYNAMIC_PX = 1024
BEYOND = 1e-3  # how far probabilities may leave [0, 1] by rounding
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ONES, HALVES = (1.0, 1.0, 1.0), (0.5, 0.5, 0.5)
# Name of the setting -> mean and standard deviation: (x - mean) / std of colours x in [0, 1].
NORMALISATIONS = {
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "imagenet-mean": (IMAGENET_MEAN, ONES),
    "half": (HALVES, ONES),
    "symmetric": (HALVES, HALVES),
    "none": ((0.0, 0.0, 0.0), ONES),
}
_TYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16}


class OnnxSegmenter:
    """A session of onnxruntime, and how it is fed and read."""

    module = None

    def __init__(self, found: SegmenterFiles, config: SegmenterConfig, session: Any) -> None:
        self.name = found.name
        self._config, self._session = config, session
        self._input, self._dtype, self._size = _input_of(session, found.name)
        self.source = f"{self.name} ({self._size[1]} x {self._size[0]} px, {config.normalisation})"

    @classmethod
    def load(cls, found: SegmenterFiles, config: SegmenterConfig, device: torch.device) -> OnnxSegmenter:
        """Open the file, on the GPU where the device is one and this onnxruntime has it.

        Raises ImportError without onnxruntime, ValueError for a damaged file or one with other inputs; one line each.
        """
        try:
            import onnxruntime
        except ImportError:
            raise ImportError(f"{found.name}: {PACKAGE_HINT}") from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors: they come as exceptions too, warnings are of no use here
        options.intra_op_num_threads = torch.get_num_threads()
        wanted = ["CUDAExecutionProvider"] if device.type == "cuda" else []
        providers = [one for one in wanted if one in onnxruntime.get_available_providers()]
        try:
            session = onnxruntime.InferenceSession(
                str(found.files[0]), options, providers=[*providers, "CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors have no class of their own
            raise ValueError(f"{found.name}: onnxruntime cannot open it: {_first_line(error)}") from error
        return cls(found, config, session)

    def masks(self, pictures: Tensor) -> Tensor:
        """As `Segmenter.masks`. Raises ValueError when the file answers with anything but one channel of saliency."""
        height, width = pictures.shape[-2:]
        saliency = self.saliency(pictures)
        return flags_of(saliency, height, width, self._config.threshold)

    def saliency(self, pictures: Tensor) -> Tensor:
        """What the file says of pictures (B, 3, H, W), in [0, 1] at its own size: (B, h, w)."""
        squares = checked_pictures(pictures).cpu()
        if squares.shape[-2:] != self._size:
            squares = F.interpolate(squares, self._size, mode="bilinear", antialias=True, align_corners=False)
        mean, std = (
            torch.tensor(values).view(3, 1, 1) for values in NORMALISATIONS[self._config.normalisation]
        )
        fed = ((squares - mean) / std).to(self._dtype)
        return torch.cat([self._answer(picture[None]) for picture in fed])

    def _answer(self, picture: Tensor) -> Tensor:
        try:
            (answer, *_) = self._session.run(None, {self._input: picture.numpy()})
        except Exception as error:  # as above
            raise ValueError(f"{self.name}: onnxruntime stopped: {_first_line(error)}") from error
        found = torch.as_tensor(answer).float()
        if found.ndim == 4 and found.shape[1] == 1:
            found = found[:, 0]
        if found.ndim != 3 or len(found) != 1:
            raise ValueError(
                f"{self.name}: its first output must be the saliency of one picture, (1, 1, H, W), got "
                f"{tuple(found.shape)}; a model of salient objects (such as U2-Net) is needed"
            )
        if not torch.isfinite(found).all():
            raise ValueError(f"{self.name}: its first output is not finite; try another normalisation")
        if float(found.min()) < -BEYOND or float(found.max()) > 1 + BEYOND:
            found = found.sigmoid()
        if self._config.output == "stretched":
            low, high = found.min(), found.max()
            found = (found - low) / (high - low) if high > low else torch.zeros_like(found)
        return found


def _input_of(session: Any, name: str) -> tuple[str, torch.dtype, tuple[int, int]]:
    """Name, dtype and (height, width) of the file's input. Raises ValueError for one that takes no picture."""
    inputs = session.get_inputs()
    shown = ", ".join(f"{one.name} {one.type} {list(one.shape)}" for one in inputs)
    shape = list(inputs[0].shape) if len(inputs) == 1 else []
    # A side that is left open is a name or None.
    fits = len(shape) == 4 and shape[0] in (1, None, str(shape[0])) and shape[1] in (3, None, str(shape[1]))
    if not fits or inputs[0].type not in _TYPES:
        raise ValueError(
            f"{name}: needs one input of a picture, float (1, 3, H, W), the file has {shown or 'none'}"
        )
    height, width = (side if isinstance(side, int) and side > 0 else DYNAMIC_PX for side in shape[2:])
    return inputs[0].name, _TYPES[inputs[0].type], (height, width)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
