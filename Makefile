# Everything starts from a bare machine: Python >= 3.11 and make. The first call sets up .venv, later calls do not.
.DEFAULT_GOAL := help
SHELL := /bin/sh
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/.ready
# One test process a core. With the Prefect server that it starts once a test needs one, it takes 1.1 GB. WORKERS=0 runs all in one.
WORKERS ?= logical
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist loadfile --no-loadscope-reorder
export PERENNIAL_HOME ?= .perennial
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-fast test-slow test-all check bench bench-monitor bench-loop bench-policy bench-settings bench-diagnosis bench-ledger chaos attack e2e image-check serve lock clean clean-demo

help: ## what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: no Python from 3.11 to 3.13 found; install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "setting up .venv with $(PYTHON) (once; about a minute)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.9,<1" "setuptools>=77"
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes --compile-bytecode requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY) ## replay a year of flights for every model, then show what happened
	@$(BIN)/perennial demo

test: $(READY) ## every test but the slow ones
	@$(PYTEST) -m "not slow"

test-fast: $(READY) ## the tests of policy
	@$(PYTEST) -m "not slow" tests/policy

test-slow: $(READY) ## long simulations, servers and workers as real processes, killed processes, a browser
	@$(PYTEST) -m slow --ignore tests/chaos
	@$(BIN)/python -m pytest -m slow tests/chaos  # by itself: its cells use every core already

test-all: test test-slow ## every test that this machine can run

check: $(READY) ## formatting, types, and what each model file will do
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/perennial check

bench: bench-monitor bench-loop bench-policy bench-diagnosis ## every benchmark

bench-monitor: $(READY) ## cost of one window's evidence against Evidently, scipy and a bare scan
	@$(BIN)/python -m tests.benchmarks.bench_monitor

bench-loop: $(READY) ## cost of the replay against a bare script with the same reads, fits and metrics
	@$(BIN)/python -m tests.benchmarks.bench_loop

bench-settings: $(READY) ## the demo models' training settings, judged on their history alone
	@$(BIN)/python -m tests.benchmarks.flight_settings

bench-policy: $(READY) ## retraining policies on drifting streams
	@$(BIN)/python -m tests.benchmarks.bench_policy

bench-diagnosis: $(READY) ## what the diagnosis says of changes of a known kind on real flights
	@$(BIN)/python -m tests.benchmarks.bench_diagnosis

bench-ledger: $(READY) ## what a run pays to read a ledger of 10,000 and of 100,000 entries
	@$(BIN)/python -m tests.benchmarks.bench_ledger

chaos: $(READY) ## kill every process at every boundary, break what lies below, and see the loop complete
	@$(BIN)/python -m tests.chaos

attack: $(READY) ## what enemies try: web pages, forged events, exchanged files, look-alike names; a row each
	@$(BIN)/python -m tests.attacks

e2e: $(READY) ## the whole path on a real server, with the seconds of each hop
	@$(BIN)/python -m tests.benchmarks.bench_e2e

image-check: $(READY) ## build the image and let a worker run a retrain in it (minutes; needs Docker)
	@command -v docker >/dev/null || { echo "make: no docker found; apt-get install docker.io" >&2; exit 1; }
	docker build --network host --file infra/docker/Dockerfile --tag perennial:check \
		--build-arg COMMIT="$$(git describe --always --dirty=+dirty --abbrev=40 --exclude='*')" .
	@PERENNIAL_IMAGE=perennial:check $(BIN)/python -m pytest tests/infra/test_image.py

serve: $(READY) ## Prefect and MLflow dashboards on what the demo did
	@exec $(BIN)/perennial serve

lock: ## resolve the requirements anew
	@$(BIN)/uv pip compile pyproject.toml --extra dev --universal --generate-hashes --no-emit-index-url --upgrade --quiet --output-file requirements.lock

clean-demo: ## forget what the demo did
	rm -rf -- "$$PERENNIAL_HOME"

clean: ## remove what was built and what the demo left
	rm -rf .venv build *.egg-info .perennial .pytest_cache .mypy_cache .ruff_cache .hypothesis
