"""Batches of a set, ready for the model; unreadable images are counted and left out."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpusq.data.array_set import ArraySet
from gpusq.data.boxes import Boxes
from gpusq.data.imageset import DetectionSet, ImageSet, Pixels, UnreadableImageError
from gpusq.data.preprocess import Float32, Preprocess
from gpusq.data.threads import map_in_threads
from gpusq.errors import CorruptImagesError, DataError

TOLERANCE = 0.01
CACHE_BYTES = 512 << 20
NAMED_FILES = 5
ABSENT = -1


@dataclass(frozen=True)
class Batch:
    """Images in the order asked for, without the unreadable ones.

    pixel_values: float32 [B, C, H, W]. labels: int64 [B], None for images without labels and for detection. ids: B
    names. skipped: ids of the unreadable images that were asked for. targets: the boxes of the B images, crowds among
    them; None for classification and for images nobody has annotated. They are shares of the image, so they hold
    for the resized pixels: the resize takes each side by itself.
    """

    pixel_values: Float32
    labels: NDArray[np.int64] | None
    ids: tuple[str, ...]
    skipped: tuple[str, ...]
    targets: tuple[Boxes, ...] | None = None


class Loader:
    """Decodes, resizes and normalises. The same indices give the same batch, whatever was asked for before.

    tolerance: share of the whole set that may be unreadable before batch() raises CorruptImagesError.
    cache_bytes: decoded and resized uint8 images are kept up to this size, first come first kept.
    Several threads may call batch() at once.
    """

    def __init__(
        self,
        imageset: ImageSet,
        preprocess: Preprocess,
        tolerance: float = TOLERANCE,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        if not 0 <= tolerance <= 1:
            raise DataError("the tolerance is a share of the set", got=str(tolerance), do="give 0 to 1")
        self.imageset, self.preprocess, self.tolerance = imageset, preprocess, tolerance
        self._lock = threading.Lock()
        self._unreadable: dict[int, str] = {}
        self._whole = _whole_split(imageset, preprocess)
        self._cache = _Cache(0, (1, 1, 1), 0) if self._whole is not None else self._new_cache(cache_bytes)
        self._labels = self._all_labels()

    def _new_cache(self, cache_bytes: int) -> _Cache:
        grey = self.preprocess.channels == 1 or isinstance(self.imageset, ArraySet)
        return _Cache(len(self.imageset), (1 if grey else 3, *self.preprocess.size), cache_bytes)

    def _all_labels(self) -> NDArray[np.int64] | None:
        if not self.imageset.supervised or isinstance(self.imageset, DetectionSet):
            return None
        return np.array([self.imageset.label(i) for i in range(len(self.imageset))], np.int64)

    @property
    def unreadable(self) -> tuple[str, ...]:
        """Ids of the unreadable images met so far, in the order of the set."""
        with self._lock:
            return tuple(self.imageset.ids[i] for i in sorted(self._unreadable))

    def batch(self, indices: Sequence[int] | NDArray[np.integer]) -> Batch:
        """The images at `indices` (0 .. len - 1, repeats allowed).

        Raises CorruptImagesError where more of the set met so far is unreadable than the tolerance allows, and
        IndexError for an index outside the set.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        if wanted.size and not (wanted.min() >= 0 and wanted.max() < len(self.imageset)):
            raise IndexError(f"indices must be 0 to {len(self.imageset) - 1}, got {wanted.min()} to {wanted.max()}")
        if self._whole is not None:
            return self._pack(self._whole[wanted], wanted, ())
        pixels = self._pixels(wanted)
        kept = np.array([i for i in wanted if int(i) in pixels], np.int64)
        skipped = tuple(self.imageset.ids[i] for i in wanted if int(i) not in pixels)
        empty = np.empty((0, *self._cache.shape), np.uint8)
        return self._pack(np.stack([pixels[int(i)] for i in kept]) if len(kept) else empty, kept, skipped)

    def arrays(self, limit: int | None = None) -> Batch:
        """The first `limit` images of the set (None: all of it) as one batch."""
        return self.batch(range(min(len(self.imageset), len(self.imageset) if limit is None else limit)))

    def _pack(self, pixels: Pixels, kept: NDArray[np.int64], skipped: tuple[str, ...]) -> Batch:
        labels = None if self._labels is None else self._labels[kept]
        ids = tuple(self.imageset.ids[i] for i in kept.tolist())
        return Batch(self.preprocess.normalised(pixels), labels, ids, skipped, self._targets(kept))

    def _targets(self, kept: NDArray[np.int64]) -> tuple[Boxes, ...] | None:
        if not self.imageset.supervised or not isinstance(self.imageset, DetectionSet):
            return None
        return tuple(self.imageset.boxes(i) for i in kept.tolist())

    def _pixels(self, wanted: NDArray[np.int64]) -> dict[int, Pixels]:
        """Index -> uint8 [c, H, W] for the readable images; c is 1 where all images are grey."""
        unique = [int(i) for i in np.unique(wanted)]
        with self._lock:
            known = {i: found for i in unique if (found := self._cache.get(i)) is not None}
            missing = [i for i in unique if i not in known and i not in self._unreadable]
        decoded = map_in_threads(self._decode, missing)  # outside the lock: two threads may decode the same image
        with self._lock:
            for i, image in zip(missing, decoded, strict=True):
                if isinstance(image, str):
                    self._unreadable[i] = image
                else:
                    known[i] = image
                    self._cache.put(i, image)
            self._check_tolerance()
        return known

    def _decode(self, index: int) -> Pixels | str:
        """The resized image, or why there is none."""
        if isinstance(self.imageset, ArraySet):
            return self.preprocess.resized(self.imageset.grey_pixels[index])
        try:
            return self.preprocess.resized(self.imageset.image(index))
        except UnreadableImageError as error:
            return str(error)

    def _check_tolerance(self) -> None:
        if len(self._unreadable) > self.tolerance * len(self.imageset):
            reasons = [reason for _, reason in sorted(self._unreadable.items())]
            raise CorruptImagesError(
                f"{self.imageset.name} {self.imageset.split}: at most {self.tolerance:.2%} of "
                f"{len(self.imageset)} images may be unreadable",
                got=f"{len(reasons)} so far: {'; '.join(reasons[:NAMED_FILES])}",
                do="mend or remove these files",
            )


def _whole_split(imageset: ImageSet, preprocess: Preprocess) -> Pixels | None:
    """uint8 [N, 1, H, W] where the set lies in memory at the model's own size: nothing to decode, resize or cache."""
    if isinstance(imageset, ArraySet) and imageset.grey_pixels.shape[1:] == preprocess.size:
        return imageset.grey_pixels[:, None]
    return None


class _Cache:
    """Images of one shape in one array, filled in the order they come until the limit. Not locked.

    The array is reserved at once; the system gives it memory as it fills.
    """

    def __init__(self, count: int, shape: tuple[int, int, int], limit_bytes: int) -> None:
        self.shape = shape
        rows = min(count, limit_bytes // int(np.prod(shape)))
        self._images = np.empty((rows, *shape), np.uint8)
        self._row_of = np.full(count, ABSENT, np.int64)
        self._used = 0

    def get(self, index: int) -> Pixels | None:
        row = self._row_of[index]
        return None if row == ABSENT else self._images[row]

    def put(self, index: int, image: Pixels) -> None:
        if self._row_of[index] == ABSENT and self._used < len(self._images):
            self._images[self._used] = image
            self._row_of[index] = self._used
            self._used += 1
