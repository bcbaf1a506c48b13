# make demo   sets up .venv, exports the embedded model for a Raspberry Pi 5, asks it something, measures it
# make test   sets up .venv for development, checks style, types and layers, runs the tests
# make docs   builds the documentation's site into build/site
# make test-slow   the tests that take longer than a few seconds
# make test-real   fetches a real model of 98 MB and runs the tests that need one

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# bash, so that a pipe fails where pip does.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
# pip's own words, shortened to the names of what it fetches as it goes.
NAMES := awk '/^ *(Collecting|Processing) /{n = $$2; sub(/.*\//, "", n); sub(/[<>=!~;].*|-[0-9].*/, "", n); printf " %s", n; fflush()} /^Installing/{printf "\n unpacking them"; fflush()} END{print ""}'

# The first Python that is new enough.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

.PHONY: demo docs test lint check-types check-layers pytest test-slow test-real clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.export
	@$(BIN)/python tools/demo.py

docs: $(VENV)/.docs
	$(BIN)/python tools/build_site.py

test: lint check-types check-layers pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check-types: $(VENV)/.dev
	$(BIN)/mypy

check-layers: $(VENV)/.dev
	$(BIN)/lint-imports

pytest: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m "slow or board" -n auto --maxprocesses 2 --dist loadfile

# Those of Gemma 3 270M are slow, too: make test-slow runs them where `python tools/real_models.py --all` fetched it.
test-real: $(VENV)/.dev
	$(BIN)/python tools/real_models.py || echo 'it cannot be fetched here: its tests are skipped'
	$(BIN)/python -m pytest -m "real and not slow"

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo 'error: edgelm needs Python 3.11 or newer' >&2; exit 1; }
	@# A pip that Python has puts itself there in a second; venv alone takes six to unpack its own.
	@{ $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(VENV) install --quiet --no-compile --retries 1 pip; } \
		>/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); echo 'error: this Python cannot make a virtual environment; on Debian or Ubuntu: apt install python3-venv' >&2; exit 1; }

$(VENV)/.export: pyproject.toml | $(BIN)/python
	@echo 'installing edgelm[export] into $(VENV): half a minute, or what the network takes'
	@$(BIN)/python -m pip install --disable-pip-version-check --no-compile -e '.[export]' 2> >(grep -v ^WARNING: >&2) | $(NAMES)
	@touch $@

$(VENV)/.docs: pyproject.toml | $(BIN)/python
	@echo 'installing edgelm[docs] into $(VENV)'
	$(PIP) -e '.[docs]'
	@touch $@

# torch first and pinned: left to choose, pip takes a build of several gigabytes.
$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo 'installing edgelm[dev] into $(VENV)'
	$(PIP) torch==2.13.0
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.export $(VENV)/.docs

clean:
	rm -rf $(VENV) build dist bundles .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
