#!/usr/bin/env bash
# Attaches what passed to the release of a tag: each engine as a tar file with its digest, receipts, report pages.
#   scripts/ci_release.sh BUILT VERDICT TAG
set -euo pipefail

built=$1
verdict=$2
tag=$3
files=()
for engine in "$built"/*/*.engine; do
  name=$(basename "$engine")
  tar -C "$(dirname "$engine")" -cf "$name.tar" "$name"
  files+=("$name.tar")
done
sha256sum "${files[@]}" >engines.sha256
gh release view "$tag" >/dev/null 2>&1 || gh release create "$tag" --verify-tag --generate-notes
gh release upload "$tag" --clobber "${files[@]}" engines.sha256 "$built"/*/*.receipt.json "$verdict"/*.html
