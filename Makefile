# One file sets everything up: a fresh machine needs only Python 3.11 to 3.13 and make.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Test workers: one per core, at most 4; each has one thread, so that they share the cores.
WORKERS ?= auto

.PHONY: help setup repro smoke test lint format clean
.DEFAULT_GOAL := help

help:  ## list what make can do
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.dev  ## make the virtual environment and install what work on the code needs

repro: $(VENV)/.run  ## train four schemes at length 64, evaluate them up to 1024, write the report
	$(BIN)/python scripts/sweep.py experiment=quickstart

EXPERIMENTS := extrapolation test_split every_token books large novels

smoke: $(VENV)/.run  ## run every experiment of the paper at the smallest scale
	for name in $(EXPERIMENTS); do \
	  $(BIN)/python scripts/sweep.py experiment=$$name scale=smoke tracking=off || exit 1; done
	$(BIN)/python scripts/benchmark.py experiment=speed scale=smoke

test: setup  ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 4 --dist worksteal

lint: setup  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup  ## rewrite the sources in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the virtual environment and the caches, keep the outputs
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis

# A stamp for each list of requirements: `make repro` installs what a sweep needs and no more.
$(VENV)/.run: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "alibi_lm needs Python 3.11 to 3.13; '$(PYTHON)' is $$($(PYTHON) -V). Name another: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --progress-bar off -r requirements.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run $(filter-out requirements.txt,$(wildcard requirements*.txt))
	$(BIN)/python -m pip install --progress-bar off -r requirements.txt -r requirements-dev.txt
	@touch $@
