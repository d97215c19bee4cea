#!/usr/bin/env bash
# Removes what builds and tests leave behind. Keeps .venv and the downloaded data in build/data and build/downloads.
set -euo pipefail
cd -P "$(dirname "$0")/.."

rm -rf dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
if [ -d build ]; then
  find build -mindepth 1 -maxdepth 1 ! -name data ! -name downloads -exec rm -rf {} +
fi
find gpusq tests benchmarks scripts -type d -name __pycache__ -prune -exec rm -rf {} +
