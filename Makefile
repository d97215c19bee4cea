# gpusq: `make demo` and `make test` need make, git and a network; the rest is set up by scripts/setup.sh.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo demo-detr test lint clean

ARGS ?=

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

setup: ## make .venv with pinned versions (fast when nothing changed)
	@scripts/setup.sh

demo: setup ## compress a small vision transformer on real images, CPU only, and write a report
	@scripts/demo.sh $(ARGS)

demo-detr: setup ## train a small detector on real aerial images, compress it, and write a report with its boxes
	@scripts/demo_detr.sh $(ARGS)

test: setup ## the device-side check on Python 3.10 where there is one, then all tests (ARGS='-m "not slow"' for fewer)
	@scripts/test_device_side.sh
	@.venv/bin/python -m pytest $(ARGS)

lint: setup ## pinned versions, style, types, import directions, Dockerfiles, scripts, workflows, package contents
	@.venv/bin/python -m pip check
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports
	@scripts/lint_delivery.sh
	@.venv/bin/python -m pytest -q tests/test_project.py -k "wheel or sdist"

clean: ## remove what was built; .venv and downloads in build/data stay
	@scripts/clean.sh
