# make demo: the whole road on this machine's own text     make test: lint is apart (make lint)
# make elastic COUNT=10000: that many random elastic schedules read the order as a plain list is read
# All set up .venv first, from constraints.txt: Python 3.11 and make are all they need.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
TEST_WORKERS ?= 2
DEMO ?= demo
COUNT ?= 10000

.PHONY: setup demo test elastic lint clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 is needed: set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/pdpc demo output=$(DEMO)

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist worksteal --durations 10

elastic: setup
	OMP_NUM_THREADS=1 PDPC_ELASTIC_SCHEDULES=$(COUNT) $(BIN)/python -m pytest -s tests/curriculum/test_elastic.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(DEMO) .pytest_cache .mypy_cache .ruff_cache .hypothesis
