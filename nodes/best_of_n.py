"""Gated Best-of-N Sampler: many candidates, scored against the reference, the best or the most diverse kept."""

from __future__ import annotations

import logging
from typing import Any

from comfy_api.latest import io, ui
from torch import Tensor

from .backbone import BACKBONE
from .contest import Contest
from .convert import to_image
from .decoding import AUTO, VAE
from .score import make_judge
from .thresholds import gate_inputs, gate_of, score_settings, threshold_inputs

logger = logging.getLogger("divrl")

REWARD, DIVERSE = "reward", "diverse set"


class GatedBestOfN(io.ComfyNode):
    """Samples N candidates, drops those that lose the subject, returns K of the rest."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DivRL_GatedBestOfN",
            display_name="Gated Best-of-N Sampler",
            category="DivRL",
            description=(
                "Samples N candidates from seed, seed + 1, ..., scores them against the reference, and returns the K "
                "that keep its identity and copy its structure least. Losers are stopped early."
            ),
            is_output_node=True,
            search_aliases=[
                "divrl",
                "best of n",
                "rejection sampling",
                "diverse",
                "pick best",
                "kontext variety",
            ],
            inputs=[
                *_model_inputs(),
                *_choice_inputs(),
                *gate_inputs(penalty_changes="the rewards told, not in what is kept"),
                *_cost_inputs(),
                *threshold_inputs(),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The K pictures kept, the best first."),
                io.Latent.Output(display_name="latents", tooltip="Their latents."),
                io.Int.Output(
                    display_name="seeds",
                    is_output_list=True,
                    tooltip="Their seeds: the stock sampler makes the same picture from each.",
                ),
                io.String.Output(
                    display_name="scores", tooltip="Every candidate's scores and fate, as JSON."
                ),
                io.Image.Output(
                    display_name="all_candidates",
                    tooltip="All N; those stopped early as they were foreseen.",
                ),
                io.Image.Output(display_name="sheet", tooltip="All candidates with scores, gate and choice."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        sampler: Any,
        sigmas: Tensor,
        latent: Any,
        vae: Any,
        reference: Tensor,
        backbone: Any,
        noise_seed: int,
        candidates: int,
        keep: int,
        mode: str,
        gate: float,
        penalty: float,
        pruning: bool,
        pruning_plan: str,
        foreseen_by: str,
        micro_batch: int,
        tau_s: float,
        tau_v: float,
        pooling: int,
        positive: Any = None,
        reference_mask: Tensor | None = None,
    ) -> io.NodeOutput:
        judge = make_judge(
            backbone, reference, reference_mask, score_settings(backbone, tau_s, tau_v, pooling)
        )
        contest = Contest(
            guider=_guider(model, positive),
            sampler=sampler,
            sigmas=sigmas,
            latent=latent,
            vae=vae,
            judge=judge,
            seed=noise_seed,
            candidates=candidates,
            keep=keep,
            mode=mode,
            gate=gate_of(backbone, gate),
            plan_words=pruning_plan if pruning else None,
            foreseen_by=foreseen_by,
            micro_batch=micro_batch,
        )
        contest.run()
        logger.info("best of %d: %s", candidates, contest.summary())
        sheet = to_image(contest.sheet())
        return io.NodeOutput(
            contest.kept_images(),
            contest.kept_latents(),
            [contest.seeds[index] for index in contest.choice.kept],
            contest.as_json(penalty),
            contest.images.movedim(1, -1),
            sheet,
            ui=ui.PreviewImage(sheet, cls=cls),
        )


def _model_inputs() -> list[Any]:
    return [
        io.MultiType.Input(
            "model",
            types=[io.Model, io.Guider],
            tooltip="A model (then connect positive as well), or a guider such as CFG Guider.",
        ),
        io.Conditioning.Input(
            "positive",
            optional=True,
            tooltip="The prompt with its reference latent, when a model and no guider is connected.",
        ),
        io.Sampler.Input(
            "sampler",
            tooltip=(
                "Euler, heun, dpm_2, lms, dpmpp_2m, ipndm, deis, res_multistep and gradient_estimation are paused in "
                "place by pruning; with others (ancestral, SDE, ...) survivors start again, which costs more."
            ),
        ),
        io.Sigmas.Input("sigmas", tooltip="The schedule, for example from BasicScheduler."),
        io.Latent.Input("latent", tooltip="The latent of one picture, usually empty."),
        io.Vae.Input("vae", tooltip="The model's VAE."),
        io.Image.Input(
            "reference", tooltip="One picture of the subject: what the candidates are compared with."
        ),
        BACKBONE.Input("backbone", tooltip="From Load Reward Backbone."),
        io.Mask.Input(
            "reference_mask",
            optional=True,
            tooltip="Where the subject is in the reference (1 = subject). Without it the whole picture counts.",
        ),
    ]


def _choice_inputs() -> list[Any]:
    return [
        io.Int.Input(
            "noise_seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=True,
            tooltip="Candidate i is what the stock sampler makes with noise_seed + i.",
        ),
        io.Int.Input("candidates", default=8, min=1, max=64, tooltip="N: how many are sampled."),
        io.Int.Input("keep", default=2, min=1, max=64, tooltip="K: how many are returned."),
        io.Combo.Input(
            "mode",
            options=[REWARD, DIVERSE],
            default=REWARD,
            tooltip=(
                "reward: those that differ most from the reference. diverse set: those that differ most from the "
                "reference and from each other. Both only among those that pass the gate."
            ),
        ),
    ]


def _cost_inputs() -> list[Any]:
    return [
        io.Boolean.Input(
            "pruning",
            default=True,
            tooltip="Stop candidates early that will not be kept, by the picture foreseen at early steps.",
        ),
        io.String.Input(
            "pruning_plan",
            default="auto",
            advanced=True,
            tooltip='"auto", or pairs STEP:SURVIVORS: "4:5 8:3" lets 5 go on after step 4, and 3 after step 8.',
        ),
        io.Combo.Input(
            "foreseen_by",
            options=[AUTO, VAE],
            default=AUTO,
            advanced=True,
            tooltip="What decodes foreseen pictures. auto: a TAESD in models/vae_approx if there is one, else the VAE.",
        ),
        io.Int.Input(
            "micro_batch",
            default=1,
            min=0,
            max=64,
            advanced=True,
            tooltip=(
                "Candidates the model takes at once. 1: exactly the stock sampler's pictures. More: equal but for "
                "rounding. 0: as many as fit into free memory."
            ),
        ),
    ]


def _guider(model: Any, positive: Any) -> Any:
    """The guider that is connected, or a basic one of a model and a prompt. Raises ValueError for neither, or both."""
    from comfy_extras.nodes_custom_sampler import Guider_Basic

    if hasattr(model, "predict_noise") and hasattr(model, "model_patcher"):
        if positive is not None:
            raise ValueError(
                "positive: a guider is connected, which has its own prompt; disconnect one of them"
            )
        return model
    if positive is None:
        raise ValueError(
            "positive: a model needs a prompt here; connect one, or a guider in place of the model"
        )
    guider = Guider_Basic(model)
    guider.set_conds(positive)
    return guider
