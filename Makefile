# `make help` lists the targets. Set-up runs by itself, once; it is safe to repeat.
#
# PYTHON=/path/to/python make ...   uses that environment instead of .venv: only what is missing
#                                   is installed, and nothing installed there (torch) is replaced.

ifdef PYTHON
RUN := PYTHONPATH="$(CURDIR)" "$(PYTHON)"
SETUP := existing-environment
else
RUN := .venv/bin/python
SETUP := .venv/.installed
endif

OBJECTIVE ?= filter_objective/interpretable_filter
WORKERS ?= 2

.PHONY: help setup quickstart test test-all lint types format table thumbnails bench clean existing-environment

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(SETUP) ## create .venv and install everything (the other targets do it when needed)

quickstart: $(SETUP) ## train an ordinary and an interpretable network on synthetic data
	$(RUN) scripts/study.py study=quickstart

test: $(SETUP) ## check style and types, then run the fast tests in 2 processes (WORKERS=n: in n)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(RUN) -m pytest -m "not slow" -n $(WORKERS) --dist loadfile

test-all: $(SETUP) ## the same with the long tests
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(RUN) -m pytest -n $(WORKERS) --dist loadfile

lint: $(SETUP) ## check style
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: $(SETUP) ## check types
	$(RUN) -m mypy

format: $(SETUP) ## rewrite the sources in the house style
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

table: $(SETUP) ## rewrite the method table in README.md from conf/
	$(RUN) -m tests.guards.method_table

thumbnails: quickstart ## draw the pictures of that table with the network of the quickstart
	$(RUN) -m tests.guards.method_thumbnails "$$(ls -d outputs/quickstart_interpretable_synthetic/*/ | tail -1)"
	$(RUN) -m tests.guards.method_table

bench: $(SETUP) ## cost of an objective in a training step: make bench OBJECTIVE=filter_objective/<name>
	$(RUN) scripts/benchmark.py $(OBJECTIVE)

clean: ## remove .venv and caches; outputs/ stays
	rm -rf .venv .setup.lock build dist .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.installed: pyproject.toml constraints.txt
	@sh .ci/install

existing-environment:
	@sh .ci/install "$(PYTHON)"
