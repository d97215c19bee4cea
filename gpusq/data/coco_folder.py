"""Where the images and the annotation files of a COCO set lie, and both splits from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from gpusq.data.annotation import Findings, boxes_on_image, size_on_disk, some
from gpusq.data.box_set import BoxSet
from gpusq.data.boxes import Boxes
from gpusq.data.coco import CocoFile, ListedImage, read_coco
from gpusq.data.folder import TESTS, TRAIN, ImageFile, images_below, one_line, split_files
from gpusq.data.imageset import DataSpec
from gpusq.errors import AnnotationError, ClassMismatchError, EmptyDataError

BESIDE = "_annotations.coco.json"
YEAR = "2017"
LAYOUTS = (
    f"DIR/train/{BESIDE} with DIR/test/{BESIDE} and the images beside them, or DIR/annotations/train.json with "
    "DIR/annotations/val.json (or instances_train2017.json, instances_val2017.json) and the images in DIR/images, "
    "DIR/train and DIR/val, or coco:FILE.json alone"
)
BOTH = "list each image in one of the two"


def open_coco(place: Path) -> DataSpec:
    """Both splits of a COCO folder, or one annotation file whose images are split by the sha256 of their ids.

    The folder's layouts are LAYOUTS. A file alone looks for its images beside itself, in images/ there, and in the
    same places one folder up; images that it does not list are no part of the set. In a folder every image must be
    listed, if only without annotations: that is how an image without objects is told from one nobody looked at.
    Raises EmptyDataError where nothing is there, AnnotationError for files that do not parse, images listed but not
    there or there but not listed, images listed twice (links included), boxes outside; ClassMismatchError where the two
    files' categories differ.
    """
    if place.is_file():
        return _one_file(place)
    if not place.is_dir():
        got = "nothing there"
        raise EmptyDataError(f"{place} must be a COCO folder or annotation file", got=got, do=f"expected {LAYOUTS}")
    train, test = _annotation_files(place)
    files = read_coco(train), read_coco(test)
    _check_same_classes(*files)
    roots = [_root(file, _roots_in(place, file.path)) for file in files]
    name = one_line(place.resolve().name) or "coco"
    parts = [_part(file, root, place) for file, root in zip(files, roots, strict=True)]
    _check_apart(*(set(paths) for paths, _, _ in parts))
    _check_all_listed({path for paths, _, _ in parts for path in paths}, roots)
    sets = [
        BoxSet(name, split, file.classes, list(paths.values()), boxes if file.annotated else None, findings)
        for split, file, (paths, boxes, findings) in zip(("train", "test"), files, parts, strict=True)
    ]
    return DataSpec(name, *sets)


def _one_file(path: Path) -> DataSpec:
    file = read_coco(path)
    above = path.resolve().parent
    root = _root(file, [above, above / "images", above.parent, above.parent / "images"])
    paths, boxes, findings = _part(file, root, root)
    name = one_line(path.stem)
    train, test = split_files(list(paths.values()))
    known = boxes if file.annotated else None

    def part(split: str, found: list[ImageFile]) -> BoxSet:
        return BoxSet(name, split, file.classes, found, known, findings)

    return DataSpec(name, part("train", train), part("test", test))


def _annotation_files(folder: Path) -> tuple[Path, Path]:
    """The annotation files of the two splits."""
    train, test = (_first_file(folder, splits) for splits in ((TRAIN,), TESTS))
    if train is None or test is None:
        got = f"only {train or test}" if train or test else "no annotation file"
        raise EmptyDataError(f"{folder} must hold annotations of train and test", got=got, do=f"expected {LAYOUTS}")
    return train, test


def _first_file(folder: Path, splits: Sequence[str]) -> Path | None:
    for split in splits:
        names = (f"{split}.json", f"instances_{split}.json", f"instances_{split}{YEAR}.json")
        for path in (folder / split / BESIDE, *(folder / "annotations" / name for name in names)):
            if path.is_file():
                return path
    return None


def _roots_in(folder: Path, annotations: Path) -> list[Path]:
    """Where the images of one annotation file may lie, the nearest first."""
    if annotations.name == BESIDE:
        return [annotations.parent]
    split = annotations.stem.removeprefix("instances_")
    short = split.removesuffix(YEAR)
    names = dict.fromkeys((f"images/{split}", f"images/{short}", split, short, "images", ""))
    return [folder / name if name else folder for name in names]


def _root(file: CocoFile, places: list[Path]) -> Path:
    """The first place that holds the file's first image that is anywhere."""
    if not file.images:
        raise EmptyDataError(f"{file.path} must list images", got="none", do=f"expected {LAYOUTS}")
    for image in file.images:
        for place in places:
            if (place / image.file_name).is_file():
                return place
    raise AnnotationError(
        f"{file.path}: none of its {len(file.images)} images is there",
        got=f"no {one_line(file.images[0].file_name)} in {', '.join(map(str, places))}",
        do="put the images where the annotations say",
    )


def _part(file: CocoFile, root: Path, top: Path) -> tuple[dict[Path, ImageFile], dict[str, Boxes], Findings]:
    """(path -> file, id -> boxes, what was met) of everything that one annotation file lists. Ids are below `top`.

    Raises AnnotationError for an image that is not there, and for two entries that lead to one file.
    """
    gone = [image.file_name for image in file.images if not (root / image.file_name).is_file()]
    if gone:
        do = f"add them to {root}, or take them and their annotations out"
        raise AnnotationError(f"{file.path} lists images that are not there", got=some(gone), do=do)
    paths: dict[Path, ImageFile] = {}
    boxes, findings = {}, Findings()
    for image in file.images:
        path = root / image.file_name
        _check_new(image, path, paths)
        own = one_line(path.relative_to(top).as_posix())
        size = image.size or size_on_disk(path, image.place)
        paths[path.resolve()] = ImageFile(own, path, None)
        boxes[own] = boxes_on_image(image.objects, size, findings)
    findings.check(file.path)
    return paths, boxes, findings


def _check_new(image: ListedImage, path: Path, known: Mapping[Path, ImageFile]) -> None:
    """Links lead to one file under several names; the boxes of all but one name would be lost."""
    if (earlier := known.get(path.resolve())) is not None:
        raise AnnotationError(
            f"{image.place}: an image may be listed once",
            got=f"{one_line(image.file_name)} is the same file as {earlier.id}",
            do="list it under one name, with all its annotations, or put a copy in place of the link",
        )


def _check_same_classes(train: CocoFile, test: CocoFile) -> None:
    if train.annotated != test.annotated or train.categories != test.categories:
        raise ClassMismatchError(
            f"{test.path} must have the categories of {train.path}, with the same ids",
            got=f"{_described(train)} and {_described(test)}",
            do="give both files the same list of categories",
        )


def _described(file: CocoFile) -> str:
    if not file.annotated:
        return "no annotations"
    named = ", ".join(f"{own} {name!r}" for own, name in file.categories[:5])
    return f"{len(file.categories)} categories ({named}{', ...' if len(file.categories) > 5 else ''})"


def _check_apart(train: set[Path], test: set[Path]) -> None:
    if both := sorted(str(path) for path in train & test):
        raise AnnotationError("no image may be in train and in test", got=some(both), do=BOTH)


def _check_all_listed(listed: set[Path], roots: list[Path]) -> None:
    there = {path.resolve(): path for root in roots for path in images_below(root)}
    if stray := sorted(str(there[path]) for path in set(there) - listed):
        raise AnnotationError(
            "each image of the folder must be listed in an annotation file",
            got=f"{some(stray)} listed nowhere",
            do="list those without objects without annotations, and move the others away; "
            "coco:FILE.json takes only what the file lists",
        )
