"""The cfm loop on a tiny real pipeline: it learns, stops safely, goes on exactly, and exports what loads elsewhere."""

from __future__ import annotations

import logging
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from diffusers import FluxTransformer2DModel

from divrl_core.models.flux import FluxAdapter
from divrl_core.models.lora import lora_parameters
from divrl_core.models.lora_apply import load_for_inference
from divrl_core.models.lora_file import read_lora
from divrl_core.models.width_pipeline import FluxWidthPipeline
from divrl_core.training.cfm_batches import sized_pairs
from divrl_core.training.cfm_loop import train_cfm
from divrl_core.training.cfm_publish import CfmPublisher
from divrl_core.training.checkpoint import latest_checkpoint, load_checkpoint
from divrl_core.training.latent_cache import LatentCache
from divrl_core.training.pair_data import CfmData
from divrl_core.training.processes import Processes
from divrl_core.training.run_folder import RunFolder

from .tiny_cfm import CAPTIONS, SIZE_PX, tiny_cfm, toy_data, toy_pairs
from .tiny_run import rows_of


@pytest.fixture(scope="module")
def unbroken(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four updates that nothing stopped."""
    output = tmp_path_factory.mktemp("unbroken") / "run"
    train_cfm(tiny_cfm(tiny_pipeline), output, data=toy_data())
    return output


def test_the_loss_falls_on_pairs_it_is_trained_on_and_the_base_stays_as_it_was(
    tiny_pipeline: Path, tmp_path: Path
) -> None:
    config = tiny_cfm(
        tiny_pipeline,
        optim={"lr": 1e-2, "ema_decay": 0.0},
        objective={"caption_dropout": 0.0},
        run={
            "updates": 30,
            "validate_every_updates": 30,
            "save_every_updates": 30,
            "sample_every_updates": 30,
        },
    )
    same = toy_pairs("ab")
    train_cfm(config, tmp_path / "run", data=CfmData(train=same, held_out=same))
    before, after = (row["validation_loss"] for row in rows_of(tmp_path / "run", "heldout"))
    assert after < 0.9 * before
    assert sum(row["loss"] for row in rows_of(tmp_path / "run")[-5:]) < sum(
        row["loss"] for row in rows_of(tmp_path / "run")[:5]
    )


def test_a_run_leaves_the_files_that_were_promised(unbroken: Path) -> None:
    found = {path.relative_to(unbroken).as_posix() for path in unbroken.rglob("*") if path.is_file()}
    assert {
        "settings.yaml",
        "metrics.jsonl",
        "loss.png",
        "lora/best.safetensors",
        "lora/last.safetensors",
        "lora/update-000004.safetensors",
        "heldout/update-000000.json",
        "heldout/update-000004.json",
        "samples/update-000000.jpg",
        "samples/update-000004.jpg",
        "checkpoint/update-000004/state.json",
    } <= found
    assert not any(path.endswith(".tmp") for path in found)
    assert [row["update"] for row in rows_of(unbroken)] == [1, 2, 3, 4]
    assert [row["update"] for row in rows_of(unbroken, "heldout")] == [0, 2, 4]


def test_the_header_says_layout_settings_and_alpha_and_the_scale_is_folded_in(unbroken: Path) -> None:
    lora = read_lora(unbroken / "lora" / "last.safetensors")
    assert lora.layout == "width"
    assert lora.settings["stage"] == "cfm" and lora.settings["objective"]["loss"] == "masked"
    assert (lora.rank, lora.alpha) == (4, 4.0)  # null is the rank here, so nothing had to be folded
    average = load_checkpoint(latest_checkpoint(unbroken / "checkpoint")).average  # type: ignore[arg-type]
    assert all(torch.equal(lora.tensors[name], average[name]) for name in average)


def test_gradients_of_two_micro_batches_are_their_mean(tiny_pipeline: Path, tmp_path: Path) -> None:
    """Micro-batches 0 and 1 are two updates of one run, the first update of the other; the rate is next to nothing."""
    norms = {}
    for accumulation in (1, 2):
        config = tiny_cfm(
            tiny_pipeline,
            objective={"batch_size": 1, "accumulation": accumulation, "caption_dropout": 0.0},
            run={"updates": 2, "validate_every_updates": 2, "sample_every_updates": 2},
            optim={"lr": 1e-12, "max_grad_norm": 1e9},
        )
        output = tmp_path / str(accumulation)
        train_cfm(config, output, data=CfmData(train=toy_pairs("ab"), held_out=toy_pairs("x")))
        rows = rows_of(output)
        norms[accumulation] = rows
    alone = [row["loss"] for row in norms[1]]
    assert norms[2][0]["loss"] == pytest.approx(sum(alone) / 2, rel=1e-5)
    assert norms[2][0]["grad_norm"] <= sum(row["grad_norm"] for row in norms[1]) / 2 + 1e-6


def test_a_second_stage_continues_from_the_first_ones_lora(
    tiny_pipeline: Path, unbroken: Path, tmp_path: Path
) -> None:
    config = tiny_cfm(
        tiny_pipeline, run={"updates": 1, "init_lora": str(unbroken / "lora" / "last.safetensors")}
    )
    train_cfm(config, tmp_path / "pairs", data=toy_data())
    first, second = rows_of(unbroken, "heldout")[-1], rows_of(tmp_path / "pairs", "heldout")[0]
    assert second["validation_loss"] == pytest.approx(first["validation_loss"], rel=1e-6)


def test_a_lora_of_another_layout_is_not_continued(
    tiny_pipeline: Path, unbroken: Path, tmp_path: Path
) -> None:
    lora = str(unbroken / "lora" / "last.safetensors")
    config = tiny_cfm(tiny_pipeline, model={"layout": "diagonal"}, run={"init_lora": lora})
    with pytest.raises(
        ValueError, match="in layout width, here it lies in layout diagonal; set the layout to width"
    ):
        train_cfm(config, tmp_path / "run", data=toy_data())


def test_the_exported_file_loads_in_the_diffusers_pipeline_and_makes_our_pictures(
    tiny_pipeline: Path, tmp_path: Path
) -> None:
    config = tiny_cfm(tiny_pipeline, optim={"lr": 3e-2, "ema_decay": 0.0}, run={"updates": 3})
    lora = train_cfm(config, tmp_path / "run", data=toy_data()).last_lora
    adapter = FluxAdapter.load(str(tiny_pipeline), layout="width")
    reference = torch.rand(1, 3, SIZE_PX, SIZE_PX, generator=torch.Generator().manual_seed(2))
    noise = torch.randn(
        1, *adapter.latent_shape(SIZE_PX, SIZE_PX), generator=torch.Generator().manual_seed(3)
    )
    given = adapter.encode([CAPTIONS[0]], reference)
    made = {}
    for strength in (0.0, 1.0):
        load_for_inference(adapter.transformer, read_lora(lora), strength)
        made[strength] = adapter.sample(given, noise, height=SIZE_PX, width=SIZE_PX, steps=3, guidance=1.0)
    assert (made[0.0] - made[1.0]).abs().max() > 1e-3

    pipeline = FluxWidthPipeline.from_pretrained(str(tiny_pipeline))
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(str(lora))
    theirs = pipeline(
        image=reference,
        prompt=CAPTIONS[0],
        height=SIZE_PX,
        width=SIZE_PX,
        num_inference_steps=3,
        guidance_scale=1.0,
        latents=noise,
        output_type="latent",
        max_sequence_length=adapter.max_text_tokens,
    ).images
    assert torch.allclose(made[1.0], theirs, atol=1e-5)


def test_only_the_lora_is_trained(tiny_pipeline: Path, tmp_path: Path) -> None:
    from divrl_core.models import flux

    adapters: list[FluxAdapter] = []

    class Kept(flux.FluxAdapter):
        def __init__(self, *arguments: object, **settings: object) -> None:
            super().__init__(*arguments, **settings)  # type: ignore[arg-type]
            adapters.append(self)

    from divrl_core.training import start

    original, start.FluxAdapter = start.FluxAdapter, Kept  # type: ignore[misc]
    try:
        train_cfm(tiny_cfm(tiny_pipeline, run={"updates": 1}), tmp_path / "run", data=toy_data())
    finally:
        start.FluxAdapter = original  # type: ignore[misc]
    (adapter,) = adapters
    base = FluxAdapter.load(str(tiny_pipeline)).transformer.state_dict()
    trained = {id(parameter) for parameter in lora_parameters(adapter.transformer).values()}
    for name, parameter in adapter.transformer.named_parameters():
        if id(parameter) not in trained:
            assert not parameter.requires_grad
            assert torch.equal(parameter, base[name.replace(".base_layer", "")]), name


def test_pictures_and_captions_are_encoded_once_and_the_encoders_leave(
    tiny_pipeline: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_cfm(tiny_pipeline, run={"updates": 1, "cache": str(tmp_path / "shared")})
    with caplog.at_level(logging.INFO, logger="divrl"):
        train_cfm(config, tmp_path / "one", data=toy_data())
        first = caplog.text
        caplog.clear()
        train_cfm(config, tmp_path / "two", data=toy_data())
    assert "encoders freed" in first and "loading text_encoder" in first
    assert " 0 latents and captions encoded" in caplog.text and "loading text_encoder" not in caplog.text


def test_a_loss_that_is_not_finite_stops_the_run_with_the_pairs_name(
    tiny_pipeline: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_pipeline, broken)
    transformer = FluxTransformer2DModel.from_pretrained(broken / "transformer")
    with torch.no_grad():
        transformer.proj_out.bias[0] = torch.nan
    transformer.save_pretrained(broken / "transformer")
    with pytest.raises(ValueError, match=r"validation: the loss of x is not finite; try a smaller optim\.lr"):
        train_cfm(tiny_cfm(broken), tmp_path / "run", data=toy_data())


def test_the_sheet_shows_one_subject_a_row_before_it_shows_one_twice(
    tiny_pipeline: Path, tmp_path: Path
) -> None:
    """Pairs a and b share a reference, so they are one subject; c is another."""
    shared = toy_pairs("abc")
    pairs = (shared.pairs[0], replace(shared.pairs[1], reference_id="a.reference"), shared.pairs[2])
    held_out = replace(shared, pairs=pairs)
    config = tiny_cfm(tiny_pipeline, run={"sample_pairs": 3})
    publisher = CfmPublisher(
        config=config,
        folder=RunFolder(tmp_path),
        adapter=FluxAdapter.load(str(tiny_pipeline), layout="width"),
        cache=LatentCache(tmp_path, FluxAdapter.load(str(tiny_pipeline), layout="width")),
        held_out=held_out,
        sized=sized_pairs(held_out, SIZE_PX, aspect_buckets=True),
        autocast=nullcontext,
        processes=Processes(Accelerator()),
        on_progress=lambda phase: None,
    )
    assert [item.pair.pair_id for item in publisher.sheet_pairs()] == ["a", "c", "b"]


def test_gradient_checkpointing_changes_memory_and_not_the_run(tiny_pipeline: Path, tmp_path: Path) -> None:
    runs = []
    for is_on in (False, True):
        config = tiny_cfm(tiny_pipeline, model={"gradient_checkpointing": is_on}, run={"updates": 3})
        train_cfm(config, tmp_path / str(is_on), data=toy_data())
        runs.append([(row["loss"], row["grad_norm"]) for row in rows_of(tmp_path / str(is_on))])
    assert runs[0] == runs[1]


@pytest.mark.parametrize("layout", ["kontext", "diagonal", "none"])
def test_every_layout_can_be_trained(tiny_pipeline: Path, tmp_path: Path, layout: str) -> None:
    config = tiny_cfm(tiny_pipeline, model={"layout": layout}, run={"updates": 1})
    lora = read_lora(train_cfm(config, tmp_path / "run", data=toy_data()).last_lora)
    assert lora.layout == layout
    (row,) = rows_of(tmp_path / "run")
    assert row["grad_norm"] > 0
