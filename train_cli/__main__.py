"""`python -m train_cli` is divrl-train: for accelerate launch and torchrun, which start modules."""

from __future__ import annotations

from .main import cli

if __name__ == "__main__":
    cli(prog_name="divrl-train")
