# make demo   install into .venv, then train, translate and score on the embedded corpus
# make test   everything that must hold before a change goes in
# make check  the part of it that takes seconds: style, types, the order of the rooms
# make bench-train  the speed of training beside other toolkits, which are installed into .venv-peers
# make bench-decode  the speed of translating beside theirs, CTranslate2 among them
# make bench-prepare  the speed of preparing a corpus beside SentencePiece's own, and what ten million pairs cost training
# make bench-start  how soon after its start a process says something: the first translation, the help
# make format  let ruff put things in order
# make clean  take .venv, .venv-peers and everything built away; runs/ stays
#
# PYTHON=/path/to/python3.12 chooses the interpreter, VENV=folder where the environment goes, TORCH=cpu|gpu the build
# of torch (chosen by whether there is an NVIDIA driver), FAMILY=all what the demo compares, BENCH="--cores 2" what a
# benchmark is told, JOBS=4 how many processes share the tests.

VENV ?= .venv
FAMILY ?= transformer
PEERS ?= .venv-peers
BENCH ?=
JOBS ?= 2
BIN := $(VENV)/bin
# pip compiles what it copies; what is installed from its place is compiled here, lest every start do it where Python is
# told to write no bytecode (PYTHONDONTWRITEBYTECODE).
COMPILE = $(BIN)/python -m compileall -q nmt cli recipes

# An environment that was there before TORCH or PYTHON was named is gone over again; scripts/install writes down for
# which of them it was.
again = $(if $(TORCH)$(PYTHON),$(shell echo "TORCH=$(TORCH) PYTHON=$(PYTHON)" | cmp -s - $(1)/.choice || echo again))

.PHONY: demo test check bench-train bench-decode bench-prepare bench-start format clean again
.DELETE_ON_ERROR:
# Two targets may install into one environment.
.NOTPARALLEL:

demo: $(VENV)/.installed
	$(BIN)/nmt demo --family $(FAMILY)

test: $(VENV)/.developing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

check: $(VENV)/.developing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q --noconftest tests/test_rooms.py

bench-train: $(VENV)/.installed $(PEERS)/.installed
	$(BIN)/python -m benchmarks.train --peers $(PEERS) $(BENCH)

bench-decode: $(VENV)/.installed $(PEERS)/.installed
	$(BIN)/python -m benchmarks.decode --peers $(PEERS) $(BENCH)

bench-prepare: $(VENV)/.installed
	$(BIN)/python -m benchmarks.prepare $(BENCH)

bench-start: $(VENV)/.installed
	$(BIN)/python -m benchmarks.start $(BENCH)

format: $(VENV)/.developing
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(PEERS) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find nmt cli recipes tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

again:

# What is installed is remembered by these two files: they are older than pyproject.toml where it has changed.
$(VENV)/.installed: pyproject.toml scripts/install $(call again,$(VENV))
	scripts/install $(VENV) --editable .
	$(COMPILE)
	@touch $@

$(VENV)/.developing: pyproject.toml scripts/install $(call again,$(VENV))
	scripts/install $(VENV) --editable ".[dev]"
	$(COMPILE)
	@touch $@ $(VENV)/.installed

# JoeyNMT asks for releases of other packages that are older than Python: what it imports is in the list.
$(PEERS)/.installed: benchmarks/peers.txt scripts/install $(call again,$(PEERS))
	scripts/install $(PEERS) -r benchmarks/peers.txt
	$(PEERS)/bin/pip install --no-deps joeynmt==2.3.0
	@touch $@
