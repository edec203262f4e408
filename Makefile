# Everything that a fresh clone needs: `make demo` and `make test` set themselves up.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# A pytest worker more than there are cores, for many tests wait for processes to start; but not so
# many that each needs a gigabyte for torch.
JOBS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); [ $$n -gt 3 ] && echo 4 || echo $$((n + 1)))

.PHONY: help install demo docs test nightly benchmarks lint types architecture clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "%-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## make .venv with the pinned versions

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "gradlag needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: install ## profile, simulate, run and compare five schedules on real digits; write a report
	$(BIN)/gradlag compare bp fdg adl:accumulation=2 \
		async-lu:queue_capacity=1 async-bu:queue_capacity=1 \
		--modules 2 --model mlp:8x1024 --data digits --batch-size 64 --batches 150 \
		--learning-rate 0.01 --bound --out out/demo

docs: install ## renew docs/reference/schedules.md from the registry of schedules
	$(BIN)/python -m analysis.schedules_page

test: install ## the whole test suite, under 10 minutes on two cores
	$(BIN)/python -m pytest -n $(JOBS)

nightly: install ## the same with long property runs
	HYPOTHESIS_PROFILE=nightly $(BIN)/python -m pytest -n $(JOBS) --timeout 0

benchmarks: install ## real speed on a quiet machine, about 30 minutes; renews docs/explanation/benchmarks.md
	$(BIN)/python -m tests.benchmarks --page

lint: install ## ruff's rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install ## the strict type check
	$(BIN)/mypy

architecture: install ## who may import whom
	$(BIN)/python -m pytest -q tests/unit/test_architecture.py

clean: ## remove what make and the tests made
	rm -rf $(VENV) out .hypothesis .mypy_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
