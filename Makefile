# The two commands are `make demo` and `make test`; each makes .venv first when it is missing or out of date.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
WORKERS ?= 2
VERSIONS ?=
LMMS := .venvs/lmms

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

test-page: $(READY)  ## the web page in a real Chromium (Debian: chromium chromium-driver)
	PRUNEVID_TEST_PAGE=1 $(BIN)/python -m pytest tests/serve/test_serve_page.py tests/serve/test_serve_page_browser.py

lint: $(READY)  ## ruff, ruff format and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

SEED = 1
train: $(READY)  ## train the built-in model anew, as the shipped one was (SEED=1; about four hours on one core)
	$(BIN)/python -m prunevid.builtin.train --out out/train-$(SEED) --seed $(SEED) --dtype bfloat16

clean:  ## remove the environment and caches
	rm -rf $(VENV) .venvs .pytest_cache .mypy_cache .ruff_cache .hypothesis
