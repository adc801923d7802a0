# The commands of this repository; each makes the environment it needs in $(VENV) and makes it only once.
#
#   make demo                 post-train the pocket Kontext on this computer; writes runs/demo/report.html
#   make experiment           eight models, three seeds, hours; makes docs/experiment again, cell by cell
#   make experiment-cfm       masked flow matching: ablations, and RL on top; makes docs/cfm again
#   make test                 the tests; installs ComfyUI into a cache of its own, for its part of them
#   make check                formatting, lint, types
#   make bench                measured ratios of speed and memory
#
# TORCH chooses the build of PyTorch. Without a graphics card, this one is far smaller on Linux:
#   make demo TORCH="torch --index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
DEMO ?= runs/demo
PYTEST_ARGS ?=

ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif

PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help demo experiment experiment-cfm test check format bench clean

help:
	@sed -n 's/^#   make/make/p' Makefile

demo: $(VENV)/.installed
	$(BIN)/divrl-train demo --output $(DEMO) --resume

experiment: $(VENV)/.installed
	$(BIN)/divrl-train experiment stages

experiment-cfm: $(VENV)/.installed
	$(BIN)/divrl-train experiment cfm

test: $(VENV)/.installed-dev
	-TORCH="$(TORCH)" $(BIN)/python -m tests.comfyui.install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(PYTEST_ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	mkdir -p .mypy_cache && ln -sfn "$(CURDIR)" .mypy_cache/divrl_pack
	MYPYPATH=.mypy_cache $(BIN)/mypy -p divrl_pack.nodes
	$(BIN)/python -m pytest -q tests/test_architecture.py

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/nssm.py
	$(BIN)/python benchmarks/cfm.py
	$(BIN)/python benchmarks/grpo.py
	$(BIN)/python benchmarks/rewards.py
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/best_of_n.py --groups 10 --lora divrl-pocket-suppress.safetensors

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# PyTorch comes first and alone: otherwise pip would choose its build for us.
$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install $(TORCH)
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(PIP) install --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install --editable ".[dev]"
	@touch $@
