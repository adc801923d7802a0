"""How a pipeline is named in settings: the embedded one, a folder, or a repository on the Hugging Face hub.

Nothing heavy is imported here, so that checks before a run can use it.
"""

from __future__ import annotations

import re
from pathlib import Path

POCKET = "pocket"
POCKET_FOLDER = Path(__file__).resolve().parent.parent / "pocket" / "weights"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*")


def is_hub_id(name: str) -> bool:
    """Whether the name has the form owner/name, so that it may be a repository if no folder is called so."""
    return _HUB_ID.fullmatch(name) is not None
