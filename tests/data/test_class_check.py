"""The head of the model against the classes of the images."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpusq.data import class_check, open_data
from gpusq.errors import ClassMismatchError
from tests.data.picture_samples import array_set, photo, save

IMAGES = array_set(classes=4)
NAMES = IMAGES.classes


@pytest.mark.parametrize(
    "head", [NAMES, ("LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"), tuple("0123"), ("eins", "zwei", "drei", "vier")]
)
def test_the_same_names_and_names_that_cannot_be_compared_pass(head: tuple[str, ...]) -> None:
    class_check(IMAGES, head)


@pytest.mark.parametrize("count", [0, 3, 5, 1000])
def test_another_count_is_refused_with_both(count: int) -> None:
    with pytest.raises(ClassMismatchError, match=f"squares has 4 classes and the model's head {count}; give images in"):
        class_check(IMAGES, [str(i) for i in range(count)])


def test_another_order_is_refused_with_the_first_place() -> None:
    with pytest.raises(ClassMismatchError, match="class 1 is 'class-1' in the images and 'class-2' in the model"):
        class_check(IMAGES, (NAMES[0], NAMES[2], NAMES[1], NAMES[3]))


def test_names_that_overlap_in_part_are_refused_with_both_sides() -> None:
    with pytest.raises(ClassMismatchError, match="'class-3' in the images only, 'bird' in the model only"):
        class_check(IMAGES, (*NAMES[:3], "bird"))


def test_long_lists_are_cut() -> None:
    many = array_set(classes=40)
    with pytest.raises(ClassMismatchError, match="and 34 more in the images only"):
        class_check(many, ("class-0", *(f"other-{i}" for i in range(39))))


def test_images_without_labels_pass(tmp_path: Path) -> None:
    save(tmp_path / "x.png", photo(0))
    class_check(open_data(str(tmp_path)).train, NAMES)
