# make demo: the whole path on real data. make test: everything that must hold. make quick: what a change touches.
# Each makes .venv first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# bytecode is compiled when a module is first imported: installing is a third faster
PIP := $(BIN)/pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt

.PHONY: demo quick test test-slow lint ruff mypy pyright imports clean

demo: .venv/.demo
	$(BIN)/edgedistill compress examples/digits.yaml

test: .venv/.dev lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist worksteal -m "not slow" --cov --cov-report=term --cov-fail-under=90

test-slow: .venv/.dev
	$(BIN)/pytest -q -m slow

quick: .venv/.dev
	$(BIN)/python tests/quick.py

lint: .venv/.dev
	$(MAKE) --no-print-directory -j 2 --output-sync ruff mypy pyright imports

ruff:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

mypy pyright:
	$(BIN)/$@

imports:
	$(BIN)/lint-imports

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.demo: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e '.[all]'
	touch $@

.venv/.dev: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e '.[all,dev]'
	touch $@ .venv/.demo

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.*
