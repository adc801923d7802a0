"""A small Segformer for the help page of Segment Subject: trained in minutes on figures of the pocket world."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
import transformers
from torch.nn import functional as F

from divrl_core.pocket.references import PocketReferences

LOG = logging.getLogger(__name__)
STEPS, BATCH, FIGURES, SIZE_PX = 300, 8, 256, 128
CLASSES = {0: "background", 1: "figure"}


def train_segformer(folder: Path) -> None:
    """Train on figures of the training set and save; says the intersection over union on held-out ones."""
    torch.manual_seed(0)
    model = transformers.SegformerForSemanticSegmentation(
        transformers.SegformerConfig(
            hidden_sizes=[16, 32, 64, 96], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 4],
            decoder_hidden_size=64, id2label=CLASSES, label2id={name: number for number, name in CLASSES.items()},
        )
    )  # fmt: skip
    pictures, masks = drawn("train", FIGURES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, STEPS)
    model.train()
    for _ in range(STEPS):
        rows = torch.randint(FIGURES, (BATCH,))
        loss = F.cross_entropy(logits_of(model, pictures[rows]), masks[rows].long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    pictures, masks = drawn("held_out", 32)
    with torch.inference_mode():
        found = logits_of(model, pictures).argmax(dim=1).bool()
    union = (found & masks).sum((1, 2)) / (found | masks).sum((1, 2))
    LOG.info("held-out figures: intersection over union %.3f, worst %.3f", union.mean(), union.min())
    model.save_pretrained(folder)
    transformers.SegformerImageProcessorPil(size={"height": SIZE_PX, "width": SIZE_PX}).save_pretrained(
        folder
    )


def drawn(split: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Figures (count, 3, S, S) as the model is fed them, and where they are (count, S, S)."""
    figures = PocketReferences(split=split, count=count)  # type: ignore[arg-type]
    loaded = [figures.load(figures.reference_id(place), SIZE_PX) for place in range(count)]
    mean, deviation = (
        torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    pictures = torch.stack([(one.image - mean) / deviation for one in loaded])
    return pictures, torch.stack([one.mask for one in loaded])


def logits_of(model: torch.nn.Module, pictures: torch.Tensor) -> torch.Tensor:
    """Logits (B, classes, S, S) at the pictures' own size."""
    coarse = model(pixel_values=pictures).logits
    return F.interpolate(coarse, pictures.shape[-2:], mode="bilinear", align_corners=False)
