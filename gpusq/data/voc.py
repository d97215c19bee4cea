"""Pascal VOC annotations: beside each image an XML file with its objects.

Source: Everingham et al. 2010, "The Pascal Visual Object Classes (VOC) Challenge". Coordinates are taken as they are,
x0 = xmin to x1 = xmax from the left edge, as today's labelling tools write them; the original data sets count the first
pixel as 1, so their boxes lie one pixel further to the right and below than meant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gpusq.data.annotation import Annotation, Findings, boxes_on_image, number, size_on_disk, whole_number
from gpusq.data.boxes import Boxes
from gpusq.data.safe_xml import read_xml
from gpusq.errors import AnnotationError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

MEND = "mend the file"


@dataclass(frozen=True)
class VocObject:
    """One <object>. difficult: neither to be trained on nor to be judged by, which is what a COCO crowd is."""

    place: str
    name: str
    xyxy: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True)
class VocFile:
    """One XML file. file_name: the last part of what it calls its image, "" where it does not say. size: (h, w)."""

    path: Path
    file_name: str
    size: tuple[int, int] | None
    objects: tuple[VocObject, ...]


def read_voc(path: Path) -> VocFile:
    """Parse one annotation file; its image is not looked at.

    Raises AnnotationError, with the file and the object, for broken XML (see read_xml), another root element, an
    object without a name or a box, and corners that are not finite or the wrong way round.
    """
    root = read_xml(path)
    if root.tag != "annotation":
        raise AnnotationError(f"{path}: its outermost element must be <annotation>", got=f"<{root.tag}>"[:80], do=MEND)
    name = _text(root, "filename").replace("\\", "/").rpartition("/")[2]
    objects = [_object(f"{path}: object {i}", found) for i, found in enumerate(root.findall("object"), start=1)]
    return VocFile(path, name, _size(path, root), tuple(objects))


def _text(element: Element, tag: str) -> str:
    return (element.findtext(tag) or "").strip()


def _size(path: Path, root: Element) -> tuple[int, int] | None:
    """(height, width); None where it is not given, or 0, as some tools write it."""
    sides = [_text(root, f"size/{side}") for side in ("height", "width")]
    if not all(sides):
        return None
    height, width = (whole_number(text, f"{path}: size") for text in sides)
    return (height, width) if height and width else None


def _object(place: str, element: Element) -> VocObject:
    name, box = _text(element, "name"), element.find("bndbox")
    if not name or box is None:
        raise AnnotationError(f"{place} must have a <name> and a <bndbox>", got=name if name else "no name", do=MEND)
    place = f"{place} ({name})"
    x0, y0, x1, y1 = (number(_text(box, tag), f"{place}: <{tag}>") for tag in ("xmin", "ymin", "xmax", "ymax"))
    if x1 < x0 or y1 < y0:
        got = f"{x0:g}, {y0:g}, {x1:g}, {y1:g}"
        raise AnnotationError(f"{place}: xmax and ymax must not be below xmin and ymin", got=got, do=MEND)
    difficult = _text(element, "difficult") or "0"
    if difficult not in ("0", "1"):
        raise AnnotationError(f"{place}: <difficult> must be 0 or 1", got=difficult[:80], do=MEND)
    return VocObject(place, name, (x0, y0, x1, y1), difficult == "1")


def boxes_of_file(file: VocFile, image: Path, index_of: Callable[[VocObject], int], findings: Findings) -> Boxes:
    """The objects of `file` on its image. index_of: the class of an object, or its refusal."""
    size = file.size or size_on_disk(image, str(file.path))
    found = [Annotation(o.place, o.xyxy, index_of(o), o.difficult) for o in file.objects]
    return boxes_on_image(found, size, findings)
