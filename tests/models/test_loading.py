"""How parts are read: in their dtype from the start, from a mapped file, without pickles; tiles of the VAE."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from divrl_core.models.flux import FluxAdapter
from divrl_core.training.model_files import pipeline_problems

from .small_kl import small_kl

MOST_BYTES = 4096  # what small things may take in float32: position ids, scales


class Made(TorchDispatchMode):
    """Bytes of the largest tensor that is made, by dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.largest: dict[torch.dtype, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = func(*args, **(kwargs or {}))
        for value in tree_leaves(made):
            if isinstance(value, Tensor) and value.device.type != "meta":
                nbytes = value.numel() * value.element_size()
                self.largest[value.dtype] = max(self.largest.get(value.dtype, 0), nbytes)
        return made


@pytest.fixture(scope="module")
def half(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pipeline, its transformer saved in bfloat16."""
    folder = tmp_path_factory.mktemp("half") / "pipeline"
    shutil.copytree(tiny_pipeline, folder)
    transformer = FluxAdapter.load(str(tiny_pipeline), dtype="bfloat16").transformer
    transformer.save_pretrained(folder / "transformer")
    return folder


def test_a_bfloat16_base_is_never_float32_on_its_way(half: Path) -> None:
    with Made() as made:
        transformer = FluxAdapter.load(str(half), dtype="bfloat16").transformer
    assert {parameter.dtype for parameter in transformer.parameters()} == {torch.bfloat16}
    assert made.largest.get(torch.float32, 0) < MOST_BYTES


def test_a_float32_file_is_rounded_weight_by_weight(tiny_pipeline: Path) -> None:
    with Made() as made:
        transformer = FluxAdapter.load(str(tiny_pipeline), dtype="bfloat16").transformer
    assert {parameter.dtype for parameter in transformer.parameters()} == {torch.bfloat16}
    largest = max(parameter.numel() for parameter in transformer.parameters())
    assert made.largest[torch.bfloat16] == largest * 2
    assert made.largest.get(torch.float32, 0) <= largest * 4, "no more than one weight at once"


@pytest.mark.parametrize("component", ["transformer", "vae", "text_encoder", "text_encoder_2"])
def test_a_pickle_in_place_of_weights_is_not_read(
    tiny_pipeline: Path, tmp_path: Path, component: str
) -> None:
    folder = tmp_path / "pipeline"
    shutil.copytree(tiny_pipeline, folder)
    for path in (folder / component).glob("*.safetensors"):
        path.unlink()
    name = "diffusion_pytorch_model.bin" if component in ("transformer", "vae") else "pytorch_model.bin"
    torch.save({"x": torch.zeros(1)}, folder / component / name)
    with pytest.raises(ValueError, match=rf"{component}/ lacks \*\.safetensors"):
        FluxAdapter.load(str(folder))
    [problem] = pipeline_problems(folder)
    assert ".bin files are pickles and are not read" in problem


# Tiles


def kl_pipeline(source: Path, target: Path) -> Path:
    """The pipeline with FLUX's kind of VAE, small."""
    shutil.copytree(source, target)
    shutil.rmtree(target / "vae")
    small_kl(seed=0).save_pretrained(target / "vae")
    index = json.loads((target / "model_index.json").read_text())
    index["vae"][1] = "AutoencoderKL"
    (target / "model_index.json").write_text(json.dumps(index))
    return target


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["tiny", "kl"])
def test_large_pictures_go_in_tiles_and_small_ones_as_ever(
    tiny_pipeline: Path, tmp_path: Path, kind: str, dtype: str
) -> None:
    pipeline = tiny_pipeline if kind == "tiny" else kl_pipeline(tiny_pipeline, tmp_path / "kl")
    whole = FluxAdapter.load(str(pipeline), dtype=dtype)
    tiled = FluxAdapter.load(str(pipeline), dtype=dtype, vae_tiling=True)
    small = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    tokens = whole.encode_images(small)
    assert torch.equal(tokens, tiled.encode_images(small))
    assert torch.equal(whole.decode(tokens, 64, 64), tiled.decode(tokens, 64, 64))
    side = 128
    if kind == "tiny":  # its own tiles are of 512 px
        tiled.vae.tile_sample_min_size, tiled.vae.tile_latent_min_size = 64, 8
    large = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    seen: list[int] = []
    inner = tiled.vae.decoder
    inner.register_forward_pre_hook(lambda module, given: seen.append(given[0].shape[-1]))
    tokens = tiled.encode_images(large)
    assert tokens.dtype == whole.dtype and tokens.shape == whole.encode_images(large).shape
    pictures = tiled.decode(tokens, side, side)
    assert len(seen) > 1 and max(seen) < side // 8, "decoded in tiles"
    expected = whole.decode(tokens, side, side)
    assert pictures.shape == large.shape and pictures.dtype == torch.float32
    # An untrained VAE's group norms make much of each tile's own mean, so near is no more than nearer than another one.
    gap, other = (pictures - expected).abs().mean(), (pictures - expected.flip(-1)).abs().mean()
    assert gap < 0.7 * other
