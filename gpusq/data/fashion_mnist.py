"""Fashion-MNIST from its four idx files: 60,000 + 10,000 grey photos of clothes, 28x28, 10 classes.

Source: Xiao et al. 2017, arXiv:1708.07747; MIT licence. Debian ships the files as dataset-fashion-mnist.
"""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np

from gpusq.data.array_set import ArraySet
from gpusq.data.imageset import DataSpec, Pixels
from gpusq.errors import DataError, EmptyDataError

NAME = "fashion-mnist"
VARIABLE = "GPUSQ_FASHION_MNIST"
FOLDERS = (
    Path("build/data/usr/share/datasets/fashion-mnist"),
    Path("build/data/fashion-mnist"),
    Path("/usr/share/datasets/fashion-mnist"),
)
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
COUNTS = {"train": 60_000, "t10k": 10_000}
SIDE = 28
UINT8_MAGIC = 0x0800  # third byte: unsigned bytes; the fourth is the number of dimensions
DO = "run: apt-get install dataset-fashion-mnist, or give fashion-mnist:DIR with the four idx files"


def open_fashion_mnist(folder: Path | None = None) -> DataSpec:
    """Both splits from `folder`; None looks at $GPUSQ_FASHION_MNIST, then build/data, then the Debian package's place.

    Raises EmptyDataError where a file is missing, DataError where one is not what it should be.
    """
    place = _find() if folder is None else folder
    return DataSpec(NAME, _split(place, "train", "train"), _split(place, "t10k", "test"))


def _find() -> Path:
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    for folder in FOLDERS:
        if folder.is_dir():
            return folder
    raise EmptyDataError("Fashion-MNIST is not installed", got=f"nothing in {', '.join(map(str, FOLDERS))}", do=DO)


def _split(folder: Path, prefix: str, split: str) -> ArraySet:
    count = COUNTS[prefix]
    images = read_idx(_file(folder, f"{prefix}-images-idx3-ubyte"), (count, SIDE, SIDE))
    labels = read_idx(_file(folder, f"{prefix}-labels-idx1-ubyte"), (count,))
    ids = [f"{split}-{i:05d}" for i in range(count)]
    return ArraySet(NAME, split, CLASSES, ids, images, labels)


def _file(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise EmptyDataError(f"Fashion-MNIST needs {folder / name}.gz", got="no such file", do=DO)


def read_idx(path: Path, shape: tuple[int, ...]) -> Pixels:
    """The uint8 array of an idx file (gzipped or plain) that must have exactly this shape.

    Raises DataError on any other magic number, shape or length. Reads no more than the shape takes.
    """
    header = struct.pack(f">{1 + len(shape)}I", UINT8_MAGIC | len(shape), *shape)
    size = len(header) + math.prod(shape)
    data = _read(path, size + 1)
    if data[: len(header)] != header:
        raise DataError(f"{path}: expected idx header {header.hex(' ', 4)}", got=data[: len(header)].hex(" ", 4), do=DO)
    if len(data) != size:
        got = "more" if len(data) > size else f"{len(data)}"
        raise DataError(f"{path}: expected {size} bytes after unpacking", got=got, do=DO)
    return np.frombuffer(data, np.uint8, offset=len(header)).reshape(shape)


def _read(path: Path, limit: int) -> bytes:
    try:
        if path.suffix != ".gz":
            with path.open("rb") as plain:
                return plain.read(limit)
        with gzip.open(path) as packed:
            return packed.read(limit)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as an idx file", got=str(error), do=DO) from error
