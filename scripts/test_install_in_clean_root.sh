#!/usr/bin/env bash
# Runs scripts/install_device.sh, the steps of both Dockerfiles, in a clean Debian made by debootstrap: nothing is there
# but a minimal system. Then, with the root file system read-only and as the images' user, gpusq must work. Needs root
# (chroot, mount) and a package index; exit 3 says that this machine cannot do it. About a minute, more the first time;
# what is downloaded stays in build/clean-root.
set -euo pipefail
cd -P "$(dirname "$0")/.."

say() { printf 'clean root: %s\n' "$*"; }
cannot() { printf 'clean root: %s\n' "$@" >&2; exit 3; }

suite=bookworm python=3.11 uid=10001
place=$PWD/build/clean-root
base=$place/$suite wheels=$place/wheels root=$place/run
log=$place/log

[ "$(id -u)" -eq 0 ] || cannot "needs root for chroot and mount"
mkdir -p "$place"
: >"$log"
if ! command -v debootstrap >/dev/null; then
  command -v apt-get >/dev/null || cannot "no debootstrap, and no apt-get to install it with"
  say "installing debootstrap"
  { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends debootstrap; } \
    >>"$log" 2>&1 || cannot "apt-get could not install debootstrap: $(tail -n 1 "$log")"
fi

if [ ! -e "$base.whole" ]; then
  say "making a minimal Debian $suite with debootstrap"
  rm -rf "$base"
  debootstrap --variant=minbase "$suite" "$base" >>"$log" 2>&1 || cannot "debootstrap failed: $(tail -n 1 "$log")"
  touch "$base.whole"
fi

say "building the wheel and fetching what it needs for Python $python"
rm -rf "$place/wheel"
.venv/bin/python -m build --wheel --no-isolation --outdir "$place/wheel" . >>"$log" 2>&1
wheel=$(basename "$place"/wheel/gpusq-*.whl)
cuda_python=$(sed -n 's/^ *13) cuda_python=\([0-9.]*\).*/\1/p' scripts/install_device.sh)
stamp=$({ cat pyproject.toml constraints.txt scripts/install_device.sh; } | sha256sum)
if [ "$(cat "$wheels/stamp" 2>/dev/null)" != "$stamp" ]; then
  rm -rf "$wheels"
  .venv/bin/python -m pip download -qq --disable-pip-version-check --no-input --progress-bar off --dest "$wheels" \
    --only-binary :all: --python-version "$python" --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
    --platform manylinux2014_x86_64 -c constraints.txt "$place/wheel/$wheel" "cuda-python==$cuda_python" nvidia-ml-py \
    >>"$log" 2>&1 || cannot "the wheels cannot be had: $(tail -n 1 "$log")"
  rm -f "$wheels"/gpusq-*.whl
  echo "$stamp" >"$wheels/stamp"
fi

mounted=()
clean_up() {
  local at
  for at in "${mounted[@]}"; do umount -l "$at" 2>/dev/null || true; done
  rm -rf "$root"
}
trap clean_up EXIT
rm -rf "$root"
cp -a "$base" "$root"
cp /etc/resolv.conf "$root/etc/resolv.conf"
mkdir -p "$root/src/scripts" "$root/wheels"
cp scripts/install_device.sh "$root/src/scripts/"
cp constraints.txt "$root/src/"
cp "$wheels"/*.whl "$place/wheel/$wheel" "$root/wheels/"
mount -t proc proc "$root/proc"
mounted+=("$root/proc")

say "running install_device.sh"
chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 /src/scripts/install_device.sh \
  --source "/wheels/$wheel" --wheels /wheels --tensorrt none --user "gpusq:$uid" 2>&1 | sed 's/^/  | /'
rm -rf "$root/src" "$root/wheels"

say "read-only root file system, user $uid"
mount --bind "$root" "$root"
mounted=("$root" "${mounted[@]}")
mount -o remount,bind,ro "$root"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t proc proc "$root/proc" # the first one is under the bind mount
mounted=("$root/tmp" "$root/proc" "${mounted[@]}")
run() { chroot --userspec="$uid:$uid" "$root" /usr/bin/env -i PATH=/usr/local/bin:/usr/bin:/bin HOME=/tmp LANG=C.UTF-8 "$@"; }

if run touch /opt/gpusq/written 2>/dev/null; then say "the root file system is writable, so this proves nothing"; exit 1; fi
run gpusq --version
status=0
run gpusq doctor --json >"$place/doctor.json" || status=$?
if [ "$status" -gt 1 ]; then say "gpusq doctor ended with $status"; exit 1; fi
.venv/bin/python - "$place/doctor.json" <<'PY'
import json, sys
found = {f["what"]: f for f in json.load(open(sys.argv[1], encoding="utf-8"))["findings"]}
expected = {"Python": "ok", "cuda-python": "ok", "torch": "absent", "transformers": "absent", "onnxruntime": "absent"}
wrong = {what: found[what]["state"] for what, state in expected.items() if found[what]["state"] != state}
sys.exit(f"clean root: doctor says {wrong}" if wrong else 0)
PY
run gpusq build --help >/dev/null
run gpusq targets --json >/dev/null
heavy=$(ls -d "$root"/opt/gpusq/lib/python*/site-packages/{torch,transformers,onnxruntime,onnx,openvino} 2>/dev/null || true)
if [ -n "$heavy" ]; then say "these were installed and must not be: $heavy"; exit 1; fi
size=$(du -sm "$root/opt/gpusq" | cut -f 1)
seconds=$(run /opt/gpusq/bin/python -c 'import time; t = time.perf_counter(); import gpusq.cli.main; print(f"{time.perf_counter() - t:.2f}")')
say "passed: doctor works (exit $status) as user $uid on a read-only root; $size MB installed, import in $seconds s"
