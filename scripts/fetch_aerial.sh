#!/usr/bin/env bash
# Obtains four aerial images with 951 boxes drawn by people (trees) from the package deepforest 2.1.0 on PyPI and cuts
# them into tiles. Only the wheel is downloaded and only these images are unpacked; nothing is installed. Licence and
# origin: scripts/AERIAL.md. Prints the folder to give as coco:FOLDER, nothing else, on stdout.
# Exit 0: there, and every byte of the source as expected. Exit 3: it cannot be had here.
set -euo pipefail
cd -P "$(dirname "$0")/.."

say() { printf 'aerial: %s\n' "$*" >&2; }

wheel=deepforest-2.1.0-py3-none-any.whl
wheel_sha256=8c2798d8e9be7f0004b194fe207b76c1d9fff6e711b3db67b9508dcd5d00ae54
source=$PWD/build/data/aerial-source
folder=$PWD/build/data/aerial
python=$PWD/.venv/bin/python

whole() { # folder: the eight files, by their sha256
  (cd "$1" 2>/dev/null && sha256sum --check --quiet --strict >/dev/null 2>&1) <<'SUMS'
a9bdb0f4447fdd899d22f567e0e20ba8320c5413b2ad0cd0ac8d9f3b6e0f9767  2019_YELL_2_528000_4978000_image_crop2.png
178e58a23cc2642226a364a30f71bd9258ddc1b012c826f12250914a90c7a131  2019_YELL_2_541000_4977000_image_crop.png
d9477c6a00e4902c7bee487d4c5582c3b8b9a2f77f3908a29628b816b291e6ee  OSBS_029.png
256508f1a62149bec4a80879077a865caf50e8cace095e6564c76befa480d424  SOAP_061.png
bd431af6a5086d721eb731b22f5ea28cd8a8eab06883efc1c665391acbc68e11  2019_YELL_2_528000_4978000_image_crop2.xml
cefe4b96888bacbf8af1674f000082e549aa707aa6590d545effb23e43f26631  2019_YELL_2_541000_4977000_image_crop.xml
1f68c4011d7b351c29ca755072e77f3d16e6fd1f995bd05a9dd4eb952b55373c  OSBS_029.xml
4833280af75fd9c47965a93e38945282835e9e725cac412bdb9469d63480947c  SOAP_061.xml
SUMS
}

cut_by() { # what the tiles were made by and from; another line means they are cut again
  { cat scripts/cut_aerial_tiles.py gpusq/data/*.py; (cd "$source" && sha256sum -- *); } | sha256sum | cut -d ' ' -f 1
}

if [ ! -x "$python" ]; then
  say "there is no .venv yet; run: make setup"
  exit 3
fi

if ! whole "$source"; then
  work=$PWD/build/data/fetch-aerial
  rm -rf "$work" "$source"
  mkdir -p "$work/files"
  trap 'rm -rf "$work"' EXIT
  say "fetching the wheel of deepforest 2.1.0 from PyPI (21 MB)"
  if ! "$python" -m pip download -qq --no-deps --only-binary=:all: --disable-pip-version-check --no-input \
    --progress-bar off --timeout 30 --retries 2 -d "$work" deepforest==2.1.0 >"$work/log" 2>&1; then
    say "pip could not download it: $(tail -n 1 "$work/log")"
    exit 3
  fi
  if ! echo "$wheel_sha256  $work/$wheel" | sha256sum --check --quiet --strict >/dev/null 2>&1; then
    say "what came is not the expected wheel (sha256 differs); not used"
    exit 3
  fi
  "$python" - "$work/$wheel" "$work/files" <<'UNZIP' || { say "the wheel cannot be unpacked"; exit 3; }
import sys, zipfile
from pathlib import Path
names = ("2019_YELL_2_528000_4978000_image_crop2", "2019_YELL_2_541000_4977000_image_crop", "OSBS_029", "SOAP_061")
with zipfile.ZipFile(sys.argv[1]) as wheel:
    for name in names:
        for suffix in (".png", ".xml"):
            (Path(sys.argv[2]) / (name + suffix)).write_bytes(wheel.read(f"deepforest/data/{name}{suffix}"))
UNZIP
  if ! whole "$work/files"; then
    say "the wheel does not hold the expected files (sha256 differs); not used"
    exit 3
  fi
  mv "$work/files" "$source"
fi

if [ "$(cat "$folder/cut-by" 2>/dev/null)" != "$(cut_by)" ]; then
  rm -rf "$folder" "$folder.part"
  "$python" scripts/cut_aerial_tiles.py "$source" "$folder"
  cut_by >"$folder/cut-by"
  say "ready in build/data/aerial"
fi
echo "$folder"
