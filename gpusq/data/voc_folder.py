"""Where the images and the XML files of a Pascal VOC set lie, and both splits from them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from gpusq.data.annotation import Findings, read_bytes, some
from gpusq.data.box_set import BoxSet
from gpusq.data.folder import TESTS, TRAIN, ImageFile, images_below, one_line, split_files
from gpusq.data.imageset import DataSpec
from gpusq.data.voc import VocFile, VocObject, boxes_of_file, read_voc
from gpusq.errors import AnnotationError, ClassMismatchError, EmptyDataError

CLASS_FILE = "classes.txt"
MOST_CLASS_BYTES = 1 << 20
LAYOUTS = "DIR/train and DIR/test (or val), or DIR alone, which is then split: images, and for each an XML of its name"
WANTED = f"expected {LAYOUTS}"
Pairs = dict[Path, VocFile | None]


def open_voc(folder: Path) -> DataSpec:
    """Both splits of a Pascal VOC folder, laid out as LAYOUTS says.

    An XML file belongs to the image that it names in its own folder, else to the image of its own name there, else to
    the only image of that name in the split. Classes are the names of all objects of the training split, sorted; a
    file DIR/classes.txt with one name a line sets another order, and which names there may be. Images without any
    XML in the whole folder are unlabelled; with some, every image needs one (an image without objects has an XML
    without <object>).
    Raises EmptyDataError where nothing is there, AnnotationError for XML that does not parse, XML without an image,
    images without XML, boxes outside; ClassMismatchError where names are not among the classes.
    """
    if not folder.is_dir():
        raise EmptyDataError(f"{folder} must be a Pascal VOC folder", got="no folder", do=WANTED)
    name = one_line(folder.resolve().name) or "voc"
    test = next((folder / t for t in TESTS if (folder / t).is_dir()), None)
    if (folder / TRAIN).is_dir() and test is not None:
        parts = {"train": _pairs(folder / TRAIN), "test": _pairs(test)}
    elif (folder / TRAIN).is_dir() or test is not None:
        got = str(test or folder / TRAIN)
        raise EmptyDataError(f"{folder} must hold train/ and one of {', '.join(TESTS)}", got=f"only {got}", do=WANTED)
    else:
        parts = _split(folder, _pairs(folder))
    labelled = _check_labelled(folder, {image: xml for pairs in parts.values() for image, xml in pairs.items()})
    classes = _classes(folder, parts["train"]) if labelled else ()
    sets = [_box_set(name, split, classes, pairs, folder, labelled) for split, pairs in parts.items()]
    for found in sets:
        found.unlabelled = f"no XML file beside the images of {folder}"
    return DataSpec(name, *sets)


def _split(folder: Path, pairs: Pairs) -> dict[str, Pairs]:
    train, test = split_files([_file(image, folder) for image in pairs])
    return {"train": {f.path: pairs[f.path] for f in train}, "test": {f.path: pairs[f.path] for f in test}}


def _file(image: Path, top: Path) -> ImageFile:
    return ImageFile(one_line(image.relative_to(top).as_posix()), image, None)


def _pairs(folder: Path) -> Pairs:
    """Image -> its annotations, None without."""
    images = sorted(images_below(folder))
    if not images:
        raise EmptyDataError(f"{folder} holds no images", do=WANTED)
    by_stem: dict[str, list[Path]] = {}
    for image in images:
        by_stem.setdefault(image.stem, []).append(image)
    pairs: Pairs = dict.fromkeys(images)
    alone: list[str] = []
    for path in sorted(xml_below(folder)):
        file = read_voc(path)
        named = path.parent / file.file_name
        own = named if named in pairs else _of_stem(path, by_stem.get(path.stem, []))
        if own is None:
            alone.append(str(path))
        elif other := pairs[own]:
            raise AnnotationError(f"{own} must have one XML file", got=f"{other.path} and {path}", do="keep one")
        else:
            pairs[own] = file
    if alone:
        do = "add their images, or take them out"
        raise AnnotationError(f"{folder}: annotations without an image", got=some(alone), do=do)
    return pairs


def _of_stem(xml: Path, images: list[Path]) -> Path | None:
    """The one image in the folder of the XML, else the one image anywhere."""
    beside = [image for image in images if image.parent == xml.parent]
    found = beside or images
    return found[0] if len(found) == 1 else None


def xml_below(folder: Path) -> Iterator[Path]:
    """XML files at any depth, hidden ones left out."""
    for place, folders, names in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith(".")]
        yield from (Path(place, n) for n in names if not n.startswith(".") and n.lower().endswith(".xml"))


def _check_labelled(folder: Path, pairs: Pairs) -> bool:
    """Whether the images have annotations: all of them or none."""
    bare = [str(image) for image, xml in pairs.items() if xml is None]
    if bare and len(bare) < len(pairs):
        raise AnnotationError(
            f"{folder}: each of the {len(pairs)} images must have an XML file, or none of them",
            got=f"{some(bare)} without",
            do="annotate them, write an XML without <object> where there is nothing, or move them away",
        )
    return not bare


def _classes(folder: Path, train: Pairs) -> tuple[str, ...]:
    path = folder / CLASS_FILE
    if not path.exists():
        return tuple(sorted({o.name for xml in train.values() if xml is not None for o in xml.objects}))
    try:
        lines = read_bytes(path, MOST_CLASS_BYTES).decode().splitlines()
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path} must be text in UTF-8", got=str(error), do="save it as UTF-8") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names or len(set(names)) != len(names):
        got = f"{len(names)} names, {len(set(names))} different"
        raise AnnotationError(f"{path} must name each class once, one a line", got=got, do="mend the file")
    return names


def _box_set(
    name: str, split: str, classes: tuple[str, ...], pairs: Mapping[Path, VocFile | None], top: Path, labelled: bool
) -> BoxSet:
    index = {own: i for i, own in enumerate(classes)}

    def index_of(found: VocObject) -> int:
        if found.name not in index:
            raise ClassMismatchError(
                f"{found.place}: the class must be one of the training split's, or of {CLASS_FILE} where there is one",
                got=f"{found.name!r}, not among {some(list(classes))}",
                do="mend the name, or train on such objects too",
            )
        return index[found.name]

    files, boxes, findings = [], {}, Findings()
    for image, xml in pairs.items():
        files.append(_file(image, top))
        if xml is not None:
            boxes[files[-1].id] = boxes_of_file(xml, image, index_of, findings)
    if labelled and pairs:
        findings.check(next(iter(pairs)).parent)
    return BoxSet(name, split, classes, files, boxes if labelled else None, findings)
