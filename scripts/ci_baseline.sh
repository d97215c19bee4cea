#!/usr/bin/env bash
# Fetches the receipts of the last release into OUT: what the regression gate compares with. No release, or one without
# receipts, leaves OUT empty and says so; the gate then says "not asked". Needs gh with GH_TOKEN (contents: read).
#   scripts/ci_baseline.sh OUT
set -euo pipefail

out=$1
mkdir -p "$out"
if ! tag=$(gh release view --json tagName --jq .tagName 2>/dev/null); then
  echo "baseline: there is no release yet"
  exit 0
fi
if gh release download "$tag" --pattern '*.receipt.json' --dir "$out" 2>/dev/null; then
  echo "baseline: receipts of $tag"
else
  echo "baseline: release $tag has no receipts"
fi
