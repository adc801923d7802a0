"""Score Images: nSSM, VSM and the gated reward of finished pictures against their reference."""

from __future__ import annotations

import json
import math
from typing import Any

from comfy_api.latest import io, ui

from .convert import as_saved, mask_of_reference, masks_of_images, reference_picture, to_bchw, to_image
from .thresholds import compared_inputs, gate_inputs, gate_of, score_settings, threshold_inputs


class ScoreImages(io.ComfyNode):
    """How much each picture differs in structure from the reference, and how well it keeps its identity."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DivRL_ScoreImages",
            display_name="Score Images",
            category="DivRL",
            description=(
                "nSSM (0 to 2): how differently a picture is built than the reference. VSM (0 to 1): the share of "
                "matched places that look the same. Reward: nSSM, less a penalty below the gate."
            ),
            is_output_node=True,
            search_aliases=[
                "divrl",
                "nssm",
                "vsm",
                "identity score",
                "subject similarity",
                "reward",
                "consistency",
            ],
            is_input_list=True,
            inputs=[
                io.Image.Input("images", tooltip="The pictures to score; a batch, or a list with any sizes."),
                *compared_inputs(),
                *gate_inputs(),
                *threshold_inputs(),
            ],
            outputs=[
                io.Image.Output(
                    display_name="images", is_output_list=True, tooltip="The pictures, as they came."
                ),
                io.Float.Output(
                    display_name="VSM", is_output_list=True, tooltip="One a picture; nan = undefined."
                ),
                io.Float.Output(
                    display_name="nSSM", is_output_list=True, tooltip="One a picture; nan = undefined."
                ),
                io.Float.Output(
                    display_name="reward", is_output_list=True, tooltip="R2, one a picture; nan = undefined."
                ),
                io.String.Output(
                    display_name="json", tooltip="All scores, and what they were measured with."
                ),
                io.Image.Output(display_name="sheet", tooltip="The pictures with their scores and the gate."),
            ],
        )

    @classmethod
    def execute(
        cls,
        images: list[Any],
        reference: list[Any],
        backbone: list[Any],
        gate: list[float],
        penalty: list[float],
        tau_s: list[float],
        tau_v: list[float],
        pooling: list[int],
        reference_mask: list[Any] | None = None,
        image_masks: list[Any] | None = None,
    ) -> io.NodeOutput:
        chosen = _only(backbone, "backbone")
        limit = gate_of(chosen, _only(gate, "gate"))
        weight = _only(penalty, "penalty")
        judge = make_judge(
            chosen,
            _only(reference, "reference"),
            _only(reference_mask, "reference mask"),
            score_settings(chosen, _only(tau_s, "tau_s"), _only(tau_v, "tau_v"), _only(pooling, "pooling")),
        )
        rows = _scores(judge, images, image_masks, limit, weight)
        sheet = _sheet(judge, images, rows, limit)
        return io.NodeOutput(
            images,
            *([row[name] for row in rows] for name in ("vsm", "nssm", "reward")),
            json.dumps(
                {"pictures": without_nan(rows), **measured_with(judge, gate=limit, penalty=weight)}, indent=2
            ),
            sheet,
            ui=ui.PreviewImage(sheet, cls=cls),
        )


def make_judge(backbone: Any, reference: Any, mask: Any, settings: Any) -> Any:
    """What scores pictures against one reference."""
    from ..divrl_core.selection.judge import Judge

    return Judge(
        backbone, reference_picture(reference), mask_of_reference(mask, reference), settings=settings
    )


def measured_with(judge: Any, *, gate: float, penalty: float) -> dict[str, Any]:
    """What scores were measured with, for their JSON."""
    settings = judge.settings
    return {
        "gate": gate,
        "penalty": penalty,
        "tau_s": settings.tau_s,
        "tau_v": settings.tau_v,
        "pooling": settings.nssm_pool,
        "backbone": judge.backbone.source,
    }


def without_nan(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows for JSON: an undefined score is null."""
    return [{name: _defined(value) for name, value in row.items()} for row in rows]


def _scores(
    judge: Any, images: list[Any], masks: list[Any] | None, gate: float, penalty: float
) -> list[dict[str, Any]]:
    """A row a picture, in order: batches of one size go through the backbone together."""
    from ..divrl_core.rewards.gate import passes, suppress_reward

    if masks is not None and len(masks) not in (1, len(images)):
        raise ValueError(f"image masks: needs one, or one for each of {len(images)} inputs, got {len(masks)}")
    rows: list[dict[str, Any]] = []
    for number, batch in enumerate(images):
        pictures = to_bchw(batch, "images")
        mask = None if masks is None else masks[number if len(masks) > 1 else 0]
        scores = judge.score(as_saved(pictures), masks_of_images(mask, batch)).scores
        reward = suppress_reward(scores.nssm, scores.vsm, gate=gate, penalty_weight=penalty)
        is_passing = passes(scores.nssm, scores.vsm, gate=gate)
        for row in range(len(pictures)):
            rows.append(
                {
                    "vsm": float(scores.vsm[row]),
                    "nssm": float(scores.nssm[row]),
                    "reward": float(reward.total[row]),
                    "matches": int(scores.kept_count[row]),
                    "passes": bool(is_passing[row]),
                }
            )
    return rows


def _sheet(judge: Any, images: list[Any], rows: list[dict[str, Any]], gate: float) -> Any:
    from ..divrl_core.evaluation.score_sheet import ScoredPicture, score_sheet
    from ..divrl_core.evaluation.sheets import short_number

    pictures = [picture for batch in images for picture in to_bchw(batch, "images")]
    shape = tuple(pictures[0].shape[-2:])
    passing = sum(row["passes"] for row in rows)
    sheet = score_sheet(
        judge.reference(shape).image,
        [
            ScoredPicture(
                picture=picture,
                label=f"picture {number}",
                nssm=row["nssm"],
                vsm=row["vsm"],
                matches=row["matches"],
                note="" if math.isnan(row["reward"]) else f"R {short_number(row['reward'])}",
            )
            for number, (picture, row) in enumerate(zip(pictures, rows, strict=True), start=1)
        ],
        gate=gate,
        title=f"{passing} of {len(rows)} pictures pass the gate, VSM {short_number(gate)}",
        notes=[f"Measured with {judge.backbone.source}."],
    )
    return to_image(sheet)


def _defined(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _only(values: list[Any] | None, name: str) -> Any:
    """The one value of an input list; None where nothing is connected."""
    if values is None:
        return None
    if len(values) != 1:
        raise ValueError(f"{name}: needs one, got a list of {len(values)}")
    return values[0]
