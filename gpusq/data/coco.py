"""COCO annotation files: a JSON object with `images`, `annotations` and `categories`.

Source: the data format page of the COCO project, cocodataset.org. Outlines (`segmentation`) and keypoints are not read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from gpusq.data.annotation import Annotation, number, read_bytes, whole_number
from gpusq.errors import AnnotationError

MOST_BYTES = 4 << 30
MEND = "mend the file"
ImageId = int | str


@dataclass(frozen=True)
class ListedImage:
    """One entry of `images`. size: (height, width), None where not given. place: for messages."""

    file_name: str
    size: tuple[int, int] | None
    objects: tuple[Annotation, ...]
    place: str


@dataclass(frozen=True)
class CocoFile:
    """What one annotation file says. classes: names in the order of the category ids.

    categories: (id, name) in that order. annotated: whether there is a list of annotations at all.
    """

    path: Path
    categories: tuple[tuple[int, str], ...]
    images: tuple[ListedImage, ...]
    annotated: bool

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(name for _, name in self.categories) if self.annotated else ()


def read_coco(path: Path) -> CocoFile:
    """Parse one annotation file; the images are not looked at.

    Raises AnnotationError, with the file and the entry, for broken JSON, missing or mistyped keys, ids used twice,
    a file name listed twice or leading outside, an annotation whose image or category is not listed, and a box that is
    not four finite numbers with a width and height of at least 0, and a negative area.
    """
    content = _parsed(path)
    categories = _categories(path, content)
    index_of = {category: i for i, (category, _) in enumerate(categories)}
    entries = _by_id(path, content, "images")
    objects: dict[ImageId, list[Annotation]] = {image: [] for image in entries}
    annotated = "annotations" in content
    if annotated:
        for place, entry in _by_id(path, content, "annotations").values():
            image, found = _annotation(place, entry, index_of)
            if image not in objects:
                raise AnnotationError(f"{place}: its image_id must be listed in images", got=repr(image), do=MEND)
            objects[image].append(found)
    images = tuple(_listed(*entries[image], tuple(found)) for image, found in objects.items())
    _check_file_names(images)
    return CocoFile(path, categories, images, annotated)


def _parsed(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_bytes(path, MOST_BYTES))
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{path} must be JSON", got=f"{type(error).__name__}: {error}", do=MEND) from error
    if not isinstance(content, dict) or "images" not in content:
        got = f"keys {', '.join(map(str, list(content)[:5]))}" if isinstance(content, dict) else type(content).__name__
        raise AnnotationError(f"{path} must be a COCO object with images, annotations and categories", got=got, do=MEND)
    return content


def _entries(path: Path, content: dict[str, Any], key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, entry) of a list of objects."""
    listed = content.get(key)
    if not isinstance(listed, list):
        raise AnnotationError(f"{path}: `{key}` must be a list", got=type(listed).__name__, do=MEND)
    for i, entry in enumerate(listed):
        place = f"{path}: {key}[{i}]"
        if not isinstance(entry, dict):
            raise AnnotationError(f"{place} must be an object", got=type(entry).__name__, do=MEND)
        yield place, entry


def _by_id(path: Path, content: dict[str, Any], key: str) -> dict[ImageId, tuple[str, dict[str, Any]]]:
    """id -> (place with the id, entry), in the order of the file."""
    found: dict[ImageId, tuple[str, dict[str, Any]]] = {}
    for place, entry in _entries(path, content, key):
        own = _id(entry, "id", place)
        if own in found:
            raise AnnotationError(f"{place}: id {own!r} is already that of {found[own][0]}", do="give each its own id")
        found[own] = f"{place} (id {own})", entry
    return found


def _id(entry: dict[str, Any], key: str, place: str) -> ImageId:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise AnnotationError(f"{place}: `{key}` must be a whole number or text", got=repr(value)[:80], do=MEND)
    return value


def _categories(path: Path, content: dict[str, Any]) -> tuple[tuple[int, str], ...]:
    if "annotations" not in content and "categories" not in content:
        return ()
    found: dict[int, str] = {}
    for place, entry in _entries(path, content, "categories"):
        own, name = whole_number(entry.get("id"), f"{place}: `id`"), entry.get("name")
        if not isinstance(name, str) or not name:
            raise AnnotationError(f"{place}: `name` must be text", got=repr(name)[:80], do=MEND)
        if own in found or name in found.values():
            got = f"id {own}, name {name!r}"
            raise AnnotationError(f"{place}: its id or its name is already another category's", got=got, do=MEND)
        found[own] = name
    if not found and content.get("annotations"):
        raise AnnotationError(f"{path}: `categories` must name the classes of the annotations", got="none", do=MEND)
    return tuple(sorted(found.items()))


def _annotation(place: str, entry: dict[str, Any], index_of: dict[int, int]) -> tuple[ImageId, Annotation]:
    """(image id, object)."""
    image, category = _id(entry, "image_id", place), entry.get("category_id")
    if isinstance(category, bool) or not isinstance(category, int) or category not in index_of:
        raise AnnotationError(f"{place}: its category_id must be listed in categories", got=repr(category), do=MEND)
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        got = repr(box)[:80]
        raise AnnotationError(f"{place}: `bbox` must be [x, y, width, height] in pixels", got=got, do=MEND)
    x, y, width, height = (number(value, f"{place}: `bbox`") for value in box)
    if width < 0 or height < 0:
        raise AnnotationError(f"{place}: `bbox` must have a width and height of at least 0", got=repr(box), do=MEND)
    crowd = entry.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise AnnotationError(f"{place}: `iscrowd` must be 0 or 1", got=repr(crowd)[:80], do=MEND)
    corners = (x, y, x + width, y + height)
    return image, Annotation(place, corners, index_of[category], bool(crowd), _area(place, entry))


def _area(place: str, entry: dict[str, Any]) -> float | None:
    """Pixels; None where not given. Average precision leaves out objects by it: a negative one would be ignored."""
    if entry.get("area") is None:
        return None
    area = number(entry["area"], f"{place}: `area`")
    if area < 0:
        raise AnnotationError(f"{place}: `area` must be at least 0", got=repr(entry["area"])[:80], do=MEND)
    return area


def _listed(place: str, entry: dict[str, Any], objects: tuple[Annotation, ...]) -> ListedImage:
    name = entry.get("file_name")
    if not isinstance(name, str) or not name or "\0" in name:
        raise AnnotationError(f"{place}: `file_name` must be text", got=repr(name)[:80], do=MEND)
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        do = "give the path below the folder of the images"
        raise AnnotationError(f"{place}: `file_name` must stay inside the folder of the images", got=name[:200], do=do)
    size = None
    if entry.get("width") is not None and entry.get("height") is not None:
        size = tuple(whole_number(entry[side], f"{place}: `{side}`", least=1) for side in ("height", "width"))
    return ListedImage(path.as_posix(), (size[0], size[1]) if size else None, objects, place)


def _check_file_names(images: tuple[ListedImage, ...]) -> None:
    seen: dict[str, str] = {}
    for image in images:
        if image.file_name in seen:
            do = "list each image once, with all its annotations"
            raise AnnotationError(f"{image.place}: {image.file_name} is already {seen[image.file_name]}", do=do)
        seen[image.file_name] = image.place
