"""A rival that trains nothing: noise on what the prompt says, most in the early steps, none in the late ones.

    y_t = y + share * std(y) * sqrt(1 - gamma(t)) * n,   n ~ N(0, 1), new in every step
    gamma(t) = 1 for t <= .6,  (.9 - t) / (.9 - .6) between,  0 for t >= .9

y: a prompt's embeddings (all its T5 tokens together, and CLIP's pooled vector for itself), std over all their numbers.

The schedule is that of CADS (arXiv:2310.17347, eq. 2), with the fraction of noise in a flow's x_t as its t, and with
its users' .6 and .9 for tau_1 and tau_2. A schedule and no constant noise: early steps settle how a picture is laid
out, which is where a rival may gain variety; late ones settle what is in it, and noise there costs what was asked for.
Unlike CADS (eq. 3) the prompt is kept whole below the noise. CADS fades it out, so that its first steps are
unconditional ones, for which models under classifier-free guidance are trained; one whose guidance is embedded never
saw such steps. So a share of 0 is the base model.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from ...flow.noise import keyed_noise
from ...flow.sde import ode_step
from ...models.conditioning import Conditioning
from ...training.policy import Policy
from ..generate import PictureJob

TAU_1, TAU_2 = 0.6, 0.9
PROMPT, POOLED = "prompt noise", "pooled noise"


def noise_weight(t: float) -> float:
    """sqrt(1 - gamma(t)): 1 for noise (t >= .9), 0 for what is nearly clean (t <= .6)."""
    return math.sqrt(min(max((t - TAU_1) / (TAU_2 - TAU_1), 0.0), 1.0))


@torch.no_grad()
def sample_with_text_noise(
    policy: Policy, conditioning: Conditioning, job: PictureJob, *, share: float, steps: int
) -> Tensor:
    """One picture (1, 3, H, W), float32 in [0, 1]; its text noise is keyed by its name and the step."""
    x_t = job.noise(policy.latent_shape)[None].to(policy.device)
    for step, (t, t_next) in enumerate(pairwise(policy.times(steps))):
        given = noisy_text(conditioning, job, share=share * noise_weight(t), step=step)
        x_t = ode_step(x_t, policy.velocity(x_t, t, given), t, t_next)
    return policy.decode(x_t)


def noisy_text(conditioning: Conditioning, job: PictureJob, *, share: float, step: int) -> Conditioning:
    """One sample's conditioning with noise of `share` of their deviation on prompt embeddings and pooled vector."""
    if share == 0:
        return conditioning
    return replace(
        conditioning,
        prompt_embeds=_noisy(conditioning.prompt_embeds, job, PROMPT, share, step),
        pooled=_noisy(conditioning.pooled, job, POOLED, share, step),
    )


def _noisy(values: Tensor, job: PictureJob, kind: str, share: float, step: int) -> Tensor:
    noise = keyed_noise(
        values.shape,
        seed=job.seed,
        stream=f"{job.stream}/{kind}",
        group=job.group,
        sample=job.sample,
        step=step,
    )
    clean = values.float()
    return (clean + share * clean.std() * noise.to(clean.device)).to(values.dtype)
