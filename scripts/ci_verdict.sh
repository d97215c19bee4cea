#!/usr/bin/env bash
# The last word of .github/workflows/engines.yml: receipts join the stores that their bundles came from, each gets a report
# page with what was measured (NAME.html keeps the predictions of all targets), and every engine of the matrix is held to
# its gates. Exit 1 unless all pass; an engine without a receipt is "not built".
#   scripts/ci_verdict.sh PREPARED BUILT BASELINES OUT
# PREPARED: a folder of ci_prepare.sh for each engine; BUILT: receipts, anywhere below. SUMMARY gets the table as Markdown.
set -euo pipefail
cd -P "$(dirname "$0")/.."

prepared=$1
built=$2
baselines=$3
out=$4
engines=${ENGINES:-export/engines.toml}
gpusq=${GPUSQ:-.venv/bin/gpusq}
python=${PYTHON:-python3}
summary=${SUMMARY:-$out/summary.md}

mkdir -p "$out" "$built" "$baselines"
reports=()
for store in "$prepared"/*/store; do
  [ -d "$store" ] || continue
  name=$(basename "$(dirname "$store")")
  name=${name#prepared-}
  while IFS= read -r -d '' receipt; do
    id=$(basename "$receipt" .receipt.json)
    case $id in "$name"-*) ;; *) continue ;; esac
    if ! "$gpusq" import "$receipt" --store "$store" --json >"$out/$id.import.json"; then
      echo "verdict: $receipt was not imported"
      continue
    fi
    bundle=$("$python" -c 'import json, sys; print(json.load(sys.stdin)["bundles"][0])' <"$out/$id.import.json")
    "$gpusq" report "$bundle" --store "$store" --html "$out/$id.html" --report "$out/$id.json"
    reports+=(--report "$out/$id.json") # a device has no labelled images: the accuracies are the host's
  done < <(find "$built" -name '*.receipt.json' -print0)
  "$gpusq" report latest --store "$store" --html "$out/$name.html" --report "$out/$name.json"
done
status=0
"$gpusq" gate --matrix "$engines" --receipts "$built" --baselines "$baselines" "${reports[@]}" \
  --summary "$summary" || status=$?
if [ "$status" -ne 0 ]; then echo "verdict: not every engine may be released"; fi
exit "$status"
