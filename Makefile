# Every target sets itself up: the first one makes the virtual environment and installs the tested set of packages into it.
#   make demo PYTHON=python3.12     with another interpreter
#   make test VENV=/somewhere/else  in another folder
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Made last, so that an interrupted installation goes on at the next call.
STAMP := $(VENV)/.installed

# MuJoCo draws without a screen through EGL. Where that library is missing, asking for it would break `import mujoco`.
ifeq ($(shell uname -s)$(MUJOCO_GL),Linux)
export MUJOCO_GL := $(shell $(PYTHON) -c "import ctypes.util as c; print('egl' if c.find_library('EGL') else 'disabled')")
endif

.PHONY: help install demo test bench lint format types docs tables clean
.DEFAULT_GOAL := help

help:
	@echo "make demo      collect Meta-World data, train, and evaluate on held-out tasks: runs/quickstart/"
	@echo "make test      run the tests, and list the lines that they leave out"
	@echo "make bench     measure, and write the results into docs/background/performance.md"
	@echo "make lint      check style and format"
	@echo "make format    mend style and format"
	@echo "make types     check the types"
	@echo "make docs      build the documentation: docs/_build/html/index.html"
	@echo "make tables    fill README.md and docs with numbers from docs/results, and draw the chart"
	@echo "make clean     remove what the targets above made, but the virtual environment"

install: $(STAMP)

# torch comes first and by its exact pin: a range asked for by another package would take the newest build.
$(STAMP): setup.cfg constraints.txt
	@$(PYTHON) -c "import sys; v = sys.version_info; (3, 11) <= v < (3, 14) or sys.exit( \
	    f'Python 3.11 to 3.13 is needed, and $(PYTHON) is {v.major}.{v.minor}: name another, as in make PYTHON=python3.12')"
	@echo "Installing the tested set of packages into $(VENV): once, a few minutes."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all]'
	@touch $@

demo: $(STAMP)
	$(BIN)/sb3-llmdpd quickstart

# One thread a process: the networks in the tests are so small that more threads only wait for each other. The tests of a
# file stay in one process, where they share what was trained for them; more than four processes would wait for the last file.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --cov --numprocesses auto --maxprocesses 4 --dist loadfile

# About 15 minutes on a machine that does nothing else, four gigabytes in runs/bench, and thirteen of memory.
# `make bench ONLY=acting` measures one section.
bench: $(STAMP)
	$(BIN)/python tests/benchmarks/run.py $(if $(ONLY),--only $(ONLY))

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP)
	$(BIN)/mypy

docs: $(STAMP)
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet --builder html docs docs/_build/html

tables: $(STAMP)
	$(BIN)/python -m tools.make_tables

clean:
	rm -rf build *.egg-info docs/_build docs/reference/generated .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage
