#!/usr/bin/env bash
# The demo: one small vision transformer, compressed on real images on the CPU, with a report. `make demo` runs it.
set -euo pipefail
cd -P "$(dirname "$0")/.."
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE} HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

say() { printf 'demo: %s\n' "$*"; }

if folder=$(scripts/fetch_fashion_mnist.sh); then
  data=fashion-mnist:$folder
else
  status=$?
  if [ "$status" -ne 3 ]; then exit "$status"; fi
  say "Fashion-MNIST cannot be had here; using scikit-learn's digits, which are already installed"
  data=digits
  set -- --set qat.calibration=calibration/digits-256.txt "$@"
fi

out=build/demo
say "data: $data; everything is written under $out"
.venv/bin/gpusq compress --recipe export/recipes/fashion-mnist-demo.toml --data "$data" --store "$out/store" \
  --report "$out/report.json" --html "$out/report.html" "$@"
say "open $out/report.html; the same as data: $out/report.json"
