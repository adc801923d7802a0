"""Small segmentation models on disk: transformers' own classes with random weights, and ONNX files of one rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

CLASSES = {0: "background", 1: "cat", 2: "dog"}


def segformer(folder: Path, *, classes: Mapping[int, str] = CLASSES, answer: int | None = None) -> Path:
    """A Segformer of two stages for 32 px; `answer`: the class it gives to every pixel, else random ones."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.SegformerForSemanticSegmentation(
            transformers.SegformerConfig(
                num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 16], patch_sizes=[3, 3],
                strides=[2, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2],
                decoder_hidden_size=16, **labels(classes),
            )
        )  # fmt: skip
        spread_answers(model)
    if answer is not None:
        with torch.no_grad():
            model.decode_head.classifier.weight.zero_()
            model.decode_head.classifier.bias.copy_(10.0 * torch.eye(len(classes))[answer])
    model.save_pretrained(folder)
    processor = transformers.SegformerImageProcessorPil(size={"height": 32, "width": 32})
    processor.save_pretrained(folder)
    return folder


def spread_answers(model: torch.nn.Module) -> None:
    """Scale the last layer so that each class wins somewhere: logits of mean 0 and deviation 2 on blots."""
    coarse = torch.randn(8, 3, 4, 4)
    blots = torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear")
    with torch.no_grad():
        logits = model.eval()(pixel_values=blots).logits
        mean, deviation = logits.mean(dim=(0, 2, 3)), logits.std(dim=(0, 2, 3))
        last = model.decode_head.classifier
        last.weight.mul_(2 / deviation.view(-1, 1, 1, 1))
        last.bias.copy_((last.bias - mean) * 2 / deviation)


def mask2former(folder: Path, *, classes: Mapping[int, str], answer: int) -> Path:
    """A Mask2Former for pictures of 64 px: segments of random shapes, all of the class `answer`."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = transformers.Mask2FormerForUniversalSegmentation(
            transformers.Mask2FormerConfig(
                backbone_config=transformers.SwinConfig(
                    image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=2,
                    out_features=["stage1", "stage2", "stage3", "stage4"],
                ),
                feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=16, dim_feedforward=16,
                encoder_layers=1, decoder_layers=2, num_attention_heads=2, num_queries=6, **labels(classes),
            )
        )  # fmt: skip
        for weight in model.model.transformer_module.queries_features.parameters():
            torch.nn.init.normal_(weight, std=3.0)
    with torch.no_grad():
        model.class_predictor.weight.zero_()
        model.class_predictor.bias.copy_(10.0 * torch.eye(len(classes) + 1)[answer])
    model.save_pretrained(folder)
    processor = transformers.Mask2FormerImageProcessorPil(size={"height": 64, "width": 64})
    processor.save_pretrained(folder)
    return folder


def labels(classes: Mapping[int, str]) -> dict[str, Any]:
    return {"id2label": dict(classes), "label2id": {text: number for number, text in classes.items()}}


def onnx_file(
    path: Path,
    *,
    sides: Sequence[int | str] = (8, 8),
    channels: int = 3,
    is_logit: bool = False,
    is_half: bool = False,
    all_channels: bool = False,
) -> Path:
    """A file whose saliency is the red channel as it is fed; `is_logit`: 10 (2 red - 1), outside [0, 1]."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kind = TensorProto.FLOAT16 if is_half else TensorProto.FLOAT
    indices = numpy_helper.from_array(torch.tensor(range(channels) if all_channels else [0]).numpy(), "which")
    nodes = [helper.make_node("Gather", ["picture", "which"], ["red"], axis=1)]
    constants = [indices]
    if is_logit:
        for name, value in (("scale", 20.0), ("shift", -10.0)):
            constants.append(numpy_helper.from_array(torch.tensor(value).numpy(), name))
        nodes.append(helper.make_node("Mul", ["red", "scale"], ["scaled"]))
        nodes.append(helper.make_node("Add", ["scaled", "shift"], ["saliency"]))
    else:
        nodes.append(helper.make_node("Identity", ["red"], ["saliency"]))
    graph = helper.make_graph(
        nodes,
        "red",
        [helper.make_tensor_value_info("picture", kind, [1, channels, *sides])],
        [helper.make_tensor_value_info("saliency", kind, [1, None, *sides])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return path
