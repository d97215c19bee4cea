"""Image folders: train/ and val|test/ with a folder for each class, class folders alone, or images without labels."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpusq.data.decoding import SUFFIXES, read_rgb
from gpusq.data.imageset import DataSpec, Pixels, Task, UnreadableImageError, fingerprint_of
from gpusq.data.threads import map_in_threads
from gpusq.errors import ClassMismatchError, EmptyDataError

TRAIN = "train"
TESTS = ("val", "valid", "validation", "test")
TEST_SHARE = 0.2
CHUNK_BYTES = 1 << 20
HASH_REPORT_S = 1.0
"""Seconds between reports of the hashing; what takes less is not reported."""
UNREADABLE = "unreadable"
LAYOUTS = "DIR/train/CLASS/*.jpg with DIR/val/CLASS/*.jpg, DIR/CLASS/*.jpg, or DIR/*.jpg without labels"


@dataclass(frozen=True)
class ImageFile:
    """One file of a set. id: path below the set's folder, on one line. label: None without classes."""

    id: str
    path: Path
    label: int | None


class FolderSet:
    """One split of an image folder, in the order of the ids' sha256, so that its first n images are a fair sample.

    unlabelled: of a set that is not supervised, why, for errors. on_hash: called with (files done, files) about every
    second while fingerprint() reads the files, in its thread.
    """

    task: Task = "classification"

    def __init__(self, name: str, split: str, classes: tuple[str, ...], files: Sequence[ImageFile]) -> None:
        self.name, self.split, self.classes = name, split, classes
        self.supervised = bool(classes)
        self._files = sorted(files, key=lambda file: (_hash_of(file.id), file.id))
        self.ids = tuple(file.id for file in self._files)
        self.on_hash: Callable[[int, int], None] | None = None
        self.unlabelled = "images without classes"
        self._fingerprint: str | None = None
        self._hashes: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self._files)

    def label(self, index: int) -> int | None:
        """The class of image `index`, None without classes."""
        return self._files[index].label

    def image(self, index: int) -> Pixels:
        """RGB uint8 [H, W, 3]. Raises UnreadableImageError."""
        return read_rgb(self._files[index].path)

    def content_sha256(self, index: int) -> str:
        """Hex sha256 of the file. Raises UnreadableImageError where it cannot be opened."""
        return _file_sha256(self._files[index].path)

    def fingerprint(self) -> str:
        """Hex sha256 over the list of classes, every id and every byte of every file; read once, in several threads."""
        if self._fingerprint is None:
            names = map(self._label_text, self._files)
            self._fingerprint = fingerprint_of(zip(self.ids, self.content_hashes(), names, strict=True), self.classes)
        return self._fingerprint

    def content_hashes(self) -> tuple[str, ...]:
        """Hex sha256 of every file, UNREADABLE where it cannot be opened; read once, in several threads."""
        if self._hashes is None:
            paths = [file.path for file in self._files]
            self._hashes = tuple(map_in_threads(_sha256_or_marker, paths, self._hash_reporter()))
        return self._hashes

    def _label_text(self, file: ImageFile) -> str:
        """What the fingerprint says of the label, on one line."""
        return "" if file.label is None else self.classes[file.label]

    def _hash_reporter(self) -> Callable[[int], None]:
        """Tells `on_hash` every HASH_REPORT_S, and at the end where it was told before."""
        total, begun = len(self), time.monotonic()
        last = begun

        def report(done: int) -> None:
            nonlocal last
            now = time.monotonic()
            if self.on_hash is not None and (now - last >= HASH_REPORT_S or (done == total and last > begun)):
                last = now
                self.on_hash(done, total)

        return report


def open_folder(folder: Path) -> DataSpec:
    """The train and test splits of an image folder.

    Class names are the folder names in the order of their code points. Without train/ and val|test/ folders an image
    is test where the sha256 of its id falls into the lowest fifth, so adding images moves none to the other side.
    Raises EmptyDataError where there is no folder or no image, ClassMismatchError where the classes are unclear.
    """
    if not folder.is_dir():
        raise EmptyDataError(f"{folder} must be a folder of images", got=_what_is(folder), do=f"expected {LAYOUTS}")
    name = one_line(folder.resolve().name) or "images"
    test = next((folder / t for t in TESTS if (folder / t).is_dir()), None)
    if (folder / TRAIN).is_dir() and test is not None:
        return _two_folders(name, folder, test)
    folders = sorted(p.name for p in _visible(folder) if p.is_dir())
    if folders and set(folders) <= {TRAIN, *TESTS}:
        raise EmptyDataError(
            f"{folder} must hold train/ and one of {', '.join(TESTS)}",
            got=f"only {', '.join(folders)}",
            do=f"add the other one, or give {folder / folders[0]}, which is then split",
        )
    return _split_by_hash(name, *_scan(folder, folder))


def _two_folders(name: str, root: Path, test: Path) -> DataSpec:
    classes, train_files = _scan(root / TRAIN, root)
    test_classes, test_files = _scan(test, root)
    unknown = sorted(set(test_classes) - set(classes))
    if unknown or bool(classes) != bool(test_classes):
        raise ClassMismatchError(
            f"{test} must have the class folders of {root / TRAIN} ({len(classes)})",
            got=f"{len(test_classes)} class folders, unknown: {', '.join(unknown[:5]) or 'none'}",
            do="sort the images of both into the same class folders, or into none",
        )
    places = [classes.index(c) for c in test_classes]
    test_files = [ImageFile(f.id, f.path, None if f.label is None else places[f.label]) for f in test_files]
    return DataSpec(name, FolderSet(name, "train", classes, train_files), FolderSet(name, "test", classes, test_files))


def _split_by_hash(name: str, classes: tuple[str, ...], files: list[ImageFile]) -> DataSpec:
    train, test = split_files(files)
    return DataSpec(name, FolderSet(name, "train", classes, train), FolderSet(name, "test", classes, test))


def split_files(files: Sequence[ImageFile]) -> tuple[list[ImageFile], list[ImageFile]]:
    """(train, test) by the sha256 of the ids; at least one image on each side where there are two or more."""
    ordered = sorted(files, key=lambda file: (_hash_of(file.id), file.id))
    border = int(TEST_SHARE * 2**256).to_bytes(32, "big")
    tests = sum(_hash_of(file.id) < border for file in ordered)
    if len(ordered) > 1:
        tests = min(max(tests, 1), len(ordered) - 1)
    test, train = ordered[:tests], ordered[tests:]
    if not train:  # a single image
        train, test = test, train
    return train, test


def _scan(folder: Path, root: Path) -> tuple[tuple[str, ...], list[ImageFile]]:
    """(class names, files) below `folder`; ids are relative to `root`. Class folders without images do not count."""
    loose = [p for p in _visible(folder) if p.suffix.lower() in SUFFIXES and not p.is_dir()]
    found = {one_line(p.name): list(images_below(p)) for p in _visible(folder) if p.is_dir()}
    classes = tuple(sorted(name for name, paths in found.items() if paths))
    if classes and loose:
        raise ClassMismatchError(
            f"{folder} must hold class folders or images, not both",
            got=f"{len(classes)} class folders and {len(loose)} images beside them ({one_line(loose[0].name)}, ...)",
            do="move the images into class folders, or elsewhere",
        )
    files = [_image_file(p, root, label) for label, name in enumerate(classes) for p in found[name]]
    files += [_image_file(p, root, None) for p in loose]
    if not files:
        kinds = " ".join(sorted(SUFFIXES))
        raise EmptyDataError(f"{folder} holds no images", do=f"expected {LAYOUTS}; files that count end in {kinds}")
    return classes, files


def _visible(folder: Path) -> list[Path]:
    return [p for p in folder.iterdir() if not p.name.startswith(".")]


def images_below(folder: Path) -> Iterator[Path]:
    """Image files at any depth, hidden ones and linked folders left out."""
    for place, folders, names in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith(".")]
        yield from (Path(place, n) for n in names if not n.startswith(".") and Path(n).suffix.lower() in SUFFIXES)


def _image_file(path: Path, root: Path, label: int | None) -> ImageFile:
    return ImageFile(one_line(path.relative_to(root).as_posix()), path, label)


def one_line(name: str) -> str:
    """The name with backslashes and everything unprintable escaped; different names stay different."""
    return "".join(c if c.isprintable() and c != "\\" else f"\\u{ord(c):06x}" for c in name)


def _hash_of(image_id: str) -> bytes:
    return hashlib.sha256(image_id.encode()).digest()


def _sha256_or_marker(path: Path) -> str:
    try:
        return _file_sha256(path)
    except UnreadableImageError:
        return UNREADABLE


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        if not path.is_file():
            raise UnreadableImageError(f"{path} cannot be read", got="no regular file")
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise UnreadableImageError(f"{path} cannot be read", got=str(error)) from error
    return digest.hexdigest()


def _what_is(path: Path) -> str:
    return "a file" if path.exists() else "nothing there"
