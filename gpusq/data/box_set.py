"""Images in files with boxes around the objects on them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from gpusq.data.annotation import Findings
from gpusq.data.boxes import Boxes
from gpusq.data.folder import UNREADABLE, FolderSet, ImageFile
from gpusq.data.imageset import ImageSet, Pixels, Task, UnreadableImageError


class BoxSet(FolderSet):
    """One split of a detection set, in the order of the ids' sha256.

    boxes_of: image id -> its Boxes; an image without objects has empty ones. None: images nobody has looked at.
    findings: what reading the annotations met, the same for splits of one file. Sizes may differ from image to image.
    """

    task: Task = "detection"

    def __init__(
        self,
        name: str,
        split: str,
        classes: tuple[str, ...],
        files: Sequence[ImageFile],
        boxes_of: Mapping[str, Boxes] | None,
        findings: Findings,
    ) -> None:
        super().__init__(name, split, classes, files)
        self.supervised = boxes_of is not None
        self.findings = findings
        self._boxes = boxes_of or {}

    def label(self, index: int) -> None:
        """Always None: the labels of a detection set are its boxes."""

    def boxes(self, index: int) -> Boxes:
        """The objects of image `index`, as copies; crowds among them. None at all where the set is not supervised.

        Raises UnreadableImageError for unlabelled images that cannot be read, since their size is not known.
        """
        known = self._boxes.get(self.ids[index])
        if known is None:
            from gpusq.data.boxes import no_boxes

            height, width, _ = super().image(index).shape
            return no_boxes((height, width))
        return known.copy()

    def image(self, index: int) -> Pixels:
        """RGB uint8 [H, W, 3]. Raises UnreadableImageError, also where the size is not the one annotated."""
        pixels = super().image(index)
        known = self._boxes.get(self.ids[index])
        if known is not None and pixels.shape[:2] != known.size:
            raise UnreadableImageError(
                f"{self._files[index].path}: its annotations are for {_by(known.size)} pixels",
                got=f"a picture of {_by(pixels.shape[:2])}, upright",
            )
        return pixels

    def _label_text(self, file: ImageFile) -> str:
        boxes = self._boxes.get(file.id)
        return "" if boxes is None else _digest(boxes)


def annotation_notes(splits: Iterable[ImageSet]) -> list[str]:
    """What a report's reader must know of the data: odd boxes with their counts, test images that are training images.

    Splits that were read from one file share the counts of boxes that training sees otherwise than annotated, and one
    line.
    """
    splits = list(splits)
    return [*_odd_boxes(splits), *_shared_images(splits)]


def _shared_images(splits: Sequence[ImageSet]) -> list[str]:
    """A line where files of the test split are, byte for byte, files of the training split."""
    files = {s.split: s.content_hashes() for s in splits if isinstance(s, FolderSet)}
    train, test = set(files.get("train", ())) - {UNREADABLE}, files.get("test", ())
    if not (shared := sum(x in train for x in test)):
        return []
    return [
        f"{shared} of {len(test)} test images are, byte for byte, training images too: what is measured on them says "
        "little of new images"
    ]


def _odd_boxes(splits: Sequence[ImageSet]) -> list[str]:
    groups: dict[int, list[BoxSet]] = {}
    for split in splits:
        if isinstance(split, BoxSet):
            groups.setdefault(id(split.findings), []).append(split)
    return [
        f"annotations of {' and '.join(dict.fromkeys(s.split for s in group))}: "
        f"of {group[0].findings.boxes} boxes {'; '.join(deviations)}"
        for group in groups.values()
        if (deviations := group[0].findings.deviations())
    ]


def _by(size: tuple[int, ...]) -> str:
    return f"{size[1]}x{size[0]}"


def _digest(boxes: Boxes) -> str:
    """Hex sha256 over everything that is known of one image's objects, the same on every machine."""
    digest = hashlib.sha256(repr(tuple(boxes.size)).encode())
    for values, kind in ((boxes.boxes, "<f4"), (boxes.classes, "<i8"), (boxes.crowd, "|b1"), (boxes.area, "<f4")):
        digest.update(values.astype(kind).tobytes())
    return digest.hexdigest()
