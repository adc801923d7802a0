"""Face one: the nodes on ComfyUI's canvas (V3 only). Nothing heavy is imported when ComfyUI starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfy_api.latest import ComfyExtension


async def comfy_entrypoint() -> ComfyExtension:
    """What ComfyUI calls to get the pack's nodes; the list is still empty."""
    from comfy_api.latest import ComfyExtension, io

    class DivrlExtension(ComfyExtension):  # type: ignore[misc]
        async def get_node_list(self) -> list[type[io.ComfyNode]]:
            return []

    return DivrlExtension()
