"""The repository opened as ComfyUI opens it: by folder path, under a module name that is the path itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
AS_COMFYUI_LOADS = f"""
import importlib.util, sys
name = {str(ROOT)!r}.replace(".", "_x_")
spec = importlib.util.spec_from_file_location(name, {str(ROOT / "__init__.py")!r})
module = importlib.util.module_from_spec(spec)
sys.modules[name] = module
spec.loader.exec_module(module)
print(module.WEB_DIRECTORY, module.comfy_entrypoint.__name__, hasattr(module, "NODE_CLASS_MAPPINGS"))
print(sorted(set(sys.modules) & {{"torch", "diffusers", "transformers", "peft", "divrl_core"}}))
"""


def test_comfyui_finds_the_entry_point_and_start_up_imports_nothing_heavy(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", AS_COMFYUI_LOADS], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["./web comfy_entrypoint False", "[]"]
