# Everything goes through .venv; paths are relative, so that a folder with a space in its name works.
PYTHON := $(shell for p in python3.12 python3.11 python3; do \
	"$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null && echo $$p && break; done)
RUN := .venv/bin/python -m

.DEFAULT_GOAL := help
.PHONY: help demo test lint format bench faults lock clean distclean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /make \1  -  /p' Makefile

.venv/installed: pyproject.toml cluster/requirements.lock
	@test -n "$(PYTHON)" || { echo "make: Python 3.11 or 3.12 is needed and not on the PATH; install one."; exit 2; }
	@echo "installing into .venv: some minutes and about 3 GB, once"
	@$(PYTHON) -m venv .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement cluster/requirements.lock
	@touch .venv/installed

demo: .venv/installed  ## the main job: data to an A/B answer over HTTP; ends by itself
	@$(RUN) jobs.pipeline dataset=flights experiment=demo

test: lint  ## all checks and tests
	@$(RUN) pytest -m "not slow"

lint: .venv/installed  ## ruff, mypy and import-linter
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) mypy
	@.venv/bin/python -c "from importlinter.cli import lint_imports_command as lint; lint()"

format: .venv/installed  ## format and mend what ruff can
	@$(RUN) ruff check --fix .
	@$(RUN) ruff format .

bench: .venv/installed  ## every benchmark, one JSON line per figure
	@for bench in tests/bench/*.py; do $(RUN) tests.bench.$$(basename $$bench .py) || exit 1; done

faults: .venv/installed  ## the slow suite: kills at random moments
	@$(RUN) pytest -m slow

lock:  ## pin what pyproject.toml asks for, in an environment made for it
	@rm -rf .lock && $(PYTHON) -m venv .lock
	@.lock/bin/python -m pip install --quiet --disable-pip-version-check ".[dev]"
	@{ echo "# Made by make lock."; .lock/bin/python -m pip freeze --exclude rungway --exclude pip; } > cluster/requirements.lock
	@rm -rf .lock build rungway.egg-info

clean:  ## runs, models and records under var/, and caches
	@rm -rf var .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build rungway.egg-info
	@find conf cluster jobs serve tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## the environment too
	@rm -rf .venv .lock
