"""Batches: right images, right labels, the same every time, and a count of what could not be read."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpusq.data import Batch, DataSpec, FolderSet, Loader, Preprocess, UnreadableImageError, open_data
from gpusq.errors import CorruptImagesError, DataError
from tests.data.picture_samples import array_set, class_folders, photo, save

GREY = Preprocess((6, 6), 1, (0.5,), (0.5,))
COLOUR = Preprocess((8, 8), 3, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))


@pytest.fixture
def pets(tmp_path: Path) -> DataSpec:
    for split, each in (("train", 60), ("val", 2)):
        class_folders(tmp_path / split, each=each)
    return open_data(str(tmp_path))


def spoil(folder: Path, count: int) -> list[str]:
    """Break `count` training images; returns their ids."""
    paths = sorted((folder / "train").rglob("*.png"))[:count]
    for path in paths:
        path.write_bytes(b"")
    return [path.relative_to(folder).as_posix() for path in paths]


def same(a: Batch, b: Batch) -> bool:
    assert a.labels is not None
    assert b.labels is not None
    pixels = np.array_equal(a.pixel_values, b.pixel_values)
    return pixels and np.array_equal(a.labels, b.labels) and (a.ids, a.skipped) == (b.ids, b.skipped)


# ---- what a batch holds ----


@pytest.mark.parametrize("preprocess", [GREY, COLOUR, Preprocess((6, 6), 3, (0.5,) * 3, (0.5,) * 3)])
def test_batches_of_arrays_hold_what_one_image_at_a_time_gives(preprocess: Preprocess) -> None:
    images = array_set()
    wanted = [7, 0, 49, 7, 3]
    batch = Loader(images, preprocess).batch(wanted)
    assert (batch.pixel_values == np.stack([preprocess(images.image(i)) for i in wanted])).all()
    assert batch.pixel_values.dtype == np.float32
    assert batch.labels is not None
    assert batch.labels.dtype == np.int64
    assert batch.labels.tolist() == [images.label(i) for i in wanted]
    assert batch.ids == tuple(images.ids[i] for i in wanted)
    assert batch.skipped == ()


@pytest.mark.parametrize("preprocess", [GREY, COLOUR])
def test_batches_of_files_hold_what_one_image_at_a_time_gives(pets: DataSpec, preprocess: Preprocess) -> None:
    images = pets.train
    wanted = range(100, 80, -2)
    batch = Loader(images, preprocess).batch(wanted)
    assert (batch.pixel_values == np.stack([preprocess(images.image(i)) for i in wanted])).all()
    assert batch.ids == tuple(images.ids[i] for i in wanted)


def test_images_without_labels_give_none(tmp_path: Path) -> None:
    for i in range(6):
        save(tmp_path / f"{i}.png", photo(i))
    batch = Loader(open_data(str(tmp_path)).train, COLOUR).arrays()
    assert batch.labels is None
    assert batch.pixel_values.shape[1:] == (3, 8, 8)


@pytest.mark.parametrize("preprocess", [GREY, COLOUR])
def test_an_empty_batch_keeps_the_shape(preprocess: Preprocess) -> None:
    batch = Loader(array_set(), preprocess).batch([])
    assert batch.pixel_values.shape == (0, preprocess.channels, *preprocess.size)
    assert batch.ids == ()


def test_arrays_gives_the_first_images() -> None:
    loader = Loader(array_set(), GREY)
    assert same(loader.arrays(5), loader.batch(range(5)))
    assert len(loader.arrays(1000).ids) == len(loader.arrays().ids) == 50


@pytest.mark.parametrize("index", [-1, 50])
@pytest.mark.parametrize("preprocess", [GREY, COLOUR])
def test_indices_outside_the_set_are_refused(index: int, preprocess: Preprocess) -> None:
    with pytest.raises(IndexError, match="0 to 49"):
        Loader(array_set(), preprocess).batch([0, index])


def test_a_batch_may_be_changed_without_changing_the_next(pets: DataSpec) -> None:
    for loader in (Loader(array_set(), GREY), Loader(array_set(), COLOUR), Loader(pets.train, COLOUR)):
        before = loader.batch([1, 2]).pixel_values.copy()
        loader.batch([1, 2]).pixel_values[...] = 9
        assert (loader.batch([1, 2]).pixel_values == before).all()


# ---- the cache ----


@given(st.lists(st.lists(st.integers(0, 49), max_size=12), max_size=5), st.sampled_from([0, 400, 2000, 1 << 20]))
def test_the_cache_changes_no_batch(batches: list[list[int]], cache_bytes: int) -> None:
    images, loader = array_set(), Loader(array_set(), COLOUR, cache_bytes=cache_bytes)
    for wanted in batches:
        expected = [COLOUR(images.image(i)) for i in wanted]
        assert loader.batch(wanted).pixel_values.tolist() == [e.tolist() for e in expected]


def test_cached_images_are_decoded_once(pets: DataSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    image = FolderSet.image

    def counted(self: FolderSet, index: int) -> np.ndarray:
        decoded.append(index)
        return image(self, index)

    monkeypatch.setattr(FolderSet, "image", counted)
    roomy = Loader(pets.train, COLOUR)
    tight = Loader(pets.train, COLOUR, cache_bytes=3 * 3 * 8 * 8)  # room for three images
    for loader, expected in ((roomy, 10), (tight, 10 + 7)):
        decoded.clear()
        for _ in range(2):
            loader.batch(range(10))
        assert len(decoded) == expected


def test_threads_get_the_same_batches(pets: DataSpec) -> None:
    wanted = [np.random.default_rng(seed).integers(0, 120, 20) for seed in range(24)]
    expected = [Loader(pets.train, COLOUR, cache_bytes=5000).batch(w) for w in wanted]
    shared = Loader(pets.train, COLOUR, cache_bytes=5000)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(shared.batch, wanted))
    assert all(same(a, b) for a, b in zip(found, expected, strict=True))


# ---- unreadable images ----


def test_a_few_unreadable_images_are_left_out_and_counted(pets: DataSpec, tmp_path: Path) -> None:
    (broken,) = spoil(tmp_path, 1)  # of 120: within 1 %
    loader = Loader(pets.train, COLOUR)
    for _ in range(2):  # decoded, then from memory
        batch = loader.arrays()
        assert batch.skipped == (broken,)
        assert broken not in batch.ids
        assert len(batch.ids) == len(batch.pixel_values) == 119
        labels = [pets.train.classes.index(i.split("/")[1]) for i in batch.ids]
        assert batch.labels is not None
        assert batch.labels.tolist() == labels
    assert loader.unreadable == (broken,)


def test_a_batch_of_unreadable_images_alone_is_empty(pets: DataSpec, tmp_path: Path) -> None:
    (broken,) = spoil(tmp_path, 1)
    batch = Loader(pets.train, COLOUR).batch([pets.train.ids.index(broken)])
    assert batch.pixel_values.shape == (0, 3, 8, 8)
    assert (batch.ids, batch.skipped) == ((), (broken,))


def test_past_the_tolerance_up_to_five_files_are_named(pets: DataSpec, tmp_path: Path) -> None:
    spoil(tmp_path, 8)
    loader = Loader(pets.train, COLOUR, tolerance=0.05)
    for _ in range(2):  # asking again does not make it pass
        with pytest.raises(CorruptImagesError, match=r"at most 5\.00% of 120") as caught:
            loader.arrays()
        assert caught.value.got.startswith("8 so far: ")
        assert caught.value.got.count(".png cannot be read") == 5
        assert caught.value.do


def test_unreadable_images_add_up_over_batches(pets: DataSpec, tmp_path: Path) -> None:
    broken = spoil(tmp_path, 2)  # 1.7 %
    loader = Loader(pets.train, COLOUR)
    first, second = (pets.train.ids.index(i) for i in broken)
    assert loader.batch([first, first]).skipped == (broken[0], broken[0])
    with pytest.raises(CorruptImagesError):
        loader.batch([second])


@pytest.mark.parametrize(("tolerance", "passes"), [(0.0, False), (2 / 120, True), (1.0, True)])
def test_the_tolerance_is_a_share_of_the_whole_set(
    pets: DataSpec, tmp_path: Path, tolerance: float, passes: bool
) -> None:
    spoil(tmp_path, 2)
    loader = Loader(pets.train, COLOUR, tolerance=tolerance)
    if passes:
        assert len(loader.arrays().skipped) == 2
    else:
        with pytest.raises(CorruptImagesError):
            loader.arrays()


@pytest.mark.parametrize("tolerance", [-0.1, 1.1, float("nan")])
def test_a_tolerance_that_is_no_share_is_refused(tolerance: float) -> None:
    with pytest.raises(DataError, match="share"):
        Loader(array_set(), GREY, tolerance=tolerance)


def test_other_errors_are_not_taken_for_unreadable_images() -> None:
    class Failing(FolderSet):
        def image(self, index: int) -> np.ndarray:
            raise ZeroDivisionError

    images = Failing("set", "train", (), [])
    images.ids = ("a",)  # type: ignore[assignment]
    images._files = [None]  # type: ignore[list-item]
    with pytest.raises(ZeroDivisionError):
        Loader(images, COLOUR).batch([0])


def test_sets_of_other_makers_work() -> None:
    class Two:
        name, split, classes, supervised, ids = "two", "test", ("x",), True, ("a", "b")

        def __len__(self) -> int:
            return 2

        def label(self, index: int) -> int:
            return 0

        def image(self, index: int) -> np.ndarray:
            if index:
                raise UnreadableImageError("b cannot be read")
            return photo(0)

        def content_sha256(self, index: int) -> str:
            return "0" * 64

        def fingerprint(self) -> str:
            return "0" * 64

        def __iter__(self) -> Iterator[int]:
            return iter(())

    batch = Loader(Two(), COLOUR, tolerance=0.5).arrays()
    assert (batch.ids, batch.skipped) == (("a",), ("b",))
