#!/usr/bin/env bash
# The device install test: a fresh environment with `pip install '.[rtx,gpu]'` and nothing else (Python 3.10, which
# JetPack 6 carries, where there is one) must finish real bundles into sealed engines, without torch, ONNX or a GPU.
#
#   scripts/test_device_install.sh STORE [FIGURES.json]
#
# STORE: a store that `gpusq compress ... --target a100 --target agx-orin` left. Prints the installed size, the start
# times and what was built; writes them to FIGURES.json too.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '5,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
store=$(cd -P "$1" && pwd)
figures=${2:-}
[ -z "$figures" ] || figures=$(cd -P "$(dirname "$figures")" && pwd)/$(basename "$figures")
cd -P "$(dirname "$0")/.."
root=$PWD

say() { printf 'device install: %s\n' "$*"; }

find_python() {
  local candidate
  for candidate in python3.10 "${HOME:-/nowhere}"/.pyenv/versions/3.10*/bin/python3.10 python3; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

python=$(find_python) || { say "no Python 3.10 or later that can make environments" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if ! building=$(.venv/bin/python -m build --wheel --no-isolation --outdir "$work/wheels" . 2>&1); then
  printf '%s\n' "$building" >&2
  exit 1
fi
wheel=$(echo "$work"/wheels/gpusq-*.whl)

say "making an environment with $("$python" -V) and the extras rtx and gpu"
"$python" -m venv "$work/venv"
pip_install() {
  "$work/venv/bin/python" -m pip install -qq --disable-pip-version-check --no-input --progress-bar off \
    --root-user-action ignore -c constraints.txt "$@"
}
pip_install pip setuptools wheel
pip_install "${wheel}[rtx,gpu]"

cp -r "$store" "$work/store"
mkdir "$work/run"
(cd "$work/run" && "$work/venv/bin/python" "$root/scripts/device_install_check.py" \
  "$work/store" "$work/run" "$work/venv/bin/gpusq" "$work/figures.json")
cat "$work/figures.json"
[ -z "$figures" ] || cp "$work/figures.json" "$figures"
say "passed on $("$work/venv/bin/python" -V)"
