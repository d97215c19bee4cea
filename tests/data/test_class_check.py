"""The head of the model against the classes of the images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpusq.data import DetectionSet, ImageSet, class_check, open_data, task_of
from gpusq.data.classes import in_model_classes, output_of_class
from gpusq.errors import ClassMismatchError
from tests.data.box_samples import coco_folder
from tests.data.picture_samples import array_set, photo, save

IMAGES = array_set(classes=4)
NAMES = IMAGES.classes


@pytest.mark.parametrize(
    "head", [NAMES, ("LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"), tuple("0123"), ("N/A", "1", "LABEL_2", "")]
)
def test_the_same_names_and_names_that_stand_for_nothing_pass(head: tuple[str, ...]) -> None:
    class_check(IMAGES, head)


def test_other_names_are_refused_with_both_lists() -> None:
    with pytest.raises(ClassMismatchError) as caught:
        class_check(IMAGES, ("eins", "zwei", "drei", "vier"))
    assert "'class-0', 'class-1', 'class-2', 'class-3' in the images only" in str(caught.value)
    assert "'drei', 'eins', 'vier', 'zwei' in the model only" in str(caught.value)


@pytest.mark.parametrize("names", [("n01440764", "n01443537"), ("0", "7")])
def test_folders_named_by_numbers_or_wordnet_are_compared_by_their_count(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    for name in names:
        (tmp_path / name).mkdir()
        for i in range(3):
            save(tmp_path / name / f"{i}.png", photo(i))
    images = open_data(str(tmp_path)).train
    class_check(images, ("tench, Tinca tinca", "goldfish, Carassius auratus"))
    with pytest.raises(ClassMismatchError, match=f"'{names[0]}', '{names[1]}' in the images, 'tench' in the model"):
        class_check(images, ("tench",))


@pytest.mark.parametrize("count", [0, 3, 5, 1000])
def test_another_count_is_refused_with_both(count: int) -> None:
    with pytest.raises(
        ClassMismatchError, match=f"squares has 4 classes and the model's head {count}; got .* give images in"
    ) as caught:
        class_check(IMAGES, [str(i) for i in range(count)])
    assert "`gpusq intake --classes 4` makes a fresh head" in caught.value.do


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


GAPS = ("N/A", "cat", "LABEL_2", "dog", "", "5")


@pytest.fixture
def annotated(tmp_path: Path) -> ImageSet:
    return open_data(f"coco:{coco_folder(tmp_path / 'set')}").train


def test_each_class_of_a_head_with_gaps_is_found_by_its_name(annotated: ImageSet) -> None:
    assert annotated.classes == ("cat", "dog")
    assert output_of_class(annotated, GAPS) == (1, 3)
    assert output_of_class(annotated, ("dog", "n/a", "cat")) == (2, 0)
    assert output_of_class(annotated, ("__background__", "cat", "dog")) == (1, 2)


@pytest.mark.parametrize(
    "head",
    [
        ("cat", "dog"),  # no gaps: the classes must be the same anyway
        ("N/A", "cat", "bird"),
        ("N/A", "cat", "dog", "bird"),  # nobody annotated birds: a detector would unlearn them
        ("N/A", "cat", "dog", "cat"),
        ("0", "1", "2"),
        ("N/A", "Cat", "dog"),
        (),
    ],
)
def test_no_other_head_has_gaps(annotated: ImageSet, head: tuple[str, ...]) -> None:
    assert output_of_class(annotated, head) is None
    assert in_model_classes(annotated, head) is annotated


def test_class_folders_are_never_renumbered() -> None:
    assert output_of_class(IMAGES, (*NAMES, "N/A")) is None


def test_a_renumbered_set_is_the_same_but_for_its_numbers(annotated: ImageSet) -> None:
    found = in_model_classes(annotated, GAPS)
    assert isinstance(found, DetectionSet)
    assert isinstance(annotated, DetectionSet)
    assert (found.ids, found.supervised, found.classes, task_of(found)) == (annotated.ids, True, GAPS, "detection")
    assert found.fingerprint() != annotated.fingerprint()
    assert len(found) == len(annotated)
    for i in range(len(found)):
        mine, theirs = found.boxes(i), annotated.boxes(i)
        assert mine.classes.tolist() == [(1, 3)[c] for c in theirs.classes]
        assert np.array_equal(mine.boxes, theirs.boxes)
        assert np.array_equal(found.image(i), annotated.image(i))
        assert found.content_sha256(i) == annotated.content_sha256(i)
        assert found.label(i) is None
