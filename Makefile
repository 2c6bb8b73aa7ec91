# make demo   install into .venv, then train, translate and score on the embedded corpus
# make test   everything that must hold before a change goes in
# make check  the part of it that takes seconds: style, types, the order of the rooms
# make clean  take .venv and everything built away; runs/ stays
#
# PYTHON=/path/to/python3.12 chooses the interpreter, VENV=folder where the environment goes, TORCH=cpu|gpu the build
# of torch (chosen by whether there is an NVIDIA driver), FAMILY=all what the demo compares.

VENV ?= .venv
FAMILY ?= transformer
JOBS ?= 2
BIN := $(VENV)/bin

.PHONY: demo test check format clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/nmt demo --family $(FAMILY)

test: $(VENV)/.developing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n $(JOBS)

check: $(VENV)/.developing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q --noconftest tests/test_rooms.py

format: $(VENV)/.developing
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache

# What is installed is remembered by these two files: they are older than pyproject.toml where it has changed.
$(VENV)/.installed: pyproject.toml scripts/install
	scripts/install $(VENV) .
	@touch $@

$(VENV)/.developing: pyproject.toml scripts/install
	scripts/install $(VENV) ".[dev]"
	@touch $@ $(VENV)/.installed
