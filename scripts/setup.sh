#!/usr/bin/env bash
# Makes .venv, the environment of `make demo`, `make test` and `make lint`, with the versions in constraints.txt.
# Safe to run again: it returns at once when nothing has changed. PYTHON=/path/to/python chooses the interpreter.
set -euo pipefail
cd -P "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*"; }
refuse() { printf 'setup: %s\n' "$@" >&2; exit 1; }

torch_version=$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' constraints.txt)
torch_cpu_index=https://download.pytorch.org/whl/cpu
extras=host,modelopt,dev
if [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ]; then extras=host,rtx,modelopt,dev; fi # TensorRT-RTX checks builds here

usable() { # a Python that can make environments, of a version that gpusq supports
  "$1" -c 'import sys, venv, ensurepip, ssl; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))' >/dev/null 2>&1
}

find_python() {
  local name
  for name in ${PYTHON:-python3.11 python3.12 python3.10 python3.13 python3}; do
    if usable "$name"; then command -v "$name"; return; fi
  done
  return 1
}

install_python() {
  say "no Python 3.10 to 3.13 with venv was found; installing python3 and python3-venv with apt-get"
  command -v apt-get >/dev/null || refuse "this system has no apt-get" "install Python 3.11 with venv, then run this again"
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || refuse "not root, and there is no sudo" "as root, run: apt-get install python3 python3-venv"
    as_root=(sudo)
  fi
  "${as_root[@]}" apt-get -qq update || refuse "apt-get update failed (see above)" "mend the network and run this again"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends python3 python3-venv >/dev/null ||
    refuse "apt-get could not install python3 and python3-venv (see above)"
}

stamp() { # one line that changes when the environment has to
  { .venv/bin/python -VV; echo "$extras"; grep __version__ gpusq/__init__.py; cat pyproject.toml constraints.txt scripts/setup.sh; } |
    sha256sum | cut -d ' ' -f 1
}

ours() { # .venv works and was made for this very directory (its scripts hold the path)
  usable .venv/bin/python && head -n 3 .venv/bin/pip 2>/dev/null | grep -qF "$PWD/.venv/bin"
}

pip_install() { # quiet, but where it fails all that pip says of the cause (a conflict is told at its normal level only)
  if ! .venv/bin/python -m pip install --disable-pip-version-check --no-input --progress-bar off \
    --root-user-action ignore -c constraints.txt "$@" >.venv/pip.log 2>&1; then
    tail -n 25 .venv/pip.log >&2
    return 1
  fi
}

install_torch() { # the CPU build only: the default Linux build brings gigabytes of CUDA libraries
  if [ "$(uname -s)" != Linux ]; then pip_install "torch==$torch_version"; return; fi
  if .venv/bin/python -c "import importlib.metadata as m, sys; sys.exit(m.version('torch') != '$torch_version+cpu')" \
    2>/dev/null; then return; fi
  say "installing torch $torch_version, the CPU build (about 200 MB to download)"
  if pip_install "torch==$torch_version+cpu" 2>/dev/null; then return; fi
  if pip_install "torch==$torch_version+cpu" --extra-index-url "$torch_cpu_index"; then return; fi
  refuse "torch $torch_version+cpu for $(.venv/bin/python -V) cannot be had from your package index or $torch_cpu_index" \
    "the build with CUDA is not taken instead, on purpose: it brings gigabytes of libraries that nothing here uses" \
    "mend the network, or put its wheel in a folder and run: PIP_FIND_LINKS=/that/folder make setup"
}

if ours && [ "$(cat .venv/setup.stamp 2>/dev/null)" = "$(stamp)" ]; then
  say ".venv is up to date"
  exit 0
fi

if ! ours; then
  python=$(find_python) || { install_python; python=$(find_python); } ||
    refuse "the system's python3 is not 3.10 to 3.13" "install Python 3.11 and run: PYTHON=/path/to/python3.11 make setup"
  say "making .venv with $("$python" -V) (about 2 GB when done)"
  rm -rf .venv
  "$python" -m venv .venv
fi
rm -f .venv/setup.stamp

# The builders come first and pinned, so that no build fetches its own.
pip_install pip setuptools wheel hatchling editables || refuse "pip cannot reach a package index (see above)" "mend the network and run this again"
install_torch
say "installing gpusq[$extras] and its pinned dependencies"
pip_install --no-build-isolation -e ".[$extras]" || refuse "the install failed (see above); nothing outside .venv was changed" "run this again when mended"
stamp >.venv/setup.stamp
say ".venv is ready: $(.venv/bin/python -V), torch $(.venv/bin/python -c 'import importlib.metadata as m; print(m.version("torch"))')"
