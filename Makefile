# The verbs of this checkout. Everything happens in .venv, made on first use from the pinned versions of constraints.txt.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo test slow lint ui clean

help: ## list these verbs
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /  make \1\t/'

demo: .venv/run.stamp ## set up, and run token_length with the embedded model on the embedded text
	$(BIN)/python -m neurexp experiment=token_length model=mini dataset=pydoc
	@echo "To look at it in MLflow's pages: make ui. To go on: source $(BIN)/activate"

test: .venv/dev.stamp ## set up, and run the fast tests
	$(BIN)/python -m pytest -n auto --dist worksteal

slow: .venv/dev.stamp ## run the slow tests
	$(BIN)/python -m pytest -m slow -n auto --dist worksteal

lint: .venv/dev.stamp ## style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

ui: .venv/run.stamp ## open MLflow's pages of the runs on this machine only; OUTPUTS=FOLDER, PORT=NUMBER
	$(BIN)/python -m neurexp.ui --outputs '$(or $(OUTPUTS),outputs)' --port $(or $(PORT),5000)

clean: ## remove the virtual environment
	rm -rf .venv

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/run.stamp: .venv/bin/python pyproject.toml constraints.txt
	@echo "Setting up .venv: PyTorch, transformers, MLflow and what they need, about 2 GB on disk. It takes some minutes"
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt --editable .
	@touch $@

.venv/dev.stamp: .venv/bin/python pyproject.toml constraints.txt
	@echo "Setting up .venv: PyTorch, transformers, MLflow and what tests need, about 2 GB on disk. It takes some minutes"
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt --editable '.[dev]'
	@touch $@ .venv/run.stamp
