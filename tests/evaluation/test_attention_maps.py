"""The attention sheet: what is written, where its points are, and that its picture is the sampler's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from divrl_core.evaluation.attention_drawing import draw_attention, percent
from divrl_core.evaluation.attention_maps import attention_sheet
from divrl_core.evaluation.attention_reading import AttentionMap, TokenGrid
from divrl_core.evaluation.heat import heat_map, heat_scale
from divrl_core.evaluation.sample import load_reference, sample_sheet
from divrl_core.flow.noise import keyed_noise
from divrl_core.models.attention_probe import attention_probe
from divrl_core.models.flux import FluxAdapter
from divrl_core.models.lora import add_lora, lora_state
from divrl_core.models.lora_export import export_lora
from train_cli.main import cli

PROMPT = "a toy fox with a striped body on a blue floor"
STEPS = 3


@pytest.fixture
def fox(tmp_path: Path) -> Path:
    values = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    path = tmp_path / "fox.png"
    Image.fromarray(values).resize((96, 80), Image.Resampling.BICUBIC).save(path)
    return path


def inspect(pipeline: Path, fox: Path, output: Path, **changed: Any) -> dict[str, Any]:
    """The numbers of a sheet."""
    given = {"model": str(pipeline), "reference": fox, "prompt": PROMPT, "steps": STEPS, "output": output}
    attention_sheet(**(given | changed))
    return json.loads((output / "attention.json").read_text("utf-8"))


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_the_files_say_what_was_read(tiny_pipeline: Path, fox: Path, tmp_path: Path) -> None:
    numbers = inspect(tiny_pipeline, fox, tmp_path / "out", points=[(5, 40), (63, 17)], seed=2, time=1.0)
    names = ["attention.jpg", "attention.json", "reference.png", "target.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert Image.open(tmp_path / "out/attention.jpg").format == "JPEG"
    maps = numbers.pop("maps")
    assert [(one["block"], one["point"]) for one in maps] == [
        (block, point) for block in ("double.0", "single.0") for point in ([5, 40], [63, 17])
    ]
    for one in maps:
        rows = np.array(one["rows"])
        assert rows.shape == (4, 4)
        assert rows.sum() == pytest.approx(one["reference_share"], abs=1e-6)
        assert one["text_share"] + one["target_share"] + one["reference_share"] == pytest.approx(1)
        row, column = np.unravel_index(rows.argmax(), rows.shape)
        assert one["peak"] == [column * 16 + 8, row * 16 + 8]
    assert numbers == {
        "model": str(tiny_pipeline),
        "lora": None,
        "layout": "kontext",
        "prompt": PROMPT,
        "seed": 2,
        "steps": STEPS,
        "guidance": 2.5,
        "step": 0,
        "time": 1.0,
        "width_px": 64,
        "height_px": 64,
        "token_px": 16,
    }


@pytest.mark.parametrize("layout", ["kontext", "width"])
def test_the_picture_is_the_one_that_sample_makes_of_the_same_seed(
    tiny_pipeline: Path, fox: Path, tmp_path: Path, layout: str
) -> None:
    inspect(tiny_pipeline, fox, tmp_path / "a", seed=7, layout=layout, size_px=(48, 64))
    sample_sheet(
        model=str(tiny_pipeline),
        reference=fox,
        prompt=PROMPT,
        seeds=(3, 7),
        steps=STEPS,
        layout=layout,
        size_px=(48, 64),
        output=tmp_path / "b",
    )
    assert np.array_equal(pixels(tmp_path / "a/target.png"), pixels(tmp_path / "b/base_seed-7.png"))
    assert pixels(tmp_path / "a/reference.png").shape == (48, 64, 3)


def test_a_lora_is_inspected_as_trained_in_its_own_layout(
    tiny_pipeline: Path, fox: Path, tmp_path: Path
) -> None:
    transformer = FluxAdapter.load(str(tiny_pipeline)).transformer
    add_lora(transformer, 2, 2.0, "attention", 0)
    generator = torch.Generator().manual_seed(1)
    state = {
        name: 0.5 * torch.randn(w.shape, generator=generator) for name, w in lora_state(transformer).items()
    }
    path = tmp_path / "run/lora/best.safetensors"
    export_lora(path, state, rank=2, alpha=2.0, settings={}, metadata={}, layout="width")
    numbers = inspect(tiny_pipeline, fox, tmp_path / "a", lora=tmp_path / "run")
    assert (numbers["layout"], numbers["lora"]) == ("width", str(path))
    base = inspect(tiny_pipeline, fox, tmp_path / "b", layout="width")
    assert base["maps"][0]["rows"] != numbers["maps"][0]["rows"]
    given = {"model": str(tiny_pipeline), "reference": fox, "prompt": PROMPT, "steps": STEPS}
    sample_sheet(**given, lora=path, seeds=(0,), output=tmp_path / "c")
    assert np.array_equal(pixels(tmp_path / "a/target.png"), pixels(tmp_path / "c/strength-1_seed-0.png"))


def test_the_numbers_are_the_attention_of_the_points_token_at_the_step_nearest_to_the_time(
    tiny_pipeline: Path, fox: Path, tmp_path: Path
) -> None:
    """The first step, from its noise, and the one token in which both points lie: row 2, column 1 of 4 x 3."""
    numbers = inspect(
        tiny_pipeline,
        fox,
        tmp_path,
        points=[(16, 32), (31, 47)],
        time=1.0,
        size_px=(64, 48),
        blocks=("single.0",),
    )
    assert (numbers["step"], numbers["time"]) == (0, 1.0)
    adapter = FluxAdapter.load(str(tiny_pipeline))
    given = adapter.encode([PROMPT], load_reference(fox, None, 64, 48).image[None])
    noise = keyed_noise(adapter.latent_shape(64, 48), seed=0, stream="sample")[None]
    with (
        torch.no_grad(),
        attention_probe(
            adapter.transformer,
            blocks=("single.0",),
            target_tokens=(2 * 3 + 1,),
            text_count=adapter.max_text_tokens,
            target_count=12,
        ) as found,
    ):
        adapter.velocity(noise, 1.0, given, adapter.target_ids(64, 48), 2.5)
    for one in numbers["maps"]:
        rows = torch.tensor(one["rows"]).flatten()
        torch.testing.assert_close(rows, found["single.0"].to_reference[0, 0])


@pytest.mark.parametrize(("place", "step"), [(0.0, 0), (0.4, 0), (0.6, 1), (1.9, 2), (3.0, 2)])
def test_the_step_is_the_one_nearest_to_the_time(
    tiny_pipeline: Path, fox: Path, tmp_path: Path, place: float, step: int
) -> None:
    """0.4 is four tenths of the way from step 0's time to step 1's; 3 is time 0, where no step begins."""
    times = FluxAdapter.load(str(tiny_pipeline)).sigmas(STEPS, 64, 64).tolist()
    time = float(np.interp(place, range(STEPS + 1), times))
    numbers = inspect(tiny_pipeline, fox, tmp_path, time=time)
    assert (numbers["step"], numbers["time"]) == (step, times[step])


def test_a_point_lies_in_its_token() -> None:
    grid = TokenGrid(columns=3, token_px=16)
    assert [grid.token_at(point) for point in [(0, 0), (15, 15), (16, 0), (47, 0), (0, 16), (33, 32)]] == [
        0,
        0,
        1,
        2,
        3,
        8,
    ]
    assert grid.middle_of(5) == (40, 24)


def test_blocks_and_points_are_rows_and_columns_of_the_sheet() -> None:
    def sheet(blocks: int, points: int, **changed: Any) -> Image.Image:
        maps = [
            AttentionMap(
                block=f"single.{block}",
                point=(16 * point, 20),
                text_share=0.1,
                target_share=0.2,
                reference_share=0.7,
                peak=(8, 8),
                rows=[[0.1 * (row == point) for _ in range(4)] for row in range(2)],
            )
            for block in range(blocks)
            for point in range(points)
        ]
        picture = torch.full((3, 32, 64), 0.5)
        given = {"title": "Attention", "prompt": PROMPT, "facts": "seed 0", "token_px": 16}
        return draw_attention(target=picture, reference=picture, maps=maps, **(given | changed))

    assert sheet(2, 4).width - sheet(2, 5).width == sheet(2, 5).width - sheet(2, 6).width < 0
    assert sheet(2, 4).height - sheet(3, 4).height == sheet(3, 4).height - sheet(4, 4).height < 0
    assert sheet(1, 1).width == sheet(1, 2).width, "the legend has its room beside the two pictures"
    assert (
        sheet(1, 1, prompt="a fox " * 99, facts="seed 0 " * 99, title="Attention " * 99).width
        == sheet(1, 1).width
    )


def test_heat_grows_darker_from_the_bare_picture_to_the_strongest_token() -> None:
    scale = np.asarray(heat_scale((101, 4)).convert("L")).astype(int)
    assert (np.diff(scale[0, ::10]) < 0).all()
    assert tuple(np.asarray(heat_scale((101, 4)))[0, 0]) == (205, 205, 205)

    white = Image.new("RGB", (8, 8), "white")
    weights = np.array([[0.0, 0.001], [0.002, 0.0]])
    shown = np.asarray(heat_map(white, weights, (20, 20)))
    assert tuple(shown[0, 0]) == tuple(shown[19, 19]) == (245, 245, 245)
    assert shown[19, 0].sum() < shown[0, 19].sum() < shown[0, 0].sum()
    assert (np.asarray(heat_map(white, np.zeros((2, 2)), (20, 20))) == 245).all()


def test_shares_are_said_in_two_digits_and_nothing_is_only_nothing() -> None:
    shares = [0, 0.0004, 0.0005, 0.0314, 0.0994, 0.0995, 0.314, 0.9949, 0.996, 1]
    said = ["0%", "<0.1%", "0.1%", "3.1%", "9.9%", "10%", "31%", "99%", ">99%", "100%"]
    assert [percent(share) for share in shares] == said


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"prompt": " "}, "prompt is empty"),
        ({"time": 1.5}, r"time must lie in \[0, 1\] \(1 = noise\), got 1\.5"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"seed": -1}, "whole numbers from 0 up"),
        ({"layout": "none"}, 'layout "none" leaves the reference out'),
        ({"blocks": ("single.1",)}, r"no block 'single\.1'; there are double\.0 and single\.0"),
        (
            {"points": [(3, 3), (64, 0)]},
            "point 64,0 lies outside the picture of 64 x 64 px: x is 0 to 63, y is",
        ),
        ({"points": [(0, -1)]}, "point 0,-1 lies outside"),
        ({"reference": Path("/nowhere/fox.png")}, "fox.png: no such picture"),
        ({"lora": Path("/nowhere/lora.safetensors")}, "no LoRA file"),
    ],
)
def test_requests_that_cannot_be_met_are_refused_in_one_line(
    tiny_pipeline: Path, fox: Path, tmp_path: Path, changed: dict[str, Any], words: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=words) as error:
        inspect(tiny_pipeline, fox, tmp_path / "out", **changed)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_the_command_writes_the_sheet_in_any_dtype(tiny_pipeline: Path, fox: Path, tmp_path: Path) -> None:
    words = [
        "inspect",
        "attention",
        "--model",
        str(tiny_pipeline),
        "--reference",
        str(fox),
        "--prompt",
        PROMPT,
    ]
    words += ["--points", "5,5;60,60", "--blocks", "single.0", "--steps", "2", "--dtype", "bfloat16"]
    result = CliRunner().invoke(cli, [*words, "--output", str(tmp_path / "out"), "--layout", "width"])
    assert result.exit_code == 0, result.output
    assert result.stdout == f"wrote {tmp_path / 'out' / 'attention.jpg'}\n"
    numbers = json.loads((tmp_path / "out/attention.json").read_text("utf-8"))
    assert [one["point"] for one in numbers["maps"]] == [[5, 5], [60, 60]]
    assert numbers["layout"] == "width"
