# The one command list: people, hooks and CI call the same targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Extra arguments for installing torch, e.g. another index for its CPU build; see README.
TORCH_ARGS ?=
# A person at a terminal sees pip's progress, since the first installation takes minutes.
PIP := $(BIN)/python -m pip --disable-pip-version-check install $(shell [ -t 2 ] || echo --quiet)
SERVE_STAMP := $(VENV)/.installed-serve
DEV_STAMP := $(VENV)/.installed-dev
# One thread: several on a busy machine wait for each other. No column marks in tracebacks: in Python
# 3.11 making them parses code, and from a finalizer that breaks a parse of pytest's own (gh-106905).
PYTEST := OMP_NUM_THREADS=1 PYTHONNODEBUGRANGES=1 $(BIN)/python -m pytest
TESTS ?= tests

.PHONY: help serve test lint format unit bench train evaluate setup setup-dev haproxy constraints clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

serve: haproxy setup ## install what is missing, pack the model, serve in the foreground
	@exec $(BIN)/vlm-sessions serve

test: haproxy setup-dev lint ## lint, types, import rules, and all tests but those marked gpu
	$(PYTEST) -m "not gpu" --durations=10 $(TESTS)

lint: setup-dev ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy src handlers demo bench tests
	$(BIN)/lint-imports

format: setup-dev ## let ruff rewrite the sources
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

unit: setup-dev ## the tests that need neither torch nor a server
	$(PYTEST) tests/unit

bench: haproxy setup-dev ## measure this machine through the real stack
	$(BIN)/python -m bench.serve

train: setup-dev ## train the built-in model anew, an hour and a half on two cores
	$(BIN)/python -m demo.train

evaluate: setup-dev ## ask the built-in model about pictures that it has never seen
	$(BIN)/python -m demo.evaluate

setup: $(SERVE_STAMP) ## the environment that serves

setup-dev: $(DEV_STAMP) ## the environment that tests

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; name one with PYTHON=…"; exit 1; }
	@echo "Making the environment $(VENV) …"
	@$(PYTHON) -m venv $(VENV) \
	  || { rm -f $@; echo "python3 -m venv failed; on Debian: apt-get install python3-venv"; exit 1; }

$(SERVE_STAMP): requirements/torch.txt requirements/serve.txt requirements/constraints.txt pyproject.toml | $(BIN)/python
	@echo "Installing torch, the largest part; the first time, this and the rest take minutes …"
	@$(PIP) -r requirements/torch.txt -c requirements/constraints.txt $(TORCH_ARGS)
	@echo "Installing what serves …"
	@$(PIP) -r requirements/serve.txt -c requirements/constraints.txt
	@$(PIP) --no-deps --editable .
	@$(BIN)/python -c 'import torch; print("torch", torch.__version__, "CUDA", torch.version.cuda or "none")'
	@touch $@

$(DEV_STAMP): $(SERVE_STAMP) requirements/dev.txt
	@echo "Installing what tests …"
	@$(PIP) -r requirements/dev.txt -c requirements/constraints.txt
	@touch $@

haproxy:
	@scripts/need-haproxy

constraints: setup-dev ## pin what is installed now, after a deliberate upgrade
	@scripts/freeze $(BIN)/python > requirements/constraints.txt.new
	@mv requirements/constraints.txt.new requirements/constraints.txt

clean: ## remove the environment, caches and built artifacts
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache model_store/llava
