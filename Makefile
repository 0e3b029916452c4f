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
# Kernels in C for CPUs, beside their sources; without a compiler torch's do the same, slower.
NATIVE := src/vlm_sessions/model/native
NATIVE_STAMP := $(NATIVE)/built/.stamp
# One thread: several on a busy machine wait for each other. No column marks in tracebacks: in Python
# 3.11 making them parses code, and from a finalizer that breaks a parse of pytest's own (gh-106905).
PYTEST := OMP_NUM_THREADS=1 PYTHONNODEBUGRANGES=1 $(BIN)/python -m pytest
TESTS ?= tests
# So many files of tests at a time; on a quiet machine 2 save time. 0: one after another.
WORKERS ?= 0
SHELL_SOURCES := build_and_push.sh .ci scripts

IMAGE ?= vlm-sessions:latest
DOCKER ?= docker
# More arguments of docker build, e.g. --build-arg TORCH=cpu; see README.
IMAGE_ARGS ?=

# E.g. --seconds 60 --seed 1; see python -m bench.chaos --help.
CHAOS_ARGS ?=

.PHONY: help serve test lint format unit bench bench-peers load bench-report chaos train evaluate \
  image test-container setup setup-dev haproxy engine constraints clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

serve: haproxy setup ## install what is missing, pack the model, serve in the foreground
	@exec $(BIN)/vlm-sessions serve

test: haproxy setup-dev lint ## lint, types, import rules, and all tests but those marked gpu or container
	$(PYTEST) -m "not gpu and not container" --numprocesses $(WORKERS) --dist loadfile --durations=10 $(TESTS)

lint: setup-dev ## ruff, mypy --strict, import-linter, shellcheck, shfmt, hadolint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy src handlers demo bench tests
	$(BIN)/lint-imports
	$(BIN)/shellcheck $$($(BIN)/shfmt --find $(SHELL_SOURCES))
	$(BIN)/shfmt --indent 2 --case-indent --diff $(SHELL_SOURCES)
	$(BIN)/hadolint Dockerfile

format: setup-dev ## let ruff and shfmt rewrite the sources
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/shfmt --indent 2 --case-indent --write $(SHELL_SOURCES)

unit: setup-dev ## the tests that need neither torch nor a server
	$(PYTEST) tests/unit

bench: haproxy setup-dev ## measure this machine through the real stack
	$(BIN)/python -m bench.serve

bench-peers: setup-dev ## measure our engine beside its peers; scripts/need-peers installs them
	$(BIN)/python -m bench.peers

load: haproxy setup-dev ## raise the load until the service is no longer good enough, then double it
	$(BIN)/python -m bench.load

bench-report: setup-dev ## write docs/performance.md from the runs in bench/results
	$(BIN)/python -m bench.publish

chaos: haproxy setup-dev ## break a running service for ten minutes and check that nothing is lost
	$(BIN)/python -m bench.chaos $(CHAOS_ARGS)

train: setup-dev ## train the built-in model anew, two and a half hours on two cores
	$(BIN)/python -m demo.train

evaluate: setup-dev ## ask the built-in model about pictures that it has never seen
	$(BIN)/python -m demo.evaluate

image: ## build the container image
	@DOCKER_BUILDKIT=1 $(DOCKER) build --tag $(IMAGE) \
	  --build-arg VERSION="$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' src/vlm_sessions/__init__.py)" \
	  --build-arg REVISION="$$(git describe --always --exclude '*' --abbrev=40 --dirty 2>/dev/null)" \
	  --build-arg CREATED="$$(date -u +%Y-%m-%dT%H:%M:%SZ)" $(IMAGE_ARGS) .

test-container: setup-dev engine ## build the image, run it, break it; skipped where no engine can run
	$(PYTEST) -m container -rs --durations=10 tests/container

setup: $(SERVE_STAMP) $(NATIVE_STAMP) ## the environment that serves

setup-dev: $(DEV_STAMP) $(NATIVE_STAMP) ## the environment that tests

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

$(NATIVE_STAMP): $(wildcard $(NATIVE)/*.c $(NATIVE)/*.h $(NATIVE)/build.py) | $(BIN)/python
	@echo "Compiling kernels …"
	@mkdir -p $(@D)
	@$(BIN)/python $(NATIVE)/build.py || true
	@touch $@

haproxy:
	@scripts/need-haproxy

engine:
	@scripts/need-docker || [ "$(CI_CONTAINER)" != required ]

constraints: setup-dev ## pin what is installed now, after a deliberate upgrade
	@scripts/freeze $(BIN)/python > requirements/constraints.txt.new
	@mv requirements/constraints.txt.new requirements/constraints.txt

clean: ## remove the environment, caches and built artifacts
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache model_store/llava $(NATIVE)/built
