# make demo | test | check | e2e | bench | mutants | sabotage | docs | clean. Everything lives in .venv; nothing is installed outside it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
DEMO_STAMP := $(VENV)/.installed-train
ALL_STAMP := $(VENV)/.installed-all

# Flower and Ray send nothing home and install nothing while they run; one thread per process, two processes.
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION := 1
export RAY_USAGE_STATS_ENABLED := 0
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1

.PHONY: help demo test check e2e soak bench reproductions mutants sabotage docs clean

help: ## list the targets
	@grep -hE '^[a-z0-9]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9]+):.*## /  make \1\t/' | expand -t 16

demo: $(DEMO_STAMP) ## install what training needs and run the heart scenario
	$(BIN)/fedinfer run heart

test: $(ALL_STAMP) ## install everything and run every test: fast, slow, end to end, browser
	$(BIN)/python scripts/run_tests.py

check: $(ALL_STAMP) ## format, lint, types, rooms, dead code, documentation
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/lint-imports
	$(BIN)/vulture
	$(BIN)/python scripts/cli_reference.py --check
	$(BIN)/python scripts/architecture.py --check
	$(BIN)/python scripts/docstrings.py
	$(BIN)/python scripts/build_docs.py

e2e: $(ALL_STAMP) ## a real SuperLink and SuperNodes on loopback
	$(BIN)/python -m pytest -m "e2e and not soak"

soak: $(ALL_STAMP) ## faults in a real deployment; long searches: decoders, drift, killed processes, secure aggregation attacked for an hour
	$(BIN)/python -m scripts.faults
	$(BIN)/python -m pytest --timeout=0 -m "soak and not e2e" -n 2
	$(BIN)/python -m pytest --timeout=0 -s -m "soak and e2e"
	$(BIN)/python -m pytest --timeout=0 --hypothesis-profile=soak tests/protocol/test_secagg_adversary.py

bench: $(ALL_STAMP) ## measure everything again, for hours, and rewrite all tables of measurements in the documentation
	$(BIN)/python scripts/bench.py

reproductions: $(ALL_STAMP) ## published figures beside ours: rewrite the tables of docs/reproductions.md
	$(BIN)/python scripts/bench.py reproductions

mutants: $(ALL_STAMP) ## change the code in 400 small ways, one at a time, and see whether the tests notice
	$(BIN)/python -m scripts.mutate --sample 400 --seed 1

sabotage: $(ALL_STAMP) ## take every guard away, one at a time, and see the test that is named for it fail
	$(BIN)/python -m scripts.sabotage

docs: $(ALL_STAMP) ## build the documentation site into site/
	$(BIN)/python scripts/cli_reference.py
	$(BIN)/python scripts/build_docs.py site

clean: ## remove the environment, caches and build results; run folders stay
	rm -rf $(VENV) site build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fedinfer needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

# A stamp is older than what it was made from only after a change of the dependencies. The larger set contains the smaller.
$(DEMO_STAMP): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet -c constraints.txt -e '.[train]'
	touch $@

$(ALL_STAMP): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet -c constraints.txt -e '.[all]'
	touch $(DEMO_STAMP) $@
