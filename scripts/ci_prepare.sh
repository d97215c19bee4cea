#!/usr/bin/env bash
# The host half of .github/workflows/engines.yml, and the same by hand: compresses one engine of export/engines.toml and
# leaves what the devices need.
#   scripts/ci_prepare.sh NAME OUT        ENGINES=FILE takes another matrix
# OUT/store: the artifact store; OUT/bundles/TARGET/{model,twin}: what `gpusq build` finishes on that device;
# OUT/report.json and report.html: predictions until receipts come back.
set -euo pipefail
cd -P "$(dirname "$0")/.."

name=$1
out=$2
engines=${ENGINES:-export/engines.toml}
gpusq=${GPUSQ:-.venv/bin/gpusq}
python=${PYTHON:-.venv/bin/python}

mkdir -p "$out"
"$gpusq" matrix --for prepare --file "$engines" --json >"$out/matrix.json"
mapfile -d '' -t arguments < <("$python" scripts/ci_bundles.py arguments "$out/matrix.json" "$name")
[ "${#arguments[@]}" -gt 0 ] || { echo "prepare: no engine $name in $engines" >&2; exit 2; }

"$gpusq" compress "${arguments[@]}" --store "$out/store" --report "$out/report.json" --html "$out/report.html" --json \
  >"$out/compress.json"
"$python" scripts/ci_bundles.py collect "$out/compress.json" "$out/bundles"
for bundle in "$out"/bundles/*/model; do
  "$gpusq" verify "$bundle"
  "$gpusq" doctor --bundle "$bundle" --json >"$bundle.doctor.json" ||
    echo "prepare: doctor found something to mend on this host, see $bundle.doctor.json"
done
