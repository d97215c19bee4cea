"""What `--data` names, opened."""

from __future__ import annotations

from pathlib import Path

from gpusq.data import digits, fashion_mnist
from gpusq.data.folder import open_folder
from gpusq.data.imageset import DataSpec
from gpusq.errors import EmptyDataError

FORMS = "an image folder, fashion-mnist, fashion-mnist:DIR or digits (a folder of such a name: ./digits)"


def open_data(spec: str) -> DataSpec:
    """Both splits of "fashion-mnist[:DIR]", "digits" or an image folder. Nothing is ever downloaded.

    Raises EmptyDataError where nothing is there, other DataErrors where it is not usable, MissingExtraError.
    """
    name, colon, place = spec.partition(":")
    if name == fashion_mnist.NAME and (place or not colon):
        return fashion_mnist.open_fashion_mnist(Path(place).expanduser() if colon else None)
    if spec == digits.NAME:
        return digits.open_digits()
    if not spec or name == fashion_mnist.NAME:
        raise EmptyDataError("the data must be named", got=repr(spec), do=f"give {FORMS}")
    return open_folder(Path(spec).expanduser())
