# make demo       set up and run the whole loop: serve, log, learn, prove, swap
# make test       set up and run the test suite
# make test-cluster  two Ray nodes in namespaces of this machine, as root
# make setup      TORCH=auto|cpu|cuda  PYTHON=/path/to/python3.11
# ARGS            passed on: make demo ARGS="--minutes 4"   make test ARGS="-k gate"
# WORKERS         how many processes run the tests: 2, or 0 for this one alone (for a debugger)

SHELL := /bin/bash
TORCH ?= auto
PYTHON ?=
ARGS ?=
WORKERS ?= 2
BIN := .venv/bin

.PHONY: help setup demo test test-fast test-cluster lint format clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# //p' Makefile

setup:
	@TORCH="$(TORCH)" PYTHON="$(PYTHON)" bash deploy/setup.sh

demo: setup
	@$(BIN)/online-draft demo $(ARGS)

test: setup
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m "not cluster" $(ARGS)

test-fast: setup
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) tests/unit -m "not slow" $(ARGS)

test-cluster: setup
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -s tests/integration/cluster $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
