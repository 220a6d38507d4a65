# One word each; `make help` lists them. Works from any folder name, with Python 3.11 or newer and nothing else set up.
SHELL := /bin/bash
PY := .venv/bin/python
STAMP := .venv/.ready
# Tests and the book share small tensors: one thread a process is faster than many that wait for each other.
export OMP_NUM_THREADS ?= 1
PYTEST := $(PY) -m pytest
WORKERS ?= 2

.PHONY: help env book test test-slow test-faults test-gpu serve clean

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s%s\n", $$1, $$2 }' Makefile

env: $(STAMP) ## the environment in .venv, pinned by requirements.txt

$(STAMP): requirements.txt pyproject.toml
	@bash tools/environment.sh
	@touch $(STAMP)

book: env ## execute the chapters from records and render _build/html
	@$(PY) -m tools.book

test: env ## all tests but the slow ones
	$(PYTEST) -m "not slow" -n $(WORKERS) --dist loadfile

test-slow: env ## the slow tests: live trainings, chapters by nbval and papermill, the pages in a browser
	$(PYTEST) -m slow -n $(WORKERS) --dist loadfile --durations=30

test-faults: env ## ten thousand generated bad inputs and five hundred kills (test-slow tries a few)
	ARLIB_FAULTS=10000 $(PYTEST) tests/test_faults.py tests/test_boundary_page.py -n $(WORKERS)
	$(PY) -m benchmarks.kills

test-gpu: env ## the tests that need a GPU
	$(PYTEST) -m gpu

serve: book ## show the rendered book at http://localhost:8000
	@echo "The book is at http://localhost:8000 (Ctrl-C ends it)."
	@$(PY) -m http.server 8000 --bind 127.0.0.1 --directory _build/html

clean: ## remove what `make book` made; .venv, data and runs stay
	rm -rf _build
