#!/usr/bin/env bash
# Installs the device side of gpusq: no torch. The Dockerfiles, the CI job and people on a Jetson or a server run this
# one script; scripts/test_install_in_clean_root.sh runs it in a clean Debian. Safe to run again.
#
#   scripts/install_device.sh [options]
#     --source PATH      folder of gpusq's sources, or a wheel              (default: the folder above this script)
#     --prefix DIR       where its virtual environment goes: a folder that is new, empty or of an earlier run of this
#                        script; anything else is refused and left as it is (default: /opt/gpusq)
#     --tensorrt WHICH   system: the one of JetPack or of the base image; none; or an exact version from the package
#                        index, such as 10.16.1.11                          (default: system)
#     --cuda 12|13       CUDA of cuda-python                                (default: what /usr/local/cuda says, else 13)
#     --keep-sm LIST     with an indexed TensorRT: keep builder files for these GPUs only, such as 80 or 80,90
#     --wheels DIR       install from this folder of wheels, without a network
#     --user NAME:UID    also make this user, with group video (a Jetson's GPU devices belong to it)
#     --bin DIR          link gpusq into this folder                        (default: /usr/local/bin as root, else none)
#     --no-apt           never call apt-get: what is missing is an error
set -euo pipefail

say() { printf 'install: %s\n' "$*"; }
refuse() { printf 'install: %s\n' "$@" >&2; exit 1; }

here=$(cd -P "$(dirname "$0")/.." && pwd)
source=$here prefix=/opt/gpusq tensorrt=system cuda='' keep_sm='' wheels='' user='' apt=yes bin=''
if [ "$(id -u)" -eq 0 ]; then bin=/usr/local/bin; fi
while [ $# -gt 0 ]; do
  case $1 in
    --no-apt) apt=no; shift; continue ;;
    --source | --prefix | --tensorrt | --cuda | --keep-sm | --wheels | --user | --bin) ;;
    *) refuse "unknown option $1" "options: see the head of $0" ;;
  esac
  [ $# -ge 2 ] || refuse "$1 needs a value"
  case $1 in
    --source) source=$2 ;; --prefix) prefix=$2 ;; --tensorrt) tensorrt=$2 ;; --cuda) cuda=$2 ;;
    --keep-sm) keep_sm=$2 ;; --wheels) wheels=$2 ;; --user) user=$2 ;; --bin) bin=$2 ;;
  esac
  shift 2
done

case $tensorrt in
  system | none) [ -z "$keep_sm" ] || refuse "--keep-sm goes with an indexed TensorRT" "got --tensorrt $tensorrt" ;;
  [0-9]*.[0-9]*.[0-9]*) ;;
  *) refuse "--tensorrt is system, none or an exact version such as 10.16.1.11" "got $tensorrt" ;;
esac
case $user in '' | [a-z]*:[0-9]*) ;; *) refuse "--user reads NAME:UID, such as gpusq:10001" "got $user" ;; esac
[ -e "$source" ] || refuse "--source $source is not there"

marker=.made-by-gpusq-install_device # in every environment that this script makes: it alone may be cleared again
check_prefix() {
  local kept
  for kept in "$(realpath -m "$source")" "$here"; do
    case $kept/ in
      "${prefix%/}/"*) refuse "--prefix $prefix holds the sources, which the installation would delete" \
        "choose a folder of its own, such as ~/.local/gpusq" ;;
    esac
  done
  [ -e "$prefix" ] || return 0
  [ -d "$prefix" ] || refuse "--prefix $prefix is no folder" "choose another"
  [ ! -f "$prefix/$marker" ] || return 0
  [ -z "$(ls -A "$prefix")" ] || refuse "--prefix $prefix holds files that this script did not put there" \
    "choose a new folder, such as ~/.local/gpusq, or remove that one yourself"
}
[ -n "$prefix" ] || refuse "--prefix needs a value"
prefix=$(realpath -m "$prefix")
check_prefix
if [ -n "$bin" ] && [ -e "$bin/gpusq" ] && [ ! -L "$bin/gpusq" ]; then
  refuse "--bin $bin holds something else called gpusq" "choose another folder for the link"
fi

if [ -z "$cuda" ]; then
  if [ -f /usr/local/cuda/version.json ]; then
    cuda=$(tr -d '\n ' </usr/local/cuda/version.json | sed -n 's/.*"cuda":{[^}]*"version":"\([0-9]*\)\..*/\1/p')
  fi
  cuda=${cuda:-13}
fi
case $cuda in
  12) cuda_python=12.9.10 ;;
  13) cuda_python=13.4.4 ;;
  *) refuse "--cuda is 12 or 13" "got $cuda" ;;
esac

usable() { # a Python that gpusq supports and that can make environments
  "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))' >/dev/null 2>&1
}
find_python() { # the system's own first: only that one sees JetPack's TensorRT
  local name
  for name in ${PYTHON:-python3 python3.12 python3.11 python3.10}; do
    if usable "$name"; then command -v "$name"; return; fi
  done
  return 1
}

if ! python=$(find_python); then
  [ "$apt" = yes ] || refuse "no Python 3.10 to 3.13 with venv" "install python3 and python3-venv"
  [ "$(id -u)" -eq 0 ] || refuse "no Python 3.10 to 3.13 with venv" "as root, run: apt-get install python3-venv"
  command -v apt-get >/dev/null || refuse "no Python 3.10 to 3.13 with venv, and no apt-get"
  say "installing python3-venv"
  apt-get -qq update
  DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends python3-venv ca-certificates >/dev/null
  apt-get clean
  rm -rf /var/lib/apt/lists/*
  python=$(find_python) || refuse "python3-venv was installed, and still there is no Python 3.10 to 3.13 with venv"
fi
say "Python: $("$python" -V) at $python"

site=()
if [ "$tensorrt" = system ]; then site=(--system-site-packages); fi
mkdir -p "$prefix"
check_prefix                # again: apt-get took its time
touch "$prefix/$marker"     # before anything else is there: a run that was broken off can be repeated
find "$prefix" -mindepth 1 -maxdepth 1 ! -name "$marker" -exec rm -rf {} +
"$python" -m venv "${site[@]}" "$prefix"

pins=()
if [ -f "$here/constraints.txt" ]; then pins=(-c "$here/constraints.txt"); fi # the versions that were tested together
index=()
if [ -n "$wheels" ]; then index=(--no-index --find-links "$wheels"); fi
pip_install() {
  "$prefix/bin/python" -m pip install --quiet --no-cache-dir --disable-pip-version-check --no-input \
    --progress-bar off --root-user-action ignore "${index[@]}" "$@"
}

say "installing gpusq and cuda-python $cuda_python"
pip_install "${pins[@]}" "$source" "cuda-python==$cuda_python" nvidia-ml-py
case $tensorrt in
  system | none) ;;
  *)
    say "installing TensorRT $tensorrt for CUDA $cuda (several GB)"
    pip_install "tensorrt-cu$cuda==$tensorrt"
    ;;
esac

if [ -n "$keep_sm" ]; then # each GPU has a builder file of its own, 160 to 450 MB
  kept=",$keep_sm,"
  removed=0
  for file in "$prefix"/lib/python3.*/site-packages/tensorrt_libs/libnvinfer_builder_resource_*; do
    sm=$(sed -n 's/.*_resource_sm\([0-9]*\)\.so.*/\1/p' <<<"$file")
    if [ -n "$sm" ] && [ "${kept#*",$sm,"}" = "$kept" ]; then rm "$file"; removed=$((removed + 1)); fi
    case $file in *_resource_win*) rm -f "$file"; removed=$((removed + 1)) ;; esac
  done
  say "kept the builder files for sm $keep_sm, removed $removed others"
fi

"$prefix/bin/python" -m compileall -q "$prefix"/lib/python3.*/site-packages/gpusq # nothing is written at run time
if [ -n "$bin" ]; then
  mkdir -p "$bin"
  ln -sfn "$prefix/bin/gpusq" "$bin/gpusq"
fi

if [ -n "$user" ]; then
  name=${user%%:*}
  uid=${user##*:}
  if ! id "$name" >/dev/null 2>&1; then
    getent group video >/dev/null || groupadd --gid 44 video
    useradd --create-home --uid "$uid" --user-group --groups video --shell /usr/sbin/nologin "$name"
  fi
fi

say "gpusq doctor says:"
status=0
"$prefix/bin/gpusq" doctor || status=$?
[ "$status" -le 1 ] || refuse "gpusq doctor ended with $status"
if [ "$status" -eq 1 ]; then say "installed; doctor found something to mend (see above)"; else say "installed"; fi
