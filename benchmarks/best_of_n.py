"""Best-of-N with and without early pruning, inside a real ComfyUI: evaluations, seconds, and whether the winners agree.

    python benchmarks/best_of_n.py --groups 100 --lora divrl-pocket-explore.safetensors

A group is one held-out figure of the pocket world with N = 8 candidates, of which K = 2 are kept, 28 steps of Euler.
Each group runs twice in the same server: all candidates finished, and with the pruning plan; which comes first changes
from group to group, and one candidate is sampled before both, so that loaders and encoders are remembered. Seconds are
those of the whole prompt as the server reports them: the sampler node's. Needs the network once, to install ComfyUI
(`tests/comfyui/install.py`). Results go to a JSON file after every group; the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.comfyui.install import ensure_comfyui
from tests.comfyui.server import Server

CANDIDATES, KEEP, STEPS, GUIDANCE = 8, 2, 28, 2.5
Row = dict[str, Any]


def workflow(
    figure: int,
    *,
    mode: str,
    lora: str,
    pruning: bool,
    plan: str,
    gate: float,
    candidates: int = CANDIDATES,
    keep: int = KEEP,
) -> dict[str, Any]:
    """One group as a workflow."""
    model = ["1", 0]
    nodes: dict[str, Any] = {
        "1": _node("DivRL_LoadPocketKontext", variant="kontext", figure=figure),
        "2": _node("CLIPTextEncode", clip=["1", 1], text=["1", 5]),
        "3": _node("VAEEncode", pixels=["1", 3], vae=["1", 2]),
        "4": _node("ReferenceLatent", conditioning=["2", 0], latent=["3", 0]),
        "5": _node("FluxGuidance", conditioning=["4", 0], guidance=GUIDANCE),
        "6": _node("KSamplerSelect", sampler_name="euler"),
        "7": _node("BasicScheduler", model=["1", 0], scheduler="simple", steps=STEPS, denoise=1.0),
        "8": _node("EmptySD3LatentImage", width=128, height=128, batch_size=1),
        "9": _node("DivRL_LoadRewardBackbone", backbone="pocket (packaged, toy figures)"),
        "11": _node("PreviewAny", source=["10", 3]),
    }
    if lora:
        nodes["12"] = _node("LoraLoaderModelOnly", model=model, lora_name=lora, strength_model=1.0)
        model = ["12", 0]
    nodes["10"] = _node(
        "DivRL_GatedBestOfN",
        model=model, positive=["5", 0], sampler=["6", 0], sigmas=["7", 0], latent=["8", 0], vae=["1", 2],
        reference=["1", 3], reference_mask=["1", 4], backbone=["9", 0], noise_seed=1000 * figure,
        candidates=candidates, keep=keep, mode=mode, gate=gate, penalty=5.0, pruning=pruning, pruning_plan=plan,
        foreseen_by="auto", micro_batch=1, tau_s=-1.0, tau_v=-1.0, pooling=0,
    )  # fmt: skip
    return nodes


def run_group(server: Server, **settings: Any) -> Row:
    """One run: what was kept, what it cost."""
    prompt = server.post(workflow(**settings))
    entry = server.wait(prompt)
    report = json.loads(entry["outputs"]["11"]["text"][0])
    times = {name: content["timestamp"] for name, content in entry["status"]["messages"]}
    kept = sorted((row for row in report["candidates"] if row["kept"]), key=lambda row: row["rank"])
    return {
        "seconds": (times["execution_success"] - times["execution_start"]) / 1000,
        "evaluations": report["evaluations"],
        "kept": [row["seed"] for row in kept],
        "kept_nssm": [row["nssm"] for row in kept],
        "kept_passes": [row["passes"] for row in kept],
        "nssm": [row["nssm"] for row in report["candidates"]],
        "vsm": [row["vsm"] for row in report["candidates"]],
        "gate": report["gate"],
    }


def summary(groups: list[dict[str, Row]], mode: str) -> str:
    """The table of all groups done."""
    full, pruned = ([group[name] for group in groups] for name in ("full", "pruned"))
    both = [len(set(a["kept"]) & set(b["kept"])) for a, b in zip(full, pruned, strict=True)]
    first = [a["kept"][0] in b["kept"] for a, b in zip(full, pruned, strict=True)]
    lines = [
        f"groups: {len(groups)}; a group: N = {CANDIDATES}, K = {KEEP}, {STEPS} steps, gate {full[0]['gate']:g}",
        f"seconds a group: full {_spread([row['seconds'] for row in full])}, "
        f"pruned {_spread([row['seconds'] for row in pruned])}, "
        f"ratio {_spread([b['seconds'] / a['seconds'] for a, b in zip(full, pruned, strict=True)])}",
        f"the same {KEEP} kept: {_share([count == KEEP for count in both])}; "
        f"at least one of them: {_share([count > 0 for count in both])}; the best among the kept: {_share(first)}",
        "",
        "| | evaluations | kept that pass the gate | nSSM of the kept | nSSM, 0 where the gate is failed |",
        "| --- | --- | --- | --- | --- |",
    ]
    if mode == "reward":  # what fewer candidates would have given follows from the scores of all
        lines += [
            _row(f"best of {number}", [number * STEPS] * len(full), [plain(row, number) for row in full])
            for number in range(KEEP, CANDIDATES)
        ]
    evaluations = [row["evaluations"] for row in full]
    lines.append(_row(f"best of {CANDIDATES}", evaluations, [_kept(row) for row in full]))
    evaluations = [row["evaluations"] for row in pruned]
    lines.append(_row(f"best of {CANDIDATES}, pruned", evaluations, [_kept(row) for row in pruned]))
    return "\n".join(lines)


def plain(row: Row, number: int) -> list[tuple[float, bool]]:
    """(nSSM, passes) of what the first `number` candidates alone would have given, by reward."""
    scores = [_Score(*pair, row["gate"]) for pair in zip(row["nssm"], row["vsm"], strict=True)][:number]
    passing = sorted((one for one in scores if one.passes), key=lambda one: -one.nssm)
    others = sorted((one for one in scores if not one.passes), key=lambda one: -(one.vsm or 0.0))
    return [(one.nssm or 0.0, one.passes) for one in [*passing, *others][:KEEP]]


def main() -> None:
    """Run the groups that are not done yet; print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--groups", type=int, default=100)
    parser.add_argument("--mode", default="reward", choices=("reward", "diverse set"))
    parser.add_argument(
        "--lora", default="", help="a file of ComfyUI's list, e.g. divrl-pocket-explore.safetensors"
    )
    parser.add_argument("--plan", default="auto")
    parser.add_argument("--gate", type=float, default=-1.0)
    parser.add_argument("--output", type=Path, default=Path("runs/best_of_n.json"))
    options = parser.parse_args()
    settings = {"mode": options.mode, "lora": options.lora, "plan": options.plan, "gate": options.gate}
    done = json.loads(options.output.read_text())["groups"] if options.output.is_file() else []
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as base, Server(ensure_comfyui(), Path(base)) as server:
        for figure in range(len(done), options.groups):
            run_group(server, figure=figure, pruning=False, candidates=1, keep=1, **settings)
            order = ("full", "pruned") if figure % 2 else ("pruned", "full")
            group = {
                name: run_group(server, figure=figure, pruning=name == "pruned", **settings) for name in order
            }
            done.append({name: group[name] for name in ("full", "pruned")})
            temporary = options.output.with_suffix(".tmp")
            temporary.write_text(json.dumps({"settings": settings, "groups": done}))
            temporary.replace(options.output)
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    print(f"{settings}; {os.cpu_count()} cores, OMP_NUM_THREADS {threads}")
    print(summary(done, options.mode))


def _node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def _mean(values: list[float]) -> float:
    return statistics.fmean(values)


def _spread(values: list[float]) -> str:
    """Mean and standard error."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{_mean(values):.3f} ± {error:.3f}"


def _share(flags: list[bool]) -> str:
    share = _mean([float(flag) for flag in flags])
    return f"{share:.2f} ± {math.sqrt(share * (1 - share) / len(flags)):.2f}"


class _Score(NamedTuple):
    nssm: float
    vsm: float | None
    gate: float

    @property
    def passes(self) -> bool:
        """Whether the gate lets it through; an undefined score does not pass."""
        return self.vsm is not None and self.vsm >= self.gate


def _kept(row: Row) -> list[tuple[float, bool]]:
    return list(zip(row["kept_nssm"], row["kept_passes"], strict=True))


def _row(name: str, evaluations: list[int], kept: list[list[tuple[float, bool]]]) -> str:
    passing = _share([passes for group in kept for _, passes in group])
    nssm = [_mean([nssm for nssm, _ in group]) for group in kept]
    gated = [_mean([nssm * passes for nssm, passes in group]) for group in kept]
    return f"| {name} | {_mean(evaluations):.0f} | {passing} | {_spread(nssm)} | {_spread(gated)} |"


if __name__ == "__main__":
    main()
