# The two commands: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test test-oldest lint test-vllm vllm tiny-lm bench-training reproduce clean
help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# torch first and by itself: that version has a CPU build, other ways of asking fetch CUDA.
$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@

demo: $(VENV)/.ready  ## three agents of a small real model deliberate (no GPU, key or download)
	$(BIN)/python examples/quickstart.py

test: $(VENV)/.ready lint  ## ruff, mypy and the whole test suite
	$(BIN)/python -m pytest -m "not vllm"

# The plugin's own tests: those that need neither torch nor an example's or the training's packages.
OLDEST := .venv-oldest
$(OLDEST)/.ready: pyproject.toml tests/oldest.txt
	$(PYTHON) -m venv --clear $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --constraint tests/oldest.txt --editable ".[test]"
	@touch $@

test-oldest: $(OLDEST)/.ready  ## the plugin's tests with the oldest versions that it supports
	$(OLDEST)/bin/python -m pytest -m "not vllm" mpdf_langgraph $$(grep -LE \
	    '^ *(from|import) (training|examples|torch|transformers)|"examples/|-m", "build"' \
	    tests/test_*.py tests/integration/test_*.py)

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test-vllm: $(VENV)/.ready  ## the integration tests against a real vLLM server (3.5 GB, CPU)
	$(BIN)/python -m pytest -m vllm

vllm: $(VENV)/.ready  ## serve the small model with a real vLLM server on port 8000
	$(BIN)/python examples/serve_vllm.py

tiny-lm: $(VENV)/.ready  ## train the small model from scratch, as the bundled one (45 minutes)
	$(BIN)/python examples/tiny_lm/train.py --out runs/tiny_lm

bench-training: $(VENV)/.ready  ## how fast a router is fitted: made-up traces, up to a million turns
	$(BIN)/python training/studies/fit_speed.py

reproduce: $(VENV)/.ready  ## every figure the README quotes, on the bundled model under vLLM (hours)
	$(BIN)/python examples/reproduce.py

clean:  ## remove the virtual environments and builds; traces and training runs stay
	rm -rf $(VENV) $(OLDEST) .venv-vllm build dist
