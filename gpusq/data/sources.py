"""What `--data` names, opened."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path

from gpusq.data import digits, fashion_mnist
from gpusq.data.coco_folder import open_coco
from gpusq.data.folder import FolderSet, open_folder
from gpusq.data.imageset import DataSpec
from gpusq.data.voc_folder import open_voc, xml_below
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
    _check_prefix(spec)
    found = open_folder(Path(spec).expanduser())
    if boxed := boxed_form(Path(spec).expanduser()):
        for split in (found.train, found.test):
            if isinstance(split, FolderSet) and not split.supervised:
                split.unlabelled = f"images without classes; annotations of boxes lie in the folder: {boxed} reads them"
    return found


def boxed_form(folder: Path) -> str:
    """ "coco:DIR" or "voc:DIR" where a folder of images holds such annotations, else ""."""
    if any(folder.glob("*.coco.json")) or any(folder.glob("*/*.coco.json")) or any(folder.glob("annotations/*.json")):
        return f"coco:{folder}"
    return f"voc:{folder}" if next(xml_below(folder), None) else ""


def _check_prefix(spec: str) -> None:
    """Raise EmptyDataError for "cocco:DIR": a word before a colon that is no known one, and no folder of that name."""
    word, colon, place = spec.partition(":")
    if not (colon and place and word.replace("-", "").isalnum()) or Path(spec).expanduser().exists():
        return
    known = [fashion_mnist.NAME, *BOXED]
    near = get_close_matches(word, known, 1)
    raise EmptyDataError(
        f"the word before the colon of {spec!r} is one of {', '.join(known)}",
        got=repr(word),
        do=f"did you mean {near[0]}:{place}?" if near else f"give {FORMS}",
    )
