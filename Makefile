# The two commands: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements/locked.txt

.PHONY: help venv demo test torture audit lint test-oldest test-newest test-pythons test-vllm vllm tiny-lm \
	bench bench-training reproduce real-model demo-real \
	system-packages newest lock clean
help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

# $(call install-everything,FOLDER,OPTIONS OF PIP) fills a virtual environment for development.
# torch comes first and alone. pip then takes the CPU build where it finds one.
# pip 25.1 or later is needed for `--group`.
define install-everything
$(PYTHON) -m venv $(1)
$(1)/bin/python -m pip install --quiet --upgrade pip
$(1)/bin/python -m pip install --quiet $(2) --group torch
$(1)/bin/python -m pip install --quiet $(2) --editable ".[router]" --group dev
endef

$(VENV)/.ready: pyproject.toml $(LOCK)
	$(call install-everything,$(VENV),--constraint $(LOCK))
	@touch $@

venv: $(VENV)/.ready  ## make the virtual environment .venv, torch and all, with the locked versions

demo: $(VENV)/.ready  ## three agents of a small real model deliberate (no GPU, key or download)
	$(BIN)/python examples/quickstart.py

test: $(VENV)/.ready lint  ## ruff, mypy and all tests that need no vLLM server, with the locked versions
	$(BIN)/python -m pytest $(PARALLEL) -m "not vllm"

torture: $(VENV)/.ready  ## attack everything, and print a closing table. Goes on where it was stopped
	$(BIN)/python -m tests.torture

audit:  ## look up known vulnerabilities of the locked versions (needs pypi.org)
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet pip-audit
	.venv-audit/bin/pip-audit --strict --no-deps --disable-pip --requirement $(LOCK)

lint: $(VENV)/.ready  ## ruff and mypy alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# One process for each core, four at most, as each holds torch. A file's tests stay together.
PARALLEL := -n auto --maxprocesses 4 --dist loadfile

# The plugin's own tests: those that need no torch, scipy, examples or training code.
PLUGIN_TESTS = mpdf_langgraph $$(grep -rLE --include='test_*.py' \
	'^ *(from|import) (training|examples|torch|transformers|scipy)|"examples/|-m", "build"' \
	tests/plugin tests/integration)

# $(call install-plugin,FOLDER,OPTIONS OF PIP) fills a virtual environment for these tests.
define install-plugin
$(1)/bin/python -m pip install --quiet --upgrade pip
$(1)/bin/python -m pip install --quiet $(2) --editable ".[router]" --group test
endef

OLDEST := .venv-oldest
$(OLDEST)/.ready: pyproject.toml requirements/oldest.txt
	$(PYTHON) -m venv --clear $(OLDEST)
	$(call install-plugin,$(OLDEST),--constraint requirements/oldest.txt)
	@touch $@

test-oldest: $(OLDEST)/.ready  ## the plugin's tests with the oldest versions that it supports
	$(OLDEST)/bin/python -m pytest $(PARALLEL) -m "not vllm" $(PLUGIN_TESTS)

# The environment of `make test` with the newest version of every package. It is made anew each time.
NEWEST := .venv-newest
newest:
	rm -rf $(NEWEST)
	$(call install-everything,$(NEWEST))
	$(call versions,$(NEWEST)) >$(NEWEST)/versions.txt

test-newest: newest  ## the whole test suite with the newest versions, unless these are the locked ones
	@if diff $(LOCK) $(NEWEST)/versions.txt; then \
	    echo "The newest versions are the locked ones. \`make test\` tests them."; \
	else \
	    $(NEWEST)/bin/python -m pytest $(PARALLEL) -m "not vllm"; \
	fi

# The plugin's tests alone, as builds of torch for CPUs are not at hand for every Python.
# pyenv runs one of its Pythons only if it is named. Without pyenv the name is empty.
test-pythons:  ## the plugin's tests under Python 3.12 and 3.13, where these are installed
	@status=0; \
	for version in 3.12 3.13; do \
	    export PYENV_VERSION="$$(pyenv latest $$version 2>/dev/null)"; \
	    if ! python$$version --version 2>/dev/null; then \
	        echo "Python $$version is not installed here, so it is not tested."; \
	    elif ! $(MAKE) --no-print-directory .venv-$$version/.ready || \
	        ! .venv-$$version/bin/python -m pytest $(PARALLEL) -m "not vllm" $(PLUGIN_TESTS); then \
	        echo "Python $$version: failed."; status=1; \
	    fi; \
	done; exit $$status

.venv-3.%/.ready: pyproject.toml $(LOCK)
	python3.$* -m venv --clear .venv-3.$*
	$(call install-plugin,.venv-3.$*,--constraint $(LOCK))
	@touch $@

test-vllm: $(VENV)/.ready  ## the integration tests against a real vLLM server (3.5 GB, CPU)
	$(BIN)/python -m pytest -m vllm

vllm: $(VENV)/.ready  ## serve the small model with a real vLLM server on port 8000
	$(BIN)/python examples/serve_vllm.py

# MODEL=0.5B (default), 1.5B, 135M, or any name on the Hugging Face Hub. SERVER=vllm or llamacpp.
MODEL ?= 0.5B
SERVER ?= vllm
real-model: $(VENV)/.ready  ## get a real language model, MODEL=0.5B, 1.5B, 135M or a hub's name
	$(BIN)/python examples/real_models/fetch.py --model $(MODEL)

demo-real: $(VENV)/.ready  ## three agents of it deliberate (SERVER=vllm, 3.5 GB, or llamacpp)
	$(BIN)/python examples/real_models/demo.py --model $(MODEL) --server $(SERVER)

tiny-lm: $(VENV)/.ready  ## train the small model from scratch, as the bundled one (45 minutes)
	$(BIN)/python examples/tiny_lm/train.py --out runs/tiny_lm

# ENDPOINT=http://localhost:8000/v1 adds the hit rate of a vLLM server's prefix cache.
bench: $(VENV)/.ready  ## what a deliberation costs beside its bare calls, routers, traces (5 minutes)
	$(BIN)/python -m training.studies.speed $(if $(ENDPOINT),--endpoint $(ENDPOINT))

bench-training: $(VENV)/.ready  ## how fast a router is fitted: made-up traces, up to a million turns
	$(BIN)/python -m training.studies.fit_speed

reproduce: $(VENV)/.ready  ## every figure of the small model in docs/results.md, under vLLM (hours)
	$(BIN)/python examples/reproduce.py

# One package after the other: where one of them cannot be installed, the others still are.
SYSTEM_PACKAGES := bubblewrap chromium postgresql
system-packages:  ## install what some tests need: bubblewrap, chromium, postgresql (Debian, as root)
	@if ! command -v apt-get >/dev/null; then \
	    echo "apt-get is not installed here. Install by hand: $(SYSTEM_PACKAGES)."; exit 1; \
	elif [ "$$(id -u)" != 0 ]; then \
	    echo "This needs root: sudo make system-packages"; exit 1; \
	fi; \
	export DEBIAN_FRONTEND=noninteractive; \
	apt-get update -qq || echo "apt-get could not update its package lists."; \
	missing=""; \
	for package in $(SYSTEM_PACKAGES); do \
	    apt-get install -y -qq --no-install-recommends $$package || missing="$$missing $$package"; \
	done; \
	if [ -n "$$missing" ]; then echo "Not installed:$$missing."; exit 1; fi

# $(call versions,FOLDER) prints the versions in a virtual environment, for use as constraints.
# Left out: the project itself, packages from a path, what only builds of torch for GPUs need.
versions = (echo "\# Made by \`make lock\`. Do not edit." && \
	$(1)/bin/python -m pip freeze --exclude-editable | \
	grep -vE '^(nvidia|cuda|triton)| @ ' | sed -E 's/^([^+]+)\+.*/\1/')

# The lock must hold for every supported Python, so the oldest of them makes it.
# requirements/oldest.txt holds the lower bounds of pyproject.toml and the newest of the rest.
lock:  ## lock the newest versions into requirements/ (needs Python 3.11, 10 minutes, 7 GB)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	    { echo "The lock needs Python 3.11: make lock PYTHON=python3.11"; exit 1; }
	$(MAKE) newest
	cp $(NEWEST)/versions.txt $(LOCK)
	sed -nE '/^(dependencies|router) = /,/^\]/ s/^ *"([a-z0-9-]+)>=([0-9.]+).*/\1==\2/p' \
	    pyproject.toml >requirements/oldest.txt
	$(MAKE) $(OLDEST)/.ready
	$(call versions,$(OLDEST)) >requirements/oldest.txt
	: >requirements/vllm.txt
	rm -rf .venv-vllm
	$(NEWEST)/bin/python -c "from examples.serve_vllm import ensure_venv; ensure_venv()"
	$(call versions,.venv-vllm) >requirements/vllm.txt

clean:  ## remove the virtual environments and builds, not traces and training runs
	rm -rf $(VENV) .venv-* build dist
