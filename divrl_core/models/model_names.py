"""How a pipeline is named in settings: the embedded one, a folder, or a repository on the Hugging Face hub.

Nothing heavy is imported here, so that checks before a run can use it.
"""

from __future__ import annotations

import re
from pathlib import Path

POCKET = "pocket"
POCKET_TEXT_TO_IMAGE = (
    "pocket-text-to-image"  # the embedded small FLUX.1-dev: same VAE and encoders, no reference
)
POCKETS = (POCKET, POCKET_TEXT_TO_IMAGE)
POCKET_FOLDER = Path(__file__).resolve().parent.parent / "pocket" / "weights"
TEXT_TO_IMAGE_PART = "transformer_text_to_image"  # in the pocket's folder, beside the Kontext transformer
# The pipelines that can be used, and how each takes a reference of its own accord: the layout of `layout.py`.
# A text-to-image model takes none; it learns to by masked conditional flow matching, in the layout "width".
PIPELINES = {"FluxKontextPipeline": "kontext", "FluxPipeline": "width"}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*")


def is_hub_id(name: str) -> bool:
    """Whether the name has the form owner/name, so that it may be a repository if no folder is called so."""
    return _HUB_ID.fullmatch(name) is not None
