#!/usr/bin/env bash
# The device half of .github/workflows/engines.yml, and the same by hand or in Docker: finishes one bundle.
#   scripts/ci_build.sh ID BUNDLES OUT        BUNDLES holds model/ and twin/, OUT gets ID.engine, ID.receipt.json, ...
# A build that fails leaves ID.receipt.json with its reason in OUT, which the workflow uploads all the same.
# GPUSQ names the command (default: gpusq), BUILDER the builder (default: tensorrt).
set -euo pipefail

id=$1
bundles=$2
out=$3
gpusq=${GPUSQ:-gpusq}
builder=${BUILDER:-tensorrt}

mkdir -p "$out"
status=0
"$gpusq" doctor --json >"$out/$id.doctor.json" || status=$?
if [ "$status" -gt 1 ]; then echo "build: gpusq doctor ended with $status" >&2; exit "$status"; fi
if [ "$status" -eq 1 ]; then
  "$gpusq" doctor || true
  echo "build: doctor found a problem on this machine; no engine is built on it" >&2
  exit 1
fi
options=(--builder "$builder" --out "$out/$id.engine" --receipt "$out/$id.receipt.json")
if [ -d "$bundles/twin" ]; then options+=(--twin "$bundles/twin"); fi
if [ "$builder" = tensorrt ]; then options+=(--timing-cache "$out/$id.timing.cache"); fi
rm -f "$out/$id.receipt.json" # an earlier run's would pass for this one's
"$gpusq" build "$bundles/model" "${options[@]}" || status=$?
if [ "$status" -ne 0 ] && [ -f "$out/$id.receipt.json" ]; then
  echo "build: failed; why is in $out/$id.receipt.json" >&2
fi
exit "$status"
