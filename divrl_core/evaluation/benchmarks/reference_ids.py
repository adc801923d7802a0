"""What a reference may be called: an evaluation makes files and folders of its id."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath


def id_problem(reference_id: str) -> str | None:
    """What is wrong with an id as a path below a folder, such as "fox" or "toys/fox"; None where nothing is."""
    as_windows = PureWindowsPath(reference_id)  # splits at / and \ alike, and knows drives
    leads_out = bool(as_windows.drive or as_windows.root) or ".." in as_windows.parts
    is_plain = reference_id not in ("", ".") and PurePosixPath(reference_id).as_posix() == reference_id
    if as_windows.name.endswith(".mask"):
        return f"the id {reference_id!r} ends as masks' files do; needs one such as {reference_id[: -len('.mask')]!r}"
    if leads_out or not is_plain or "\\" in reference_id or not reference_id.isprintable():
        return f"the id {reference_id!r} cannot name a file; needs one such as 'fox' or 'toys/fox'"
    return None
