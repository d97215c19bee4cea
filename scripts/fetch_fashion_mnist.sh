#!/usr/bin/env bash
# Obtains Fashion-MNIST (70,000 real photos of clothes, MIT licence) from Debian's package dataset-fashion-mnist, without
# root and without touching the system's package lists. Prints the folder that holds the four files, nothing else, on
# stdout. Exit 0: there, and every byte as expected. Exit 3: it cannot be had here.
set -euo pipefail
cd -P "$(dirname "$0")/.."

say() { printf 'fashion-mnist: %s\n' "$*" >&2; }

whole() { # folder: the four files, by their sha256
  (cd "$1" 2>/dev/null && sha256sum --check --quiet --strict >/dev/null 2>&1) <<'SUMS'
b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7  train-images-idx3-ubyte.gz
0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056  train-labels-idx1-ubyte.gz
cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa  t10k-images-idx3-ubyte.gz
8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05  t10k-labels-idx1-ubyte.gz
SUMS
}

system=/usr/share/datasets/fashion-mnist
folder=$PWD/build/data/fashion-mnist
for known in "$system" "$folder"; do
  if whole "$known"; then echo "$known"; exit 0; fi
done

if ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null; then
  say "not here, and this system has no apt-get and dpkg to fetch Debian's package with"
  exit 3
fi

work=$PWD/build/data/fetch
rm -rf "$work"
mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/deb"
trap 'rm -rf "$work"' EXIT
quick=(-qq -o Acquire::Retries=2 -o Acquire::http::Timeout=30 -o Acquire::https::Timeout=30 -o APT::Sandbox::User=)
own_lists=(-o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work" -o "Dir::Cache::archives=$work/archives")

download() { (cd "$work/deb" && apt-get "${quick[@]}" "$@" download dataset-fashion-mnist) >>"$work/log" 2>&1; }

say "fetching Debian's package dataset-fashion-mnist (31 MB)"
if ! download; then # no package lists yet: read them into a folder of our own
  { apt-get "${quick[@]}" "${own_lists[@]}" update >>"$work/log" 2>&1 && download "${own_lists[@]}"; } || {
    say "apt-get could not download it: $(tail -n 1 "$work/log")"
    exit 3
  }
fi
dpkg -x "$work"/deb/dataset-fashion-mnist_*.deb "$work/tree" 2>>"$work/log" || true # what counts is checked next
if ! whole "$work/tree$system"; then
  say "what came does not hold the expected files (sha256 differs); not used"
  exit 3
fi
rm -rf "$folder"
mv "$work/tree$system" "$folder"
say "ready in build/data/fashion-mnist"
echo "$folder"
