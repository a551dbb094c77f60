# `make` lists the targets. `make docs PYTHON=python3` uses another environment.

PYTHON ?= $(if $(wildcard .venv/bin/python),.venv/bin/python,python)
QUIET_CPU := OMP_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help setup check format lint types test test-all golden docs links docs-figures notebooks examples readme package demo clean

help:  ## lists the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

setup:  ## creates .venv and installs the package with its extras
	python3 -m venv .venv
	.venv/bin/python -m pip install --quiet --upgrade pip
	.venv/bin/python -m pip install --quiet -e ".[test,lint,docs]"

check: lint types test  ## lint, types and fast tests: what a commit must pass

format:  ## formats, and fixes what can be fixed automatically
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

lint:  ## ruff, and the formatting
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types:  ## mypy, strict
	$(PYTHON) -m mypy

test:  ## the fast tests
	$(QUIET_CPU) $(PYTHON) -m pytest -q -m "not slow"

test-all:  ## all tests
	$(QUIET_CPU) $(PYTHON) -m pytest -q

golden:  ## accepts the golden texts of the report tests; read the difference first
	ACCEPT_GOLDEN=1 $(PYTHON) -m pytest -q tests/report/test_report.py
	git diff --stat tests/support/golden

docs:  ## the documentation in docs/_build/html, warnings as errors, links and searches checked
	$(PYTHON) docs/errors_page.py && $(PYTHON) docs/reproducing_page.py
	$(PYTHON) -m sphinx -q -E -W --keep-going -b html docs docs/_build/html
	$(PYTHON) docs/check_built.py docs/_build/html

links:  ## checks every link to another site (needs a network)
	$(PYTHON) -m sphinx -q -b linkcheck docs docs/_build/links

docs-figures:  ## the drawings in the documentation
	$(PYTHON) docs/figures.py

notebooks:  ## executes the notebooks and keeps their outputs
	$(PYTHON) examples/notebooks/build.py

examples:  ## runs the example scripts, each on real data
	$(PYTHON) examples/run_all.py

readme:  ## runs the demo and writes its output and figure into README.md
	$(PYTHON) .ci/readme.py --update

package:  ## builds wheel and source distribution, and installs each in a fresh environment
	$(PYTHON) -m pip install --quiet build
	rm -rf dist
	$(PYTHON) -m build --outdir dist
	for file in dist/*; do \
	  rm -rf build/fresh && $(PYTHON) -m venv --system-site-packages build/fresh && \
	  build/fresh/bin/python -m pip install --quiet --no-deps --force-reinstall $$file && \
	  (cd build && fresh/bin/python -c "import batchfinder; print(batchfinder.__version__)") || exit 1; \
	done

demo:  ## the demo: a whole call on handwritten digits
	$(PYTHON) -m batchfinder demo

clean:  ## removes build products
	rm -rf build dist docs/_build docs/notebooks .mypy_cache .pytest_cache .ruff_cache .hypothesis
