# One virtual environment per checkout; everything runs from it.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# Errors only: a mirror that lacks a package warns once per package.
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check --no-input
STATE ?=
RUN_FLAGS := $(if $(STATE),--state-dir $(STATE))

.PHONY: help venv demo run test test-slow test-systemd chaos validate-gates lint format bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP) ## create .venv and install everything (only when something changed)

# torch alone first: by far the largest wheel, and the one whose version must be settled before anything can ask for another.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "cappuccino needs Python 3.11 or newer; name one: make venv PYTHON=python3.11" >&2; exit 1; }
	@echo "[1/4] creating .venv with $$($(PYTHON) --version)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "[2/4] installing torch (the largest part; about a minute)"
	@$(PIP) install -c constraints.txt torch==2.13.0
	@echo "[3/4] installing the build backend"
	@$(PIP) install -c constraints.txt hatchling editables
	@echo "[4/4] installing cappuccino and its tools"
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[dev,compare]'
	@touch $@
	@echo "ready: $(BIN)/cappuccinoctl --help"

demo: $(STAMP) ## the whole loop in minutes: train, judge, promote, paper-trade on a simulated market
	@$(BIN)/cappuccinoctl demo

run: $(STAMP) ## the daemon on live public candles (state directory: make run STATE=DIR)
	@$(BIN)/cappuccinoctl run $(RUN_FLAGS)

test: $(STAMP) ## all quick tests, a file per core at a time
	@$(BIN)/python -m pytest -n logical --dist loadfile $(TEST_FLAGS)

test-slow: $(STAMP) ## the tests that take minutes
	@$(BIN)/python -m pytest -m slow

test-systemd: $(STAMP) ## the shipped unit under a real systemd in a container (root; skipped with a reason elsewhere)
	@$(BIN)/python -m pytest -m systemd -s -rs tests/systemd

chaos: $(STAMP) ## kills, hangs, storms, full disks, ten thousand simulated days: the numbers of docs/promises.md (about half an hour)
	@$(BIN)/python -m pytest -m chaos -s -rs

validate-gates: $(STAMP) ## whole studies where the right verdict is known: what the gates promote (goes on where it was stopped)
	@PYTHONPATH=tests $(BIN)/python tests/validate/run.py

lint: $(STAMP) ## formatting, lint, types, import contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(STAMP) ## rewrite to the house format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(STAMP) ## speed, printed as ratios; never a gate
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[bench]'
	@$(PIP) install --no-deps gym-trading-env==0.3.5  # the ccxt that it asks for is years old; its environment needs none
	@$(BIN)/python -m pytest -m bench -s

clean: ## remove what was built, never a state directory
	@rm -rf .venv dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
