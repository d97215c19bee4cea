"""Digits: 1,797 handwritten digits, 8x8, 10 classes, that ship inside scikit-learn.

Source: Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI machine learning repository.
"""

from __future__ import annotations

import numpy as np

from gpusq.data.array_set import ArraySet
from gpusq.data.imageset import DataSpec, order_by_hash
from gpusq.errors import MissingExtraError

NAME = "digits"
CLASSES = tuple("0123456789")
TEST_SHARE = 0.2
SPLIT_SEED = 0
BRIGHTEST = 16  # the files hold 0 .. 16


def open_digits() -> DataSpec:
    """Both splits; the last 20 % of a seeded order are test. Raises MissingExtraError without scikit-learn."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "host", "the digits data set") from error
    bunch = load_digits()
    pixels = np.round(bunch.images * (255 / BRIGHTEST)).astype(np.uint8)
    ids = [f"digit-{i:04d}" for i in range(len(pixels))]
    order = order_by_hash(ids, SPLIT_SEED)
    first_test = len(order) - round(len(order) * TEST_SHARE)

    def part(split: str, chosen: list[int]) -> ArraySet:
        return ArraySet(NAME, split, CLASSES, [ids[i] for i in chosen], pixels[chosen], bunch.target[chosen])

    return DataSpec(NAME, part("train", order[:first_test]), part("test", order[first_test:]))
