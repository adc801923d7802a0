"""Face one: the nodes on ComfyUI's canvas (V3 only). Nothing heavy is imported when ComfyUI starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfy_api.latest import ComfyExtension


async def comfy_entrypoint() -> ComfyExtension:
    """What ComfyUI calls to get the pack's nodes."""
    from comfy_api.latest import ComfyExtension, io

    from . import backbone, best_of_n, maps, pocket, reference, score, segment
    from .model_folders import register_folders

    register_folders()

    class DivrlExtension(ComfyExtension):
        async def get_node_list(self) -> list[type[io.ComfyNode]]:
            return [
                backbone.LoadRewardBackbone,
                score.ScoreImages,
                maps.StructureAndIdentityMaps,
                reference.WidthReference,
                reference.WidthReferenceFromImage,
                best_of_n.GatedBestOfN,
                pocket.LoadPocketKontext,
                segment.SegmentSubject,
            ]

    return DivrlExtension()
