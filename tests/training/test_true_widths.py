"""FLUX.1-Kontext at its true widths, with few blocks: explore end to end on the CPU, the base held each way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from divrl_core.models.flux import FluxAdapter
from divrl_core.models.lora import add_lora, lora_parameters
from divrl_core.models.lora_file import read_lora
from divrl_core.training.grpo_loop import train
from tests.models.single_files import PREFIX, save, save_gguf, scaled_fp8, to_bfl

from .tiny_run import rows_of, tiny_config, toy_data
from .true_widths import build_true_widths

HELD = [
    {},
    {"quantization": "fp8"},
    {"quantization": "int8"},
    {"quantization": "nf4"},
    {"quantization": "torchao_int8"},
    {"offload_blocks": 2},
]


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_true_widths(tmp_path_factory.mktemp("true-widths") / "pipeline")


def explored(pipeline: Path, output: Path, **model: object) -> Path:
    """A run of one update from two pictures."""
    config = tiny_config(
        pipeline,
        model={
            "dtype": "bfloat16",
            "image_size_px": 64,
            "max_text_tokens": 8,
            "gradient_checkpointing": True,
            **model,
        },
        lora={"rank": 2, "targets": "attention"},
        rollout={"steps": 2, "stochastic_steps": (0,)},
        grpo={"group_size": 2, "groups_per_update": 1, "micro_batch": 2},
        run={
            "updates": 1,
            "eval_every_updates": 1,
            "eval_steps": 1,
            "sample_steps": 1,
            "eval_images": 2,
        },
    )
    train(config, output, data=toy_data(("ant",)))
    return output


@pytest.mark.parametrize("held", HELD, ids=lambda held: "-".join(map(str, held.values())) or "bfloat16")
def test_explore_runs_end_to_end(pipeline: Path, tmp_path: Path, held: dict[str, object]) -> None:
    output = explored(pipeline, tmp_path / "run", **held)
    [row] = rows_of(output)
    assert row["ratio_max_deviation"] == 0
    assert row["grad_norm"] > 0
    lora = read_lora(output / "lora" / "last.safetensors")
    assert len(lora.modules) == 11
    assert any(value.abs().max() > 0 for name, value in lora.tensors.items() if ".lora_B." in name)
    assert all(torch.isfinite(value).all() for value in lora.tensors.values())


MEASURE = """
import sys
from pathlib import Path
import torch
from divrl_core.models.flux import FluxAdapter
from divrl_core.models.quantized import try_kind

def own_memory():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))

try_kind("int8", dtype=torch.bfloat16, device=torch.device("cpu"))  # the library's own memory first
for kind in ("none", "int8"):
    adapter = FluxAdapter.load(sys.argv[1], dtype="bfloat16", quantization=kind)
    before = own_memory()
    weights = sum(parameter.numel() for parameter in adapter.transformer.parameters())
    print((own_memory() - before) / weights)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_loading_takes_no_memory_but_that_of_packed_weights(pipeline: Path) -> None:
    """Bytes of the process's own a weight of the base: a bfloat16 base is mapped, for int8 it is never two."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(pipeline)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    plain, packed = map(float, done.stdout.split())
    assert plain < 0.1 and 0.8 < packed < 1.5


def bfl_state(pipeline: Path) -> dict[str, Tensor]:
    transformer = FluxAdapter.load(str(pipeline), dtype="bfloat16").transformer
    return to_bfl(transformer.state_dict())


def test_comfyuis_scaled_fp8_file_is_the_same_model(pipeline: Path, tmp_path: Path) -> None:
    file = save(tmp_path / "flux-fp8-scaled.safetensors", scaled_fp8(bfl_state(pipeline)), PREFIX)
    assert file.stat().st_size < 0.6e9
    folder = FluxAdapter.load(str(pipeline), dtype="bfloat16").transformer.state_dict()
    read = FluxAdapter.load(str(pipeline), dtype="bfloat16", transformer_file=file).transformer.state_dict()
    assert read.keys() == folder.keys()
    assert all(torch.equal(read[name], value) for name, value in folder.items())


def test_a_gguf_file_keeps_the_ratio_law(pipeline: Path, tmp_path: Path) -> None:
    file = save_gguf(tmp_path / "flux-q8_0.gguf", bfl_state(pipeline))
    assert file.stat().st_size < 0.6e9
    adapter = FluxAdapter.load(str(pipeline), dtype="bfloat16", transformer_file=file)
    add_lora(adapter.transformer, 2, 4.0, "attention", seed=0)
    adapter.enable_gradient_checkpointing()
    given = adapter.encode(["a toy fox"], torch.full((1, 3, 32, 32), 0.5))
    x_t = torch.randn(1, 4, 64, generator=torch.Generator().manual_seed(0))

    def velocity() -> Tensor:
        return adapter.velocity(x_t, 0.7, given, adapter.target_ids(32, 32), 2.5)

    with torch.no_grad():
        rollout = velocity()
    v = velocity()
    assert torch.equal(v, rollout)
    v.square().mean().backward()
    gradients = [value.grad for value in lora_parameters(adapter.transformer).values()]
    assert all(value is not None and torch.isfinite(value).all() for value in gradients)
    assert any((value != 0).any() for value in gradients if value is not None)
