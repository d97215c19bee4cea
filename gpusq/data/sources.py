"""What `--data` names, opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gpusq.data import digits, fashion_mnist
from gpusq.data.coco_folder import open_coco
from gpusq.data.folder import open_folder
from gpusq.data.imageset import DataSpec
from gpusq.data.voc_folder import open_voc
from gpusq.errors import EmptyDataError

BOXED: dict[str, Callable[[Path], DataSpec]] = {"coco": open_coco, "voc": open_voc}
FORMS = (
    "an image folder, fashion-mnist, fashion-mnist:DIR, digits, coco:DIR, coco:FILE.json or voc:DIR "
    "(a folder of such a name: ./digits)"
)


def open_data(spec: str) -> DataSpec:
    """Both splits of "fashion-mnist[:DIR]", "digits", "coco:DIR or FILE.json", "voc:DIR" or an image folder.

    Nothing is ever downloaded. Raises EmptyDataError where nothing is there, other DataErrors where it is not usable,
    MissingExtraError.
    """
    name, colon, place = spec.partition(":")
    if name == fashion_mnist.NAME and (place or not colon):
        return fashion_mnist.open_fashion_mnist(Path(place).expanduser() if colon else None)
    if spec == digits.NAME:
        return digits.open_digits()
    if name in BOXED and place:
        return BOXED[name](Path(place).expanduser())
    if not spec or name == fashion_mnist.NAME or (name in BOXED and colon):
        raise EmptyDataError("the data must be named", got=repr(spec), do=f"give {FORMS}")
    return open_folder(Path(spec).expanduser())
