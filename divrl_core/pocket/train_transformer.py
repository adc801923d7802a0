"""Train the pocket's FluxTransformer2DModel, from text to image or as a Kontext model that has the paradox of its kind.

Most training pairs show the target within about 5 degrees of the reference, the rest in another stance of the world, so
the model copies the reference's pose in most samples though it can show others.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..flow.path import interpolate, velocity_target
from ..models.pocket_parts import FluxTransformer2DModel, build_transformer
from .optimizer import BlockOptimizer
from .pairs import PairSource, TransformerRecipe
from .state import load_state, save_state

Progress = Callable[[str], None]


def position_ids(tokens: int, text_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Kontext's ids: target tokens at index 0, reference tokens at index 1, text at zero."""
    edge = math.isqrt(tokens)
    rows, columns = torch.meshgrid(torch.arange(edge), torch.arange(edge), indexing="ij")
    target = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3).float()
    reference = target.clone()
    reference[:, 0] = 1
    return torch.cat([target, reference]), torch.zeros(text_tokens, 3)


def predict(
    transformer: FluxTransformer2DModel, batch: dict[str, torch.Tensor], conditioning: str
) -> torch.Tensor:
    """The velocity of the target's tokens (B, N, C), float32.

    `conditioning` "none" leaves the reference out: text to image.
    """
    noisy = interpolate(batch["clean"], batch["noise"], batch["time"])
    tokens = noisy.shape[1]
    image_ids, text_ids = position_ids(tokens, batch["embeds"].shape[1])
    hidden = torch.cat([noisy, batch["reference"]], dim=1) if conditioning == "kontext" else noisy
    with sdpa_kernel(SDPBackend.MATH):  # the faster kernel at this size on a CPU
        output: torch.Tensor = transformer(
            hidden_states=hidden,
            encoder_hidden_states=batch["embeds"],
            pooled_projections=batch["pooled"],
            timestep=batch["time"],
            guidance=batch["guidance"],
            img_ids=image_ids[: hidden.shape[1]],
            txt_ids=text_ids,
            return_dict=False,
        )[0]
    return output[:, :tokens].float()


def flow_loss(
    transformer: FluxTransformer2DModel,
    batch: dict[str, torch.Tensor],
    conditioning: str = "kontext",
    teacher: GuidanceTeacher | None = None,
) -> torch.Tensor:
    """Mean squared error of the velocity on the target's tokens, a sample each (B,).

    The velocity asked for is the data's, or the teacher's.
    """
    wanted = velocity_target(batch["clean"], batch["noise"]) if teacher is None else teacher.velocity(batch)
    return ((predict(transformer, batch, conditioning) - wanted) ** 2).mean((1, 2))


class GuidanceTeacher:
    """Frozen models whose guided velocity a student learns: guidance distillation, as in FLUX.1-dev.

    v = v_0 + g (v_reference - v_0) at times below `below_time`, with v_0 of the text-to-image model, v_reference of the
    Kontext model and g the embedded guidance; above it v_reference alone (guidance in an interval, arXiv:2404.07724),
    since guidance there would take the choice of a pose away.
    """

    def __init__(
        self, kontext: FluxTransformer2DModel, text_to_image: FluxTransformer2DModel, below_time: float
    ) -> None:
        self.kontext = copy.deepcopy(kontext).eval().requires_grad_(False)
        self.text_to_image = copy.deepcopy(text_to_image).eval().requires_grad_(False)
        self.below_time = below_time

    @torch.no_grad()
    def velocity(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The guided velocity (B, N, C)."""
        with_reference = predict(self.kontext, batch, "kontext")
        without = predict(self.text_to_image, batch, "none")
        scale = torch.where(batch["time"] < self.below_time, batch["guidance"], 1.0)[:, None, None]
        return without + scale * (with_reference - without)


def learning_rate(recipe: TransformerRecipe, step: int) -> float:
    """Warm-up, level, and a straight line to nothing."""
    rise = min(1.0, (step + 1) / recipe.warmup_steps)
    fall = min(1.0, (recipe.steps - step) / recipe.decay_steps)
    return recipe.lr * rise * fall


def train_transformer(
    source: PairSource,
    held_out: PairSource,
    work: Path,
    recipe: TransformerRecipe,
    *,
    seed: int,
    progress: Progress,
    start_from: FluxTransformer2DModel | None = None,
    text_to_image: FluxTransformer2DModel | None = None,
) -> FluxTransformer2DModel:
    """Train (or go on training), from scratch or from the weights of `start_from`; returns the moving average.

    A recipe that distils guidance needs `text_to_image` and learns from it and `start_from` as they are.
    """
    transformer = build_transformer(seed=seed) if start_from is None else copy.deepcopy(start_from)
    transformer.train().requires_grad_(True)
    average = copy.deepcopy(transformer).requires_grad_(False)
    optimizer = BlockOptimizer(transformer, recipe.lr)
    name = recipe.phase
    teacher = None
    if recipe.guidance_below_time is not None:
        assert start_from is not None and text_to_image is not None
        teacher = GuidanceTeacher(start_from, text_to_image, recipe.guidance_below_time)
    done = load_state(work / name, transformer, average, optimizer)
    model = cast(FluxTransformer2DModel, torch.compile(transformer)) if recipe.compile else transformer
    total = 0.0
    for step in range(done, recipe.steps):
        optimizer.set_rate(learning_rate(recipe, step))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=recipe.mixed_precision == "bf16"):
            loss = flow_loss(model, source.batch(step), recipe.conditioning, teacher).mean()
        if not torch.isfinite(loss):
            raise ValueError(f"pocket {name}: loss is {loss.item()} at step {step}; lower the learning rate")
        for parameter in transformer.parameters():
            parameter.grad = None
        loss.backward()
        torch.nn.utils.clip_grad_norm_(transformer.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            share = min(recipe.average_decay, (step + 1) / (step + 10))
            torch._foreach_lerp_(list(average.parameters()), list(transformer.parameters()), 1 - share)
        total += loss.item()
        if (step + 1) % recipe.report_every_steps == 0:
            progress(f"{name} step {step + 1}/{recipe.steps} loss {total / recipe.report_every_steps:.4f}")
            total = 0.0
        if (step + 1) % recipe.save_every_steps == 0 or step + 1 == recipe.steps:
            save_state(work / name, transformer, average, optimizer, step + 1)
        if (step + 1) % 500 == 0 or step + 1 == recipe.steps:
            near, other = held_out_losses(average, held_out, recipe.conditioning, teacher)
            progress(f"{name} step {step + 1} held-out flow loss near {near:.4f}, other pose {other:.4f}")
    return average


@torch.no_grad()
def held_out_losses(
    transformer: FluxTransformer2DModel,
    held_out: PairSource,
    conditioning: str,
    teacher: GuidanceTeacher | None,
) -> tuple[float, float]:
    """The flow loss on held-out figures: targets near the reference's pose, and in another."""
    losses, near = [], []
    for number in range(4):
        batch = held_out.batch(number)
        losses.append(flow_loss(transformer, batch, conditioning, teacher))
        near.append(batch["near"])
    loss, is_near = torch.cat(losses), torch.cat(near)
    return float(loss[is_near].mean()), float(loss[~is_near].mean())
