#!/usr/bin/env bash
# The device side of gpusq must work on a Jetson: Python 3.10, the base dependencies, no torch. This installs the wheel
# in such an environment (build/venv-3.10) and uses it. Without a python3.10 on this machine it says so and passes.
set -euo pipefail
cd -P "$(dirname "$0")/.."

say() { printf 'device side: %s\n' "$*"; }

find_python310() {
  local candidate
  for candidate in python3.10 "${HOME:-/nowhere}"/.pyenv/versions/3.10*/bin/python3.10; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 10))' >/dev/null 2>&1; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

pip_install() {
  "$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-input --progress-bar off \
    --root-user-action ignore "$@"
}

python=$(find_python310) || { say "skipped: no python3.10"; exit 0; }

venv=$PWD/build/venv-3.10
wheels=$PWD/build/wheels
rm -rf "$wheels"
if ! building=$(.venv/bin/python -m build --wheel --no-isolation --outdir "$wheels" . 2>&1); then
  printf '%s\n' "$building" >&2
  exit 1
fi
wheel=$(echo "$wheels"/gpusq-*.whl)

stamp=$({ "$python" -VV; cat pyproject.toml constraints.txt; } | sha256sum)
if [ "$(cat "$venv/setup.stamp" 2>/dev/null)" != "$stamp" ]; then
  say "making build/venv-3.10 with the base dependencies only"
  rm -rf "$venv"
  "$python" -m venv "$venv"
  pip_install -c constraints.txt pip
  pip_install -c constraints.txt "$wheel"
  echo "$stamp" >"$venv/setup.stamp"
fi
pip_install --no-deps --no-index --force-reinstall "$wheel"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$work" && "$venv/bin/python" "$OLDPWD/scripts/device_side_check.py" "$work" "$venv/bin/gpusq")
say "passed on $("$venv/bin/python" -V), without torch"
