PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check format docs clean

# Runs the shipped PushT agent: prints its success, milliseconds per decision and the video's path.
# One thread is as fast beside another busy program as alone; several wait for one another there.
demo: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python examples/quickstart.py

# Every check: style, types, tests; those of PushT once more with the older pymunk.
test: check $(VENV)/pymunk6
	$(BIN)/python -m pytest
	PYTHONPATH=$(VENV)/pymunk6 $(BIN)/python -m pytest tests/test_envs.py tests/test_particle_envs.py -k "pusht or rope or granular or particle"

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy gbp_agent envs

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Pages of every public class and function, from the docstrings: docs/api/index.html.
docs: $(VENV)/.installed-docs
	$(BIN)/python docs/build_api.py

clean:
	rm -rf $(VENV) build dist docs/api *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "gbp_agent needs Python >= 3.10: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.installed: $(VENV)/bin/python setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: $(VENV)/bin/python setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@ $(VENV)/.installed

$(VENV)/pymunk6: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $@ 'pymunk<7'
	touch $@
