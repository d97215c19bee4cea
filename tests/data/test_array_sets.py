"""Sets in memory: ArraySet, Fashion-MNIST's idx files and digits."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpusq.data import ArraySet, fashion_mnist, open_data
from gpusq.data.fashion_mnist import read_idx
from gpusq.data.imageset import fingerprint_of, order_by_hash
from gpusq.errors import DataError, EmptyDataError
from tests.data.picture_samples import array_set

COUNTS = {"train": 12, "t10k": 5}


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x800 | array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def clothes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder laid out like Fashion-MNIST with very few images; nothing else is found."""
    rng = np.random.default_rng(0)
    for prefix, count in COUNTS.items():
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (tmp_path / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(images), 1))
        labels = (np.arange(count) % 10).astype(np.uint8)
        (tmp_path / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(labels), 1))
    monkeypatch.setattr(fashion_mnist, "COUNTS", COUNTS)
    monkeypatch.setattr(fashion_mnist, "FOLDERS", ())
    monkeypatch.delenv(fashion_mnist.VARIABLE, raising=False)
    return tmp_path


# ---- ArraySet ----


def test_images_are_rgb_with_equal_channels() -> None:
    images = array_set()
    image = images.image(3)
    assert image.shape == (6, 6, 3)
    assert image.dtype == np.uint8
    assert (image == images.grey_pixels[3][:, :, None]).all()


def test_pixels_cannot_be_changed_by_accident() -> None:
    with pytest.raises(ValueError, match="read-only"):
        array_set().grey_pixels[0, 0, 0] = 1


@pytest.mark.parametrize("change", ["pixel", "label", "id", "class"])
def test_the_fingerprint_sees_each_change(change: str) -> None:
    base = array_set()
    pixels, labels = base.grey_pixels.copy(), np.array([base.label(i) for i in range(len(base))])
    ids, classes = list(base.ids), list(base.classes)
    if change == "pixel":
        pixels[49, 5, 5] ^= 1
    elif change == "label":
        labels[7] = (labels[7] + 1) % 4
    elif change == "id":
        ids[0] = "other"
    else:
        classes[1] = "other"
    changed = ArraySet(base.name, base.split, tuple(classes), ids, pixels, labels)
    assert changed.fingerprint() != base.fingerprint()
    assert array_set().fingerprint() == base.fingerprint()


@pytest.mark.parametrize(
    ("pixels", "labels", "ids"),
    [
        (np.zeros((2, 4, 4), np.float32), np.zeros(2, int), ["a", "b"]),
        (np.zeros((2, 4), np.uint8), np.zeros(2, int), ["a", "b"]),
        (np.zeros((2, 4, 4), np.uint8), np.zeros(3, int), ["a", "b"]),
        (np.zeros((2, 4, 4), np.uint8), np.zeros(2, int), ["a", "a"]),
        (np.zeros((2, 4, 4), np.uint8), np.array([0, 2]), ["a", "b"]),
        (np.zeros((2, 4, 4), np.uint8), np.array([-1, 0]), ["a", "b"]),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(pixels: np.ndarray, labels: np.ndarray, ids: list[str]) -> None:
    with pytest.raises(DataError, match=r"^set: "):
        ArraySet("set", "train", ("x", "y"), ids, pixels, labels)


entries = st.lists(st.tuples(st.text(max_size=5), st.text("0123456789abcdef", max_size=4), st.sampled_from("ab")))


@given(entries, st.randoms(use_true_random=False))
def test_the_fingerprint_does_not_depend_on_the_order(listed: list[tuple[str, str, str]], random: object) -> None:
    shuffled = list(listed)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert fingerprint_of(shuffled, "ab") == fingerprint_of(listed, "ab")


def test_the_fingerprint_sees_the_classes_and_their_order() -> None:
    listed = [("image", "0" * 64, "b")]
    assert len({fingerprint_of(listed, classes) for classes in (("a", "b"), ("b", "c"), ("b", "a"), ("b",))}) == 4


@given(st.sets(st.text(max_size=8)), st.integers())
def test_order_by_hash_is_a_permutation_set_by_the_ids_alone(ids: set[str], seed: int) -> None:
    listed = sorted(ids)
    order = order_by_hash(listed, seed)
    assert sorted(order) == list(range(len(listed)))
    backwards = listed[::-1]
    assert [backwards[i] for i in order_by_hash(backwards, seed)] == [listed[i] for i in order]


# ---- Fashion-MNIST ----


def test_fashion_mnist_is_read_from_a_named_folder(clothes: Path) -> None:
    data = open_data(f"fashion-mnist:{clothes}")
    assert (data.train.split, data.test.split) == ("train", "test")
    assert (len(data.train), len(data.test)) == (12, 5)
    assert data.train.classes[data.train.label(9) or 0] == "Ankle boot"
    assert data.train.image(0).shape == (28, 28, 3)
    assert set(data.train.ids).isdisjoint(data.test.ids)


def test_fashion_mnist_is_found_where_the_variable_says(clothes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fashion_mnist.VARIABLE, str(clothes))
    assert len(open_data("fashion-mnist").train) == 12


def test_fashion_mnist_is_found_in_the_first_known_folder(clothes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_mnist, "FOLDERS", (clothes / "absent", clothes))
    assert len(open_data("fashion-mnist").test) == 5


def test_a_variable_that_leads_nowhere_is_not_passed_over(clothes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_mnist, "FOLDERS", (clothes,))
    monkeypatch.setenv(fashion_mnist.VARIABLE, str(clothes / "absent"))
    with pytest.raises(EmptyDataError, match="absent"):
        open_data("fashion-mnist")


def test_absent_fashion_mnist_says_how_to_get_it(clothes: Path) -> None:
    with pytest.raises(EmptyDataError, match=r"apt-get install dataset-fashion-mnist, or give fashion-mnist:DIR"):
        open_data("fashion-mnist")


def test_plain_idx_files_give_the_same_set(clothes: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    plain = tmp_path_factory.mktemp("plain")
    for packed in clothes.iterdir():
        (plain / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
    a, b = open_data(f"fashion-mnist:{clothes}"), open_data(f"fashion-mnist:{plain}")
    assert a.train.fingerprint() == b.train.fingerprint()
    assert a.train.fingerprint() != a.test.fingerprint()


def test_labels_outside_the_classes_are_refused(clothes: Path) -> None:
    labels = idx_bytes(np.full(5, 10, np.uint8))
    (clothes / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    with pytest.raises(DataError, match="labels must be 0 to 9"):
        open_data(f"fashion-mnist:{clothes}")


good = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        idx_bytes(good)[:-1],
        idx_bytes(good) + b"\0",
        idx_bytes(good.reshape(3, 2, 4)),
        idx_bytes(good.reshape(2, 12)),
        b"\0\0\x0d\3" + idx_bytes(good)[4:],
        b"not idx at all, but long enough to hold a header",
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_of_another_layout_are_refused(tmp_path: Path, damage: bytes, suffix: str) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(gzip.compress(damage) if suffix else damage)
    with pytest.raises(DataError, match="expected"):
        read_idx(path, (2, 3, 4))


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.99])
def test_torn_gzip_files_are_refused(tmp_path: Path, keep: float) -> None:
    packed = gzip.compress(idx_bytes(np.random.default_rng(0).integers(0, 256, (9, 9, 9), dtype=np.uint8)))
    path = tmp_path / "file.gz"
    path.write_bytes(packed[: int(len(packed) * keep)])
    with pytest.raises(DataError, match="idx"):
        read_idx(path, (9, 9, 9))


def test_a_gzip_file_that_unpacks_to_far_more_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "file.gz"
    path.write_bytes(gzip.compress(idx_bytes(good) + bytes(1 << 24)))
    with pytest.raises(DataError, match="expected 40 bytes after unpacking; got more"):
        read_idx(path, good.shape)


def test_idx_files_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(idx_bytes(good))
    assert (read_idx(path, good.shape) == good).all()


# ---- digits ----


def test_digits_are_split_once_and_for_all() -> None:
    data = open_data("digits")
    assert (len(data.train), len(data.test)) == (1438, 359)
    assert set(data.train.ids).isdisjoint(data.test.ids)
    assert data.train.classes == tuple("0123456789")
    assert {data.test.label(i) for i in range(len(data.test))} == set(range(10))
    assert data.train.fingerprint().startswith("225ff572944d07b2")


def test_digits_use_the_whole_range_of_grey() -> None:
    image = open_data("digits").train.image(0)
    assert image.shape == (8, 8, 3)
    assert image.max() == 255
    assert image.min() == 0
