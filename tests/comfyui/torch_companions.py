"""Lets torchvision and torchaudio be imported where their compiled parts do not fit the installed torch.

`install.py` copies this file into the site-packages of ComfyUI's environment, where a `.pth` file imports it
at every start of Python. Nothing happens before torchvision or torchaudio is imported, and nothing at all
where their compiled parts load. Otherwise transforms and functional work; compiled operators still raise.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType

SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
KEPT: list[object] = []  # a torch.library.Library takes its schemas along when it is collected


class WithoutLibrary(Loader):
    """Loads the stand-in for torchaudio._extension: an installation built without compiled parts."""

    def exec_module(self, module: ModuleType) -> None:
        """Fills the module with the two names that torchaudio takes from it."""
        internals = importlib.import_module("torchaudio._internal.module_utils")
        vars(module).update(
            _IS_TORCHAUDIO_EXT_AVAILABLE=False,
            fail_if_no_align=internals.fail_with_message(
                "torchaudio's compiled part does not fit this torch"
            ),
        )


class Companions(MetaPathFinder):
    """Sees the one module of each package that trips over a missing library, just before it is imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A stand-in for torchaudio._extension where it is needed; None, so the real module, otherwise."""
        if fullname == "torchvision._meta_registrations":
            if not importlib.import_module("torchvision.extension")._has_ops():
                define_schemas()
        elif fullname == "torchaudio._extension" and path is not None and not loads(Path(next(iter(path)))):
            return spec_from_loader(fullname, WithoutLibrary())
        return None


def define_schemas() -> None:
    """Defines the operators for which torchvision registers a fake implementation when it is imported."""
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in SCHEMAS.values():
        library.define(schema)
    KEPT.append(library)


def loads(package: Path) -> bool:
    """True where torchaudio's compiled part loads, or is not there at all, which torchaudio allows itself."""
    import torch

    try:
        for library in sorted((package / "lib").glob("_torchaudio.*")):
            torch.ops.load_library(library)
    except OSError:
        return False
    return True


sys.meta_path.insert(0, Companions())
