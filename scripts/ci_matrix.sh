#!/usr/bin/env bash
# Prints the job matrices of export/engines.toml in the form that $GITHUB_OUTPUT takes: prepare=... and build=...
set -euo pipefail
cd -P "$(dirname "$0")/.."

gpusq=${GPUSQ:-gpusq}
python=${PYTHON:-python3}
for jobs in prepare build; do
  found=$("$gpusq" matrix --for "$jobs" --file "${ENGINES:-export/engines.toml}" --json)
  printf '%s=%s\n' "$jobs" "$("$python" -c 'import json, sys; print(json.dumps(json.load(sys.stdin)))' <<<"$found")"
done
