# Needs only Python >= 3.11 and make. The first call sets up .venv.
.DEFAULT_GOAL := help
SHELL := /bin/sh
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/.ready
# One test process per core. Each takes up to 1.1 GB, including the Prefect server that some tests start. WORKERS=0: one process.
WORKERS ?= logical
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist loadfile --no-loadscope-reorder
export PERENNIAL_HOME ?= .perennial
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-fast test-slow test-all check bench bench-monitor bench-loop bench-policy bench-settings bench-diagnosis bench-rollout bench-ledger bench-training bench-training-overhead chaos attack drill e2e image-check serve lock clean clean-demo bench-gateway bench-edge

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: no Python from 3.11 to 3.13 found; install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "setting up .venv with $(PYTHON) (once; about a minute)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.9,<1" "setuptools>=77"
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes --compile-bytecode requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY) ## replay a year of flights for both models and show the result
	@$(BIN)/perennial demo

test: $(READY) ## run all tests except the slow ones
	@$(PYTEST) -m "not slow"

test-fast: $(READY) ## run the tests of tests/policy
	@$(PYTEST) -m "not slow" tests/policy

test-slow: $(READY) ## run the slow tests: long simulations, real servers and workers, killed processes, a browser
	@$(PYTEST) -m slow --ignore tests/chaos
	@$(BIN)/python -m pytest -m slow tests/chaos  # separately: these tests already use every core

test-all: test test-slow ## run every test that this machine can run

check: $(READY) ## check formatting, types and the model files
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/perennial check

bench: bench-monitor bench-loop bench-policy bench-diagnosis ## run the four main benchmarks

bench-monitor: $(READY) ## measure the cost of monitoring a window, against Evidently, scipy and a bare scan
	@$(BIN)/python -m tests.benchmarks.bench_monitor

bench-loop: $(READY) ## measure the cost of a replay, against a bare script with the same reads, fits and metrics
	@$(BIN)/python -m tests.benchmarks.bench_loop

bench-settings: $(READY) ## compare training settings of the demo models on their history
	@$(BIN)/python -m tests.benchmarks.flight_settings

bench-policy: $(READY) ## compare retraining policies on drifting streams
	@$(BIN)/python -m tests.benchmarks.bench_policy

bench-diagnosis: $(READY) ## measure how often the diagnosis names injected changes in real flights correctly
	@$(BIN)/python -m tests.benchmarks.bench_diagnosis

bench-rollout: $(READY) ## measure the level, power and exposure of rollout rules on the losses of real models
	@$(BIN)/python -m tests.benchmarks.bench_rollout

bench-edge: $(READY) ## measure what adapting on a device gains between retrains, on drifting streams
	@$(BIN)/python -m tests.benchmarks.bench_edge

bench-ledger: $(READY) ## measure the time to read a ledger of 10,000 and of 100,000 entries
	@$(BIN)/python -m tests.benchmarks.bench_ledger

bench-training: $(READY) ## compare ways to train on drifting streams: fixed, refitted, raced
	@$(BIN)/python -m tests.benchmarks.bench_training

bench-gateway: $(READY) ## compare the gateway with FastAPI, MLflow and a bare echo, around the same model
	@$(BIN)/python -m tests.benchmarks.bench_gateway

bench-training-overhead: $(READY) ## compare training with XGBoost alone on 1M rows: CPU time and memory (20 minutes)
	@$(BIN)/python -m tests.benchmarks.bench_training_overhead

chaos: $(READY) ## kill every process at every boundary, break its services, and check that the loop completes
	@$(BIN)/python -m tests.chaos

attack: $(READY) ## try attacks (web pages, forged events, swapped files, look-alike names) and print one row each
	@$(BIN)/python -m tests.attacks

drill: $(READY) ## give bad challengers a part of live traffic and measure how soon they lose it (20 minutes)
	@$(BIN)/python -m tests.drill

e2e: $(READY) ## run the full loop on a real server and time each step
	@$(BIN)/python -m tests.benchmarks.bench_e2e

image-check: $(READY) ## build the image and run a retrain in it (minutes; needs Docker)
	@command -v docker >/dev/null || { echo "make: no docker found; apt-get install docker.io" >&2; exit 1; }
	docker build --network host --file infra/docker/Dockerfile --tag perennial:check \
		--build-arg COMMIT="$$(git describe --always --dirty=+dirty --abbrev=40 --exclude='*')" .
	@PERENNIAL_IMAGE=perennial:check $(BIN)/python -m pytest tests/infra/test_image.py

serve: $(READY) ## serve Prefect, MLflow, Evidently and reports on the workspace
	@exec $(BIN)/perennial serve

lock: ## update requirements.lock
	@$(BIN)/uv pip compile pyproject.toml --extra dev --universal --generate-hashes --no-emit-index-url --upgrade --quiet --output-file requirements.lock

clean-demo: ## delete the demo's workspace
	rm -rf -- "$$PERENNIAL_HOME"

clean: ## delete .venv, caches and the demo's workspace
	rm -rf .venv build *.egg-info .perennial .pytest_cache .mypy_cache .ruff_cache .hypothesis
