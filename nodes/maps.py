"""Structure and Identity Maps: what nSSM and VSM see, as pictures."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io, ui

from .convert import as_saved, masks_of_images, to_bchw, to_image
from .score import make_judge
from .thresholds import compared_inputs, score_settings, threshold_inputs

MOST_SHOWN = 16


class StructureAndIdentityMaps(io.ComfyNode):
    """Self-similarity maps beside the reference's, and heat maps of where identity fails."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DivRL_StructureAndIdentityMaps",
            display_name="Structure and Identity Maps",
            category="DivRL",
            description=(
                "The self-similarity maps that nSSM compares (alike maps: the same structure), and where VSM fails: "
                "places that match the reference by meaning and do not look like it."
            ),
            is_output_node=True,
            search_aliases=["divrl", "self-similarity", "ssm", "heat map", "identity map", "nssm", "vsm"],
            inputs=[
                io.Image.Input("images", tooltip=f"Pictures of one size; at most {MOST_SHOWN} are drawn."),
                *compared_inputs(),
                *threshold_inputs(),
            ],
            outputs=[
                io.Image.Output(
                    display_name="structure", tooltip="Pictures above their self-similarity maps."
                ),
                io.Image.Output(
                    display_name="identity", tooltip="Pictures in grey, coloured where identity fails."
                ),
                io.Image.Output(
                    display_name="identity_maps", tooltip="The coloured pictures alone, at their own size."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        images: torch.Tensor,
        reference: torch.Tensor,
        backbone: Any,
        tau_s: float,
        tau_v: float,
        pooling: int,
        reference_mask: torch.Tensor | None = None,
        image_masks: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        settings = score_settings(backbone, tau_s, tau_v, pooling)
        judge = make_judge(backbone, reference, reference_mask, settings)
        pictures = to_bchw(images, "images")[:MOST_SHOWN]
        structure, identity, alone = _draw(judge, pictures, _masks(image_masks, images))
        sheets = [to_image(sheet) for sheet in (structure, identity)]  # as wide as each other
        preview = torch.cat(sheets, dim=1)
        return io.NodeOutput(*sheets, to_image(alone), ui=ui.PreviewImage(preview, cls=cls))


def _masks(masks: torch.Tensor | None, images: torch.Tensor) -> torch.Tensor | None:
    flags = masks_of_images(masks, images)
    return None if flags is None else flags[:MOST_SHOWN]


def _draw(judge: Any, pictures: torch.Tensor, masks: torch.Tensor | None) -> tuple[Any, Any, list[Any]]:
    """(structure sheet, identity sheet, identity maps)."""
    from ..divrl_core.evaluation.sheets import to_picture
    from ..divrl_core.evaluation.structure_maps import (
        identity_failure,
        identity_picture,
        identity_sheet,
        self_similarity,
        structure_sheet,
    )
    from ..divrl_core.rewards.similarity import resize_mask

    shape = (pictures.shape[-2], pictures.shape[-1])
    reference, features = judge.reference(shape).image, judge.features(shape)
    judged = judge.score(as_saved(pictures), masks)
    pool = judge.settings.nssm_pool
    maps = [self_similarity(one, features.structure_mask, pool=pool) for one in judged.features.structure]
    sources = None if masks is None else resize_mask(masks, judged.features.grid)
    failures, kept = identity_failure(judged, features, judge.settings, sources)
    shown = [to_picture(picture) for picture in pictures]
    nssm, vsm = judged.scores.nssm.tolist(), judged.scores.vsm.tolist()
    reference_map = self_similarity(judge.own(shape).structure[0], features.structure_mask, pool=pool)
    return (
        structure_sheet(reference, reference_map, shown, maps, nssm),
        identity_sheet(reference, shown, list(failures), list(kept), vsm),
        [identity_picture(picture, failure) for picture, failure in zip(shown, failures, strict=True)],
    )
