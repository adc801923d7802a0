"""The house's arrows: every import of every file, read without running it; what breaks a rule is named."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FLOORS = ("ground", "adapters", "work", "faces")
ROOMS = {
    "divrl_core": 0,
    "divrl_core.config": 0,
    "divrl_core.config_inputs": 0,
    "divrl_core.config_reward": 0,
    "divrl_core.config_cfm": 0,
    "divrl_core.config_nft": 0,
    "divrl_core.config_grpo": 0,
    "divrl_core.config_rollout": 0,
    "divrl_core.settings": 0,
    "divrl_core.flow": 0,
    "divrl_core.rewards": 0,
    "divrl_core.rl": 0,
    "divrl_core.models": 1,
    "divrl_core.training": 2,
    "divrl_core.selection": 2,
    "divrl_core.evaluation": 2,
    "divrl_core.pocket": 2,
    "train_cli": 3,
    "nodes": 3,
}
SETTINGS = (
    "divrl_core.config",
    "divrl_core.config_inputs",
    "divrl_core.config_reward",
    "divrl_core.config_cfm",
    "divrl_core.config_nft",
    "divrl_core.config_grpo",
    "divrl_core.config_rollout",
    "divrl_core.settings",
)
STANDARD = sys.stdlib_module_names
MODEL_LIBRARIES = {"diffusers", "transformers", "peft"}
COMFYUI_NAMES = {"nodes", "utils", "app", "server", "models", "execution"}
COMFYUI = {"comfy", "comfy_api", "comfy_extras", "folder_paths"}
LIGHT = STANDARD | {"click", "yaml"}


@dataclass(frozen=True)
class Imported:
    """One name a file imports: absolute, with the line and whether it happens when the file is imported."""

    name: str
    line: int
    is_relative: bool
    at_start: bool

    @property
    def package(self) -> str:
        """The top-level package."""
        return self.name.partition(".")[0]


def problems(root: Path) -> list[str]:
    """Every broken rule under `root`, as `file:line: what`."""
    found = []
    for path in sorted(
        [*root.glob("divrl_core/**/*.py"), *root.glob("train_cli/**/*.py"), *root.glob("nodes/**/*.py")]
    ):
        file = path.relative_to(root)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        module = ".".join(file.with_suffix("").parts).removesuffix(".__init__")
        if room_of(module) is None:
            found.append(f"{file}:1: is in no room; rooms are {', '.join(ROOMS)}")
            continue
        imports = list(imports_of(tree, module, is_package=file.name == "__init__.py"))
        found += [f"{file}:{one.line}: {word}" for one in imports for word in broken_rules(module, one)]
        if file.name == "__init__.py" and file.parts[0] != "nodes" and not is_only_a_docstring(tree):
            found.append(f"{file}:1: a package's __init__ holds one docstring and nothing else")
    return found


def broken_rules(module: str, imported: Imported) -> Iterator[str]:
    """What is wrong with `module` importing this name."""
    own, other = room_of(module), room_of(imported.name)
    assert own is not None
    face = module.partition(".")[0]
    if other is not None and ROOMS[other] > ROOMS[own]:
        yield f"{own} ({FLOORS[ROOMS[own]]}) climbs to {other} ({FLOORS[ROOMS[other]]})"
    if other in ("train_cli", "nodes") and other != face:
        yield f"nothing but the face itself imports {other}"
    if imported.is_relative and other is None:
        yield f"relative import of {imported.name}, which is no room"

    if not imported.is_relative and imported.package in COMFYUI_NAMES:
        yield f"absolute import of {imported.name}: that name belongs to ComfyUI"
    if not imported.is_relative and imported.package == "divrl_core" and face != "train_cli":
        yield f"absolute import of {imported.name}; only train_cli and tests say divrl_core"
    if face == "divrl_core" and imported.package in COMFYUI | {"click"}:
        yield f"divrl_core knows no face: {imported.name}"
    if imported.package in MODEL_LIBRARIES and own != "divrl_core.models":
        yield f"only divrl_core/models knows {imported.package}"

    is_outside = other is None and imported.package not in STANDARD
    if ROOMS[own] == 0 and is_outside and imported.package not in ("torch", "einops"):
        yield f"the ground floor imports only torch, einops and the standard library, not {imported.name}"
    if own in SETTINGS and (is_outside or (other is not None and other not in SETTINGS)):
        yield f"settings import only settings and the standard library, not {imported.name}"
    if face == "train_cli" and imported.at_start:
        if is_outside and imported.package not in LIGHT:
            yield f"{imported.name} is imported at start-up; import it in the command's body"
        if other is not None and other not in (*SETTINGS, "train_cli"):
            yield f"{imported.name} is imported at start-up; only settings may be"


def room_of(name: str) -> str | None:
    """The room of a dotted name: `divrl_core.flow` of `divrl_core.flow.path.interpolate`."""
    parts = name.split(".")
    if parts[0] in ("train_cli", "nodes"):
        return parts[0]
    if parts[0] != "divrl_core":
        return None
    room = ".".join(parts[:2])
    return room if room in ROOMS else None


def imports_of(tree: ast.Module, module: str, *, is_package: bool) -> Iterator[Imported]:
    """All imports of a file, also those in functions; `from a import b` counts as a.b."""
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}

    def at_start(node: ast.AST) -> bool:
        while node in parents:
            node = parents[node]
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                return False
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                return False
        return True

    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Imported(alias.name, node.lineno, False, at_start(node))
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if is_package else module.split(".")[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                yield Imported(
                    f"{base}.{alias.name}".lstrip("."), node.lineno, node.level > 0, at_start(node)
                )


def is_only_a_docstring(tree: ast.Module) -> bool:
    """True for a file whose one statement is its docstring."""
    return len(tree.body) == 1 and ast.get_docstring(tree) is not None


def test_no_import_breaks_the_plan_of_the_house() -> None:
    assert "\n".join(problems(ROOT)) == ""


def test_the_door_for_comfyui_hands_on_two_names_and_only_inside_a_package() -> None:
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    assert [type(node) for node in tree.body] == [ast.Expr, ast.If]
    guard = tree.body[1]
    assert isinstance(guard, ast.If)
    assert ast.unparse(guard.test) == "__package__"
    names = {node.module for node in ast.walk(guard) if isinstance(node, ast.ImportFrom) and node.level == 1}
    assert names == {"nodes"}
    assert "NODE_CLASS_MAPPINGS" not in ast.unparse(tree)


@pytest.mark.parametrize(
    ("file", "source", "problem"),
    [
        (
            "divrl_core/flow/path.py",
            "from ..training.data import x",
            "flow (ground) climbs to divrl_core.training (work)",
        ),
        ("divrl_core/flow/path.py", "from .. import models", "climbs to divrl_core.models (adapters)"),
        ("divrl_core/rl/a.py", "def f():\n    import numpy", "a.py:2: the ground floor imports only torch"),
        ("divrl_core/config.py", "import torch", "settings import only settings"),
        ("divrl_core/config.py", "from .flow.path import x", "settings import only settings"),
        ("divrl_core/models/a.py", "from ..evaluation import x", "climbs to divrl_core.evaluation"),
        ("divrl_core/training/a.py", "import peft.tuners", "only divrl_core/models knows peft"),
        (
            "divrl_core/training/a.py",
            "from train_cli.main import cli",
            "nothing but the face itself imports train_cli",
        ),
        (
            "divrl_core/training/a.py",
            "from divrl_core.config import x",
            "absolute import of divrl_core.config.x",
        ),
        ("divrl_core/training/a.py", "import click", "divrl_core knows no face"),
        ("divrl_core/training/a.py", "import folder_paths", "divrl_core knows no face"),
        ("divrl_core/training/a.py", "import utils", "that name belongs to ComfyUI"),
        ("divrl_core/training/__init__.py", '"""Doc."""\nfrom .a import b', "holds one docstring"),
        ("divrl_core/extra/a.py", "", "extra/a.py:1: is in no room"),
        ("train_cli/a.py", "import torch", "torch is imported at start-up"),
        ("train_cli/a.py", "from divrl_core.training.data import x", "only settings may be"),
        ("train_cli/a.py", "def f():\n    from nodes import x", "nothing but the face itself imports nodes"),
        ("nodes/a.py", "from ..train_cli import x", "nothing but the face itself imports train_cli"),
        ("nodes/a.py", "from divrl_core.config import x", "only train_cli and tests say divrl_core"),
        ("nodes/a.py", "def f():\n    import diffusers", "only divrl_core/models knows diffusers"),
    ],
)
def test_a_broken_rule_is_named_with_file_and_line(
    tmp_path: Path, file: str, source: str, problem: str
) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(source, encoding="utf-8")
    found = problems(tmp_path)
    assert any(problem in line for line in found), found
    assert all(line.startswith(f"{file}:") for line in found)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        (
            "divrl_core/rewards/a.py",
            "import math\nimport torch\nfrom einops import rearrange\nfrom ..flow.path import x",
        ),
        ("divrl_core/models/a.py", "import diffusers\nfrom ..rewards.nssm import nssm\nfrom .lora import y"),
        (
            "divrl_core/pocket/a.py",
            "import numpy\nfrom ..models.flux import x\nfrom ..training.files import y",
        ),
        (
            "train_cli/a.py",
            "import click\nfrom divrl_core.config import x\ndef f():\n    from divrl_core.rl.ema import y",
        ),
        ("nodes/a.py", "import torch\nfrom ..divrl_core.rewards.nssm import x\nfrom .b import y"),
    ],
)
def test_what_the_plan_allows_is_not_named(tmp_path: Path, file: str, source: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(source, encoding="utf-8")
    assert problems(tmp_path) == []
