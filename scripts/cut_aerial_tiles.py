"""Cuts the aerial images that scripts/fetch_aerial.sh unpacks into the tiles of a COCO folder.

    python scripts/cut_aerial_tiles.py SOURCE OUT [TILE]

SOURCE: folder with the four PNG and XML files. OUT: gets train/ and test/, each with PPM tiles and
_annotations.coco.json; OUT must not exist yet. TILE: about so many pixels a side, default 200.

One whole image is held out for test, so no tree is seen in training. Training tiles overlap by half; test tiles cover
the held-out image once. The classes Alive and Dead of one image become Tree: the other images call standing dead
trees Tree too.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from gpusq.data.annotation import Findings
from gpusq.data.decoding import read_rgb
from gpusq.data.tiles import AnnotatedImage, tiles_of, write_coco
from gpusq.data.voc import VocObject, boxes_of_file, read_voc

HELD_OUT = "2019_YELL_2_541000_4977000_image_crop"
OTHERS = ("2019_YELL_2_528000_4978000_image_crop2", "OSBS_029", "SOAP_061")
BOXES = {HELD_OUT: 279, OTHERS[0]: 574, OTHERS[1]: 61, OTHERS[2]: 37}
TREES = ("Tree", "Alive", "Dead")
TILE = 200
OVERLAP = 0.5
INFO = {
    "description": "aerial images of trees, cut into tiles; classes Tree, Alive and Dead joined as Tree",
    "source": "deepforest 2.1.0 (PyPI), folder deepforest/data",
    "licence": "MIT (the package); the imagery is from the National Ecological Observatory Network (NEON)",
}


def annotated(folder: Path, name: str) -> AnnotatedImage:
    """One image with its boxes; all trees are class 0."""
    path = folder / f"{name}.png"
    boxes = boxes_of_file(read_voc(folder / f"{name}.xml"), path, class_of, Findings())
    if len(boxes) != BOXES[name]:
        sys.exit(f"{path}: expected {BOXES[name]} boxes, got {len(boxes)}")
    return AnnotatedImage(name, read_rgb(path), boxes)


def class_of(found: VocObject) -> int:
    """Tree, the only class."""
    if found.name not in TREES:
        sys.exit(f"{found.place}: expected one of {', '.join(TREES)}")
    return 0


def main(source: Path, out: Path, tile: int) -> None:
    """Write both splits into a folder beside `out` first, so that `out` is whole or not there."""
    if out.exists():
        sys.exit(f"{out} is already there; remove it first")
    started = out.with_name(out.name + ".part")
    for split, names, overlap in (("train", OTHERS, OVERLAP), ("test", (HELD_OUT,), None)):
        tiles = [part for name in names for part in tiles_of(annotated(source, name), tile, overlap)]
        if split == "train":  # crowds teach nothing; a training tile need not carry them
            tiles = [replace(part, boxes=part.boxes.learnable()) for part in tiles]
        write_coco(started / split, tiles, ("Tree",), INFO)
        objects = sum(len(part.boxes.learnable()) for part in tiles)
        crowds = sum(int(part.boxes.crowd.sum()) for part in tiles)
        empty = sum(not len(part.boxes.learnable()) for part in tiles)
        sys.stderr.write(
            f"aerial: {split}: {len(tiles)} tiles ({empty} without a tree), {objects} boxes, {crowds} cut\n"
        )
    started.rename(out)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) == 4 else TILE)
