"""Image folders: which layouts are understood, how they are split, what the fingerprint covers."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpusq.data import DataSpec, FolderSet, folder, open_data
from gpusq.data.folder import TEST_SHARE, one_line, open_folder
from gpusq.errors import ClassMismatchError, EmptyDataError
from tests.data.picture_samples import class_folders, photo, save


def ids_of(data: DataSpec) -> set[str]:
    return {*data.train.ids, *data.test.ids}


# ---- layouts ----


@pytest.mark.parametrize("second", ["val", "valid", "validation", "test"])
def test_train_and_test_folders(tmp_path: Path, second: str) -> None:
    class_folders(tmp_path / "train", ("a", "b", "c"), each=3)
    class_folders(tmp_path / second, ("a", "b", "c"), each=2)
    data = open_folder(tmp_path)
    assert (len(data.train), len(data.test)) == (9, 6)
    assert data.train.classes == data.test.classes == ("a", "b", "c")
    assert all(i.startswith("train/") for i in data.train.ids)
    assert all(i.startswith(f"{second}/") for i in data.test.ids)
    for images in (data.train, data.test):
        assert images.supervised
        assert all(images.ids[i].split("/")[1] == images.classes[images.label(i) or 0] for i in range(len(images)))


def test_a_class_without_test_images_keeps_the_labels_right(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", ("a", "b", "c"), each=2)
    class_folders(tmp_path / "val", ("c",), each=2)
    test = open_folder(tmp_path).test
    assert test.classes == ("a", "b", "c")
    assert {test.label(i) for i in range(len(test))} == {2}


def test_class_folders_alone_are_split_by_the_ids(tmp_path: Path) -> None:
    data = open_folder(class_folders(tmp_path, each=150))
    assert set(data.train.ids).isdisjoint(data.test.ids)
    assert len(ids_of(data)) == 300
    assert 0.14 < len(data.test) / 300 < 0.26
    assert all(data.test.ids[i].startswith(data.test.classes[data.test.label(i) or 0]) for i in range(len(data.test)))


def test_more_images_move_none_to_the_other_side(tmp_path: Path) -> None:
    before = open_folder(class_folders(tmp_path, each=30))
    after = open_folder(class_folders(tmp_path, each=60))
    assert set(before.train.ids) < set(after.train.ids)
    assert set(before.test.ids) < set(after.test.ids)


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    for i in range(30):
        save(tmp_path / f"{i}.png", photo(i))
    data = open_folder(tmp_path)
    assert not data.train.supervised
    assert data.train.classes == ()
    assert data.train.label(0) is None
    assert len(data.train) + len(data.test) == 30
    assert len(data.test) > 0


def test_flat_train_and_test_folders_have_no_labels(tmp_path: Path) -> None:
    for i in range(4):
        save(tmp_path / "train" / f"{i}.png", photo(i))
        save(tmp_path / "val" / f"{i}.png", photo(10 + i))
    data = open_folder(tmp_path)
    assert (len(data.train), len(data.test)) == (4, 4)
    assert not data.test.supervised


@pytest.mark.parametrize(("count", "sizes"), [(1, (1, 0)), (2, (1, 1)), (3, None)])
def test_tiny_folders_keep_an_image_on_each_side(tmp_path: Path, count: int, sizes: tuple[int, int] | None) -> None:
    for i in range(count):
        save(tmp_path / f"{i}.png", photo(i))
    data = open_folder(tmp_path)
    found = (len(data.train), len(data.test))
    assert sum(found) == count
    assert found == (sizes or found)
    assert min(found) >= min(count - 1, 1)


def test_class_folders_may_have_folders_and_be_links(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere" / "deep" / "x.png", photo(0))
    save(tmp_path / "set" / "a" / "b" / "y.PNG", photo(1))
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "elsewhere")
    assert ids_of(open_folder(tmp_path / "set")) == {"a/b/y.PNG", "linked/deep/x.png"}


def test_circles_of_links_end(tmp_path: Path) -> None:
    save(tmp_path / "a" / "x.png", photo(0))
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    assert ids_of(open_folder(tmp_path)) == {"a/x.png"}


def test_hidden_files_and_other_kinds_are_left_out(tmp_path: Path) -> None:
    class_folders(tmp_path, each=3)
    save(tmp_path / ".cache" / "x.png", photo(0))
    save(tmp_path / "cat" / ".thumbs" / "x.png", photo(0))
    (tmp_path / "cat" / "._0001.png").write_bytes(b"resource fork")
    (tmp_path / "cat" / "labels.txt").write_text("cat")
    (tmp_path / "README.md").write_text("pets")
    (tmp_path / "empty").mkdir()
    data = open_folder(tmp_path)
    assert len(ids_of(data)) == 6
    assert data.train.classes == ("cat", "dog")


# ---- refusals ----


def test_an_empty_folder_is_refused_with_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no images")
    with pytest.raises(EmptyDataError, match=r"holds no images.*DIR/train/CLASS.*\.jpg"):
        open_folder(tmp_path)


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    with pytest.raises(EmptyDataError, match="a file"):
        open_data(str(save(tmp_path / "x.png", photo(0))))


@pytest.mark.parametrize("only", [("train",), ("val",), ("test", "val")])
def test_half_a_split_is_not_taken_for_a_class(tmp_path: Path, only: tuple[str, ...]) -> None:
    for name in only:
        class_folders(tmp_path / name, each=2)
    (tmp_path / "README.md").write_text("half")
    with pytest.raises(EmptyDataError, match="must hold train/ and one of"):
        open_folder(tmp_path)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    assert open_folder(class_folders(tmp_path, ("plane", "train"))).train.classes == ("plane", "train")


def test_test_classes_that_were_never_learnt_are_refused(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", ("a", "b"), each=2)
    class_folders(tmp_path / "val", ("a", "z"), each=2)
    with pytest.raises(ClassMismatchError, match="unknown: z"):
        open_folder(tmp_path)


def test_labels_on_one_side_only_are_refused(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", ("a", "b"), each=2)
    save(tmp_path / "val" / "x.png", photo(0))
    with pytest.raises(ClassMismatchError, match="0 class folders"):
        open_folder(tmp_path)


def test_images_beside_class_folders_are_refused(tmp_path: Path) -> None:
    save(class_folders(tmp_path, each=2) / "stray.png", photo(0))
    with pytest.raises(ClassMismatchError, match=r"stray\.png"):
        open_folder(tmp_path)


# ---- order and fingerprint ----


def test_the_order_of_the_directory_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_folders(tmp_path, ("a", "b", "c"), each=12)
    there = open_folder(tmp_path)
    listed, walk = Path.iterdir, os.walk

    def backwards(folder: Path) -> list[Path]:
        return sorted(listed(folder), reverse=True)

    monkeypatch.setattr(Path, "iterdir", backwards)
    monkeypatch.setattr(os, "walk", lambda top: ((p, d, sorted(f, reverse=True)) for p, d, f in walk(top)))
    back = open_folder(tmp_path)
    assert back.train.ids == there.train.ids
    assert back.test.fingerprint() == there.test.fingerprint()
    assert back.train.fingerprint() == there.train.fingerprint()


def test_the_first_images_are_not_all_of_one_class(tmp_path: Path) -> None:
    train = open_folder(class_folders(tmp_path, ("a", "b", "c"), each=40)).train
    assert {train.label(i) for i in range(20)} == {0, 1, 2}


def test_the_place_of_the_folder_does_not_matter(tmp_path: Path) -> None:
    here, there = (open_folder(class_folders(tmp_path / name)) for name in ("here", "there"))
    assert here.train.fingerprint() == there.train.fingerprint()


@pytest.mark.parametrize("change", ["one byte", "rename", "remove", "swap classes", "append to unreadable"])
def test_the_fingerprint_sees_each_change(tmp_path: Path, change: str) -> None:
    for split in ("train", "val"):
        class_folders(tmp_path / split, each=3)
    (tmp_path / "train" / "cat" / "0009.png").write_bytes(b"broken")
    before = open_folder(tmp_path).train.fingerprint()
    assert open_folder(tmp_path).train.fingerprint() == before
    first, second = (tmp_path / "train" / c / "0001.png" for c in ("cat", "dog"))
    if change == "one byte":
        data = bytearray(first.read_bytes())
        data[-1] ^= 1
        first.write_bytes(bytes(data))
    elif change == "rename":
        first.rename(first.with_name("0100.png"))
    elif change == "remove":
        first.unlink()
    elif change == "swap classes":
        first.rename(tmp_path / "x")
        second.rename(first)
        (tmp_path / "x").rename(second)
    else:
        (tmp_path / "train" / "cat" / "0009.png").write_bytes(b"broken too")
    assert open_folder(tmp_path).train.fingerprint() != before


def test_the_fingerprint_of_training_sees_a_class_that_only_tests_have(tmp_path: Path) -> None:
    class_folders(tmp_path, ("m", "z"), each=12)
    before = open_folder(tmp_path)
    lone = next(i for i in range(100) if _is_test(f"a/{i}.png"))
    save(tmp_path / "a" / f"{lone}.png", photo(0))
    after = open_folder(tmp_path)
    assert after.train.ids == before.train.ids
    assert after.train.label(0) != before.train.label(0)
    assert after.train.fingerprint() != before.train.fingerprint()


def _is_test(image_id: str) -> bool:
    return hashlib.sha256(image_id.encode()).digest() < int(TEST_SHARE * 2**256).to_bytes(32, "big")


def test_hashing_is_reported_from_time_to_time_and_done_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "HASH_REPORT_S", 0.0)
    train = open_folder(class_folders(tmp_path, each=40)).train
    heard: list[tuple[int, int]] = []
    assert isinstance(train, FolderSet)
    train.on_hash = lambda done, total: heard.append((done, total))
    digest = train.fingerprint()
    assert heard == sorted(heard)
    assert len(heard) > 1
    assert heard[-1] == (len(train), len(train))
    heard.clear()
    assert (train.fingerprint(), heard) == (digest, [])
    assert open_folder(tmp_path).train.fingerprint() == digest


def test_quick_hashing_is_not_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "HASH_REPORT_S", float("inf"))
    train = open_folder(class_folders(tmp_path, each=4)).train
    assert isinstance(train, FolderSet)
    train.on_hash = lambda done, total: pytest.fail("told of a moment's work")
    assert len(train.fingerprint()) == 64


def test_files_that_cannot_be_opened_still_have_a_place_in_the_fingerprint(tmp_path: Path) -> None:
    class_folders(tmp_path, each=3)
    (tmp_path / "cat" / "dead.png").symlink_to(tmp_path / "absent.png")
    data = open_folder(tmp_path)
    assert "cat/dead.png" in ids_of(data)
    assert len(data.train.fingerprint()) == len(data.test.fingerprint()) == 64


@pytest.mark.skipif(os.name == "nt", reason="such names cannot be made there")
def test_strange_names_become_ids_on_one_line(tmp_path: Path) -> None:
    names = ["two\nlines.png", "back\\slash.png", "ünï cödé.png", "\u2028.png"]
    for i, name in enumerate(names):
        save(tmp_path / name, photo(i))
    not_utf8 = os.path.join(os.fsencode(tmp_path), b"\xff.png")  # noqa: PTH118 -- a name that is no text
    os.rename(save(tmp_path / "x.png", photo(9)), not_utf8)  # noqa: PTH104
    data = open_folder(tmp_path)
    assert len(ids_of(data)) == 5
    assert "ünï cödé.png" in ids_of(data)
    assert all(len(i.splitlines()) == 1 and i.encode() for i in ids_of(data))
    for images in (data.train, data.test):
        assert all(images.image(i).dtype == np.uint8 for i in range(len(images)))


@given(st.sets(st.text(max_size=6)))
def test_different_names_stay_different(names: set[str]) -> None:
    assert len({one_line(name) for name in names}) == len(names)
