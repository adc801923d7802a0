"""Backbones of transformers' vision models: each feature is the model's own output at its place, in one pass."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor

from divrl_core.config import BackboneConfig
from divrl_core.models.encoder_trace import backbone_size
from divrl_core.models.features.base import LoadedBackbone, backbone_class, load_backbone
from divrl_core.models.features.colour import weighted_oklab
from divrl_core.rewards.score import reference_features, score_images
from tests.models.small_vision import pictures, save_model, small_model, write_processor

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
HALF = ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])


def load(name: str, folder: Path, precision: str = "float32", **settings: Any) -> LoadedBackbone:
    config = BackboneConfig(name=name, path=str(folder), **settings)  # type: ignore[arg-type]
    return backbone_class(config).load(config, precision=precision)  # type: ignore[arg-type]


def normalised(images: Tensor, constants: tuple[list[float], list[float]]) -> Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in constants)
    return (images - mean) / std


def grid(tokens: Tensor) -> Tensor:
    return rearrange(tokens, "b (h w) c -> b c h w", h=round(tokens.shape[1] ** 0.5))


def check(backbone: LoadedBackbone, patches: Tensor, image: Tensor) -> None:
    features = backbone.extract(pictures())
    assert torch.allclose(features.semantic, grid(patches), atol=1e-5, rtol=1e-5)
    assert torch.equal(features.structure, features.semantic)
    assert torch.equal(features.visual[0].values, features.semantic)
    assert features.image is not None and torch.allclose(features.image, image, atol=1e-5, rtol=1e-5)
    assert (
        image.std() > 0.05 and (patches[0] - patches[1]).abs().mean() > 0.01
    )  # what is compared says something


@pytest.mark.parametrize(
    ("kind", "first"), [("dinov2", 1), ("dinov2 with registers", 5), ("dinov2 for labels", 1)]
)
@torch.no_grad()
def test_dinov2_gives_patch_tokens_and_its_class_token(kind: str, first: int, tmp_path: Path) -> None:
    model = small_model(kind)
    tokens = getattr(model, "dinov2", model)(normalised(pictures(), IMAGENET)).last_hidden_state
    check(load("dinov2", save_model(kind, tmp_path)), tokens[:, first:], tokens[:, 0])


@torch.no_grad()
def test_clip_gives_the_last_patches_but_one_and_the_projected_embedding(tmp_path: Path) -> None:
    whole, alone, bare = (small_model(kind) for kind in ("clip", "clip projection", "clip vision"))
    pixels = normalised(pictures(), CLIP)
    for name, vision, image in (
        ("clip", whole.vision_model, whole.get_image_features(pixels).pooler_output),
        ("clip projection", alone.vision_model, alone(pixels).image_embeds),
        ("clip vision", bare, bare(pixels).pooler_output),
    ):
        hidden = vision.pre_layrnorm(vision.embeddings(pixels))
        for layer in vision.encoder.layers[:-1]:
            hidden = layer(hidden, None)
        check(load("clip", save_model(name, tmp_path / name)), hidden[:, 1:], image)


@torch.no_grad()
def test_siglip_gives_all_tokens_and_what_its_head_pools(tmp_path: Path) -> None:
    alone, whole = small_model("siglip vision"), small_model("siglip")
    pixels = normalised(pictures(), HALF)
    for name, model in (("siglip vision", alone), ("siglip", whole.vision_model)):
        output = model(pixels)
        backbone = load("siglip", save_model(name, tmp_path / name))
        check(backbone, output.last_hidden_state, output.pooler_output)
    tokens = small_model("siglip headless")(pixels).last_hidden_state
    folder = save_model("siglip headless", tmp_path / "headless")
    check(load("siglip", folder), tokens, tokens.mean(dim=1))


@pytest.mark.parametrize("prefix", ["backbone.", "backbone.vision_model."])
@torch.no_grad()
def test_the_layout_of_nearid_is_read_without_its_code(prefix: str, tmp_path: Path) -> None:
    folder = save_model("siglip vision", tmp_path)
    weights = load_file(folder / "model.safetensors")
    save_file({prefix + name: value for name, value in weights.items()}, folder / "model.safetensors")
    inner = json.loads((folder / "config.json").read_text())
    code = {"AutoConfig": "configuration_nearid.NearIDConfig", "AutoModel": "modeling_nearid.NearIDModel"}
    own = {"model_type": "nearid", "auto_map": code, "vision_config": inner}
    (folder / "config.json").write_text(json.dumps(own))
    output = small_model("siglip vision")(normalised(pictures(), HALF))
    check(load("siglip", folder), output.last_hidden_state, output.pooler_output)


@torch.no_grad()
def test_any_model_with_patch_tokens_serves_and_lacks_at_most_its_pooler(tmp_path: Path) -> None:
    pixels = normalised(pictures(), HALF)
    values = {"image_mean": HALF[0], "image_std": HALF[1]}
    vit, labels, dinov3 = (small_model(kind) for kind in ("vit", "vit for labels", "dinov3"))
    whole = small_model("clip").vision_model
    unpooled = labels.vit(pixels).last_hidden_state[:, 1:]
    for name, patches, image in (
        ("vit", vit(pixels).last_hidden_state[:, 1:], vit(pixels).pooler_output),
        ("vit for labels", unpooled, unpooled.mean(dim=1)),
        ("dinov3", dinov3(pixels).last_hidden_state[:, 5:], dinov3(pixels).pooler_output),
        ("clip", whole(pixels).last_hidden_state[:, 1:], whole(pixels).pooler_output),
    ):
        folder = write_processor(save_model(name, tmp_path / name), **values)
        check(load("transformers", folder), patches, image)


KINDS = [("dinov2", "dinov2"), ("clip", "clip projection"), ("siglip", "siglip vision")]


@pytest.mark.parametrize(("name", "kind"), [*KINDS, ("transformers", "vit"), ("transformers", "dinov3")])
@torch.no_grad()
def test_another_size_has_the_grid_of_that_size(name: str, kind: str, tmp_path: Path) -> None:
    folder = write_processor(save_model(kind, tmp_path), image_mean=HALF[0], image_std=HALF[1])
    features = load(name, folder, image_size_px=80).extract(pictures(size_px=80))
    takes = {} if kind.startswith("dino") else {"interpolate_pos_encoding": True}
    model = small_model(kind)
    output = model(normalised(pictures(size_px=80), HALF), output_hidden_states=True, **takes)
    tokens = output.hidden_states[-2] if name == "clip" else output.last_hidden_state
    assert features.grid == (10, 10)
    assert torch.allclose(features.semantic, grid(tokens[:, -100:]), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_size_of_its_own_that_the_patches_do_not_divide_is_kept(tmp_path: Path) -> None:
    folder = save_model("siglip vision", tmp_path, image_size=60)  # as SigLIP's 384 px in patches of 14
    backbone = load("siglip", folder)
    tokens = small_model("siglip vision", image_size=60)(
        normalised(pictures(size_px=60), HALF)
    ).last_hidden_state
    assert backbone.settings.image_size_px == 60
    assert torch.allclose(backbone.extract(pictures(size_px=60)).semantic, grid(tokens), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("file", "content", "constants"),
    [
        ("preprocessor_config.json", {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}, None),
        ("preprocessor_config.json", {"do_normalize": False}, ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0])),
        ("preprocessor_config.json", {"do_normalize": True}, IMAGENET),
        (
            "processor_config.json",
            {"image_processor": {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}},
            None,
        ),
        # 255 times 2/255 = 2: (2 x - m) / s is (x - m / 2) / (s / 2)
        (
            "preprocessor_config.json",
            {"image_mean": [0.2, 0.4, 0.6], "image_std": [0.8, 1.0, 1.2], "rescale_factor": 2 / 255},
            None,
        ),
    ],
)
@torch.no_grad()
def test_pictures_are_normalised_as_the_folder_says(
    file: str, content: dict[str, Any], constants: tuple[list[float], list[float]] | None, tmp_path: Path
) -> None:
    folder = save_model("dinov2", tmp_path)
    (folder / file).write_text(json.dumps(content))
    pixels = normalised(pictures(), constants or ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6]))
    tokens = small_model("dinov2")(pixels).last_hidden_state
    features = load("dinov2", folder).extract(pictures())
    assert torch.allclose(features.semantic, grid(tokens[:, 1:]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_a_batch_is_one_pass_of_the_model(name: str, kind: str, tmp_path: Path) -> None:
    backbone = load(name, save_model(kind, tmp_path))
    seen: list[int] = []
    backbone.module.register_forward_hook(
        lambda module, args, kwargs, output: seen.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    features = backbone.extract(pictures(3))
    assert seen == [3] and len(features) == 3
    assert not features.semantic.requires_grad
    assert not any(parameter.requires_grad for parameter in backbone.module.parameters())


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_a_picture_scores_as_itself_and_another_as_another(name: str, kind: str, tmp_path: Path) -> None:
    backbone = load(name, save_model(kind, tmp_path), tau_s=-0.9)  # random weights: whatever matches best
    settings = backbone.settings.score
    images = pictures()
    reference = reference_features(backbone.extract(images[:1]), None, settings)
    scores = score_images(backbone.extract(images), reference, settings)
    assert float(scores.nssm[0]) == pytest.approx(0, abs=1e-5) and float(scores.vsm[0]) == 1
    assert float(scores.nssm[1]) > 0.05 and float(scores.vsm[1]) < 1


def test_colour_is_compared_beside_the_patches(tmp_path: Path) -> None:
    backbone = load("dinov2", save_model("dinov2", tmp_path), colour_scale=0.2)
    colour = backbone.extract(pictures()).visual[1]
    assert (colour.kernel, colour.scale) == ("exponential", 0.2)
    # a cell of 8 px is a cell of colour
    mean = torch.nn.functional.avg_pool2d(weighted_oklab(pictures()), 8)
    assert torch.allclose(colour.values, mean, atol=1e-5)


@pytest.mark.parametrize(("name", "kind"), KINDS)
@pytest.mark.parametrize("size", [56, 80])
def test_bfloat16_is_near_and_comes_out_in_float32(name: str, kind: str, size: int, tmp_path: Path) -> None:
    folder = save_model(kind, tmp_path)
    exact, rough = (
        load(name, folder, precision=precision, image_size_px=size) for precision in ("float32", "bfloat16")
    )
    assert next(rough.module.parameters()).dtype == torch.bfloat16
    one, other = exact.extract(pictures()), rough.extract(pictures())
    for first, second in ((one.semantic, other.semantic), (one.image, other.image)):
        assert first is not None and second is not None and second.dtype == torch.float32
        assert 0 < float((first - second).norm() / first.norm()) < 0.03


def test_what_the_user_sets_lies_over_the_uncalibrated_settings(tmp_path: Path) -> None:
    backbone = load("dinov2", save_model("dinov2", tmp_path), tau_s=0.7, tau_v=0.65, agreement="anywhere")
    score = backbone.settings.score
    assert (score.tau_s, score.tau_v, score.agreement, score.one_to_one) == (0.7, 0.65, "anywhere", True)
    assert backbone.settings.image_size_px == 56
    for words in ("Dinov2Model", "56 px", "not calibrated", tmp_path.name):
        assert words in backbone.source
    assert str(tmp_path) not in backbone.source  # a folder's place is nobody's business


# Plans


def layers(width: int, inner: int, count: int, more: int) -> int:
    """Four square matrices, two of the perceptron, biases and two norms; `more` times the width beside them."""
    return count * (4 * width**2 + 2 * width * inner + 9 * width + inner + more * width)


def test_the_published_sizes_give_the_published_numbers_of_parameters() -> None:
    counts = {
        # layer scale twice a layer; patches, class and mask token, positions, last norm
        ("dinov2", None): layers(768, 3072, 12, 2) + (3 * 14**2 + 1 + 2 + 37**2 + 1 + 2) * 768,
        # patches without bias, class token, positions, two norms, projection
        ("clip", None): layers(1024, 4096, 24, 0) + (3 * 14**2 + 1 + 257 + 4) * 1024 + 1024 * 768,
        # patches, positions, norm; the head is a layer with a probe and one norm
        ("siglip", None): layers(768, 3072, 12, 0)
        + (3 * 16**2 + 1 + 24**2 + 2) * 768
        + layers(768, 3072, 1, 0)
        - 768,
        ("siglip", "Aleksandar/nearid-siglip2"): layers(1152, 4304, 27, 0)
        + (3 * 14**2 + 1 + 27**2 + 2) * 1152
        + layers(1152, 4304, 1, 0)
        - 1152,
    }
    for (name, path), count in counts.items():
        backbone = BackboneConfig(name=name, path=path)  # type: ignore[arg-type]
        with torch.device("meta"):
            module = backbone_class(backbone).without_weights(backbone).module
        assert sum(parameter.numel() for parameter in module.parameters()) == count, name


@pytest.mark.parametrize(
    ("name", "kind"), [*KINDS, ("dinov2", "dinov2 with registers"), ("transformers", "vit")]
)
def test_a_plan_needs_config_json_alone_and_counts_what_is_there(
    name: str, kind: str, tmp_path: Path
) -> None:
    folder = write_processor(save_model(kind, tmp_path), image_mean=HALF[0], image_std=HALF[1])
    held = load(name, folder).module
    (folder / "model.safetensors").unlink()
    config = BackboneConfig(name=name, path=str(folder))  # type: ignore[arg-type]
    size, reference = backbone_size(config, batch=2, size_px=64)
    tensors = [*held.parameters(), *held.buffers()]
    assert size.weights == sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert size.working > 2 * 3 * 56**2 * 4 and size.flops > 1e6
    # semantic, patches, structure (whole and cropped) in float32 and float64; colour
    assert reference == ((2 + 2 * 3) * 32 + 3) * 49 * 4


@pytest.mark.parametrize("name", ["lite0", "pocket"])
def test_a_plan_counts_a_reference_as_it_is_kept(name: Literal["lite0", "pocket"]) -> None:
    """Of an object that fills the picture; small sums and indices, which the plan leaves out, are a few percent."""
    config = BackboneConfig(name=name)
    backbone = load_backbone(config)
    kept = reference_features(backbone.extract(torch.rand(1, 3, 64, 64)), None, backbone.settings.score)
    _, planned = backbone_size(config, batch=1, size_px=64)
    assert planned <= bytes_within(kept) < 1.05 * planned


def bytes_within(value: object) -> int:
    """The bytes of all tensors in a dataclass or tuple."""
    if isinstance(value, Tensor):
        return value.nbytes
    if is_dataclass(value):
        return sum(bytes_within(getattr(value, field.name)) for field in fields(value))
    return sum(map(bytes_within, value)) if isinstance(value, tuple) else 0


def test_a_plan_says_where_it_knows_no_sizes() -> None:
    with pytest.raises(FileNotFoundError, match="the sizes of owner/unknown are not known here; download it"):
        backbone_size(BackboneConfig(name="dinov2", path="owner/unknown"), batch=1, size_px=64)
