# `make demo` and `make test`, each from nothing but Python 3.11 or newer with venv.

PYTHON ?= python3
VENV ?= .venv
WORKDIR ?= runs/demo
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --disable-pip-version-check --progress-bar off --no-compile -q
# Huge pages for what a step allocates: on a CPU it then takes about a quarter less time.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: demo test test-slow lint clean

demo: $(VENV)/.demo
	$(BIN)/deemo demo --workdir=$(WORKDIR)

test: $(VENV)/.dev
	$(BIN)/python -m pytest

test-slow: $(VENV)/.dev
	$(PIP) -c constraints.txt -e '.[plan]'
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:
	rm -rf $(VENV) build *.egg-info

# The pip of Python 3.11 takes half a minute longer to find out what goes with what.
$(VENV)/.new:
	$(PYTHON) -m venv --upgrade-deps $(VENV)
	touch $@

# The stamps are made anew when what they install from changes. Python compiles what it
# imports; compiling all that is installed would take a minute more.
$(VENV)/.demo: setup.py constraints.txt requirements-media.txt | $(VENV)/.new
	$(PIP) -c constraints.txt -e '.[deidentify,export]'
	$(PIP) --no-deps --ignore-requires-python -r requirements-media.txt
	touch $@

$(VENV)/.dev: setup.py constraints.txt requirements-media.txt requirements-audit.txt \
    | $(VENV)/.new
	$(PIP) -c constraints.txt -e '.[deidentify,audit,export,dev]'
	$(PIP) --no-deps --ignore-requires-python \
	    -r requirements-media.txt -r requirements-audit.txt
	touch $@
