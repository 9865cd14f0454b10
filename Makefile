# The two commands are `make demo` and `make test`; each makes .venv first when it is missing or out of date.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
WORKERS ?= 2
VERSIONS ?=
LMMS := .venvs/lmms
PAGE := .venvs/page

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-matrix test-lmms test-page lint format train clean

help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit('prunevid needs Python 3.10 or newer; set PYTHON=') if sys.version_info < (3, 10) else 0"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,plot]'
	touch $(READY)

demo: $(READY)  ## make a clip, ask the built-in model about it with and without pruning
	$(BIN)/prunevid demo

test: $(READY)  ## the whole test suite, offline
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow"

test-all: $(READY)  ## the same with the heavier tests
	$(BIN)/python -m pytest -n $(WORKERS)

test-matrix:  ## the suite on several transformers, each in .venvs/ (VERSIONS="5.18.0" for one, PYTHON= for another Python)
	$(PYTHON) tests/versions.py $(VERSIONS) --python $(PYTHON) --pytest "-n $(WORKERS) -m 'not slow'"

# lmms-eval holds PyAV below 16, so the versions tested together apply but for that one.
$(LMMS)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(LMMS)
	grep -v '^av==' constraints.txt > $(LMMS)/constraints.txt
	$(LMMS)/bin/python -m pip install --quiet --upgrade pip
	$(LMMS)/bin/python -m pip install --quiet -c $(LMMS)/constraints.txt -e '.[lmms,dev]'
	touch $@

test-lmms: $(LMMS)/.ready  ## the integration with lmms-eval, and reading clips with its PyAV, in .venvs/lmms
	PRUNEVID_TEST_LMMS=1 $(LMMS)/bin/python -m pytest tests/lmms tests/video

# Gradio holds Pillow below 13, so the versions tested together apply but for that one. Needs Debian's chromium-driver.
$(PAGE)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(PAGE)
	grep -v '^pillow==' constraints.txt > $(PAGE)/constraints.txt
	$(PAGE)/bin/python -m pip install --quiet --upgrade pip
	$(PAGE)/bin/python -m pip install --quiet -c $(PAGE)/constraints.txt -e '.[serve,dev]' selenium
	touch $@

test-page: $(PAGE)/.ready  ## the web page, also in a real Chromium, in .venvs/page
	$(PAGE)/bin/python -m pytest tests/serve

lint: $(READY)  ## ruff, ruff format and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

train: $(READY)  ## train the built-in model anew (about an hour and a half on two cores)
	$(BIN)/python -m prunevid.builtin.train --out out/train

clean:  ## remove the environment and caches
	rm -rf $(VENV) .venvs .pytest_cache .mypy_cache .ruff_cache .hypothesis
