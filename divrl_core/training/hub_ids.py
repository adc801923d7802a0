"""Names of repositories on the Hugging Face hub."""

from __future__ import annotations

import re

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*")


def is_hub_id(name: str) -> bool:
    """Whether the name has the form owner/name, so that it may be a repository if no folder is called so."""
    return _HUB_ID.fullmatch(name) is not None
