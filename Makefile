# `make demo` and `make test` work on a fresh clone: they make .venv themselves and need only
# Python 3.11 or later.

ARGS ?=
WORKERS ?= 2
UV_VERSION = 0.13.8

BIN = .venv/bin
READY = .venv/.ready
# The tests start hundreds of programs: compiled files are kept, whatever the environment says.
PYTEST = PYTHONDONTWRITEBYTECODE= $(BIN)/python -W error -m pytest
# Modules come in the order of their folders, so that the last ones are the shortest (tests/unit).
SHARED_OUT = --numprocesses $(WORKERS) --dist loadscope --no-loadscope-reorder

.DEFAULT_GOAL = help
.PHONY: help sim sim-mutants demo bench services test test-long mutants check lint types contracts tidy docs lock clean

help:  ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' Makefile

demo: $(READY)  ## Run everything on this machine against the sandbox (ARGS=...)
	$(BIN)/paymaster demo $(ARGS)

bench: $(READY)  ## Measure every promise about speed on this machine (ARGS="--quick --only saga")
	$(BIN)/paymaster bench $(ARGS)

sim: $(READY)  ## Simulate 1,000 seeds of 30 days with all faults; 0 violations (ARGS="--seeds 10")
	$(BIN)/paymaster sim --seeds 1000 --workers $(WORKERS) --json $(ARGS)

sim-mutants: $(READY)  ## Take each guard out of the code: the simulation must notice within 50 seeds
	$(BIN)/paymaster sim --mutants --days 12 --users 30 $(ARGS)

services:  ## Install what some tests need from Debian (root only); without it they are skipped
	tools/set-up-services

test: $(READY)  ## Run the tests (ARGS="tests/unit -k money"); the house rules' are in `make check`
	$(PYTEST) $(SHARED_OUT) -m "not long" --ignore tests/tidy $(ARGS)

test-long: $(READY)  ## The longer tests with real processes: other logs, kill -9, second copies
	$(PYTEST) -m long $(ARGS)

mutants: $(READY)  ## Put faults into the code, and see which ones the tests find (ARGS="--only machines")
	$(BIN)/python -m tools.mutation $(ARGS)

check: lint types contracts tidy  ## Lint, format, types, import contracts, house rules, documentation

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/basedpyright --pythonpath $(BIN)/python --project tests/pyrightconfig.json

contracts: $(READY)
	$(BIN)/lint-imports

tidy: $(READY)
	$(PYTEST) --quiet tests/tidy

docs: $(READY)  ## Check links and run the examples of the documentation
	$(PYTEST) --quiet tests/tidy/test_docs.py

lock: $(READY)  ## Resolve requirements.lock anew (ARGS="--upgrade")
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --all-extras \
		--no-header --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
		$(ARGS) pyproject.toml --output-file requirements.lock

clean:  ## Remove .venv and caches; data directories stay
	rm -rf .venv .venv.log build dist .hypothesis .import_linter_cache .pytest_cache .ruff_cache .schemathesis
	find src bench tests -type d -name __pycache__ -prune -exec rm -rf {} +

$(READY): requirements.lock pyproject.toml tools/set-up
	@PYTHON="$(PYTHON)" tools/set-up
	@touch $@
