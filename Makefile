# make demo       set up and run the whole loop: serve, log, learn, prove, swap
# make test       set up and run the test suite
# make setup      TORCH=auto|cpu|cuda  PYTHON=/path/to/python3.11
# ARGS            passed on: make demo ARGS="--minutes 4"   make test ARGS="-k gate"

SHELL := /bin/bash
TORCH ?= auto
PYTHON ?=
ARGS ?=
BIN := .venv/bin

.PHONY: help setup demo test test-fast lint format clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# //p' Makefile

setup:
	@TORCH="$(TORCH)" PYTHON="$(PYTHON)" bash deploy/setup.sh

demo: setup
	@$(BIN)/online-draft demo $(ARGS)

test: setup
	@$(BIN)/python -m pytest $(ARGS)

test-fast: setup
	@$(BIN)/python -m pytest tests/unit -m "not slow" $(ARGS)

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
