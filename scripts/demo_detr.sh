#!/usr/bin/env bash
# The detector demo: a small DETR trained on real aerial images, its pretrained backbone frozen meanwhile; pruned and
# quantized on the CPU, with short trainings that move all weights; and a report that shows the boxes of the dense and
# of the compressed engine side by side. `make demo-detr` runs it.
set -euo pipefail
cd -P "$(dirname "$0")/.."
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE} HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

say() { printf 'demo-detr: %s\n' "$*"; }

SECONDS=0
folder=$(scripts/fetch_aerial.sh)
.venv/bin/python scripts/fetch_vit_backbone.py build/data/vit-s14-6
out=build/demo-detr
kept=
[ ! -d "$out/store" ] || kept=", with $out/store from a run before: what is in it is not made again"
say "data: coco:$folder; everything is written under $out"
.venv/bin/gpusq compress --recipe export/recipes/aerial-detr-demo.toml --data "coco:$folder" --store "$out/store" \
  --report "$out/report.json" --html "$out/report.html" "$@"
say "open $out/report.html for the boxes side by side; the same figures as data: $out/report.json"
say "took $SECONDS seconds of wall time after the setup, fetching included$kept"
