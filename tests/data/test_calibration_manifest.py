"""Calibration manifests: drawn the same everywhere, read back, and refused where they do not match."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpusq.data import ArraySet, draw_manifest, load_manifest, open_data, read_manifest, write_manifest
from gpusq.errors import CalibrationManifestError
from tests.data.picture_samples import array_set, class_folders, photo, save


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "deep" / "manifest.txt"
    write_manifest(draw_manifest(array_set(), 8, 3), path)
    return path


def test_the_file_is_read_back(written: Path) -> None:
    manifest = draw_manifest(array_set(), 8, 3)
    assert read_manifest(written) == manifest
    assert manifest.command == "gpusq calibration draw --data squares --images 8 --seed 3"
    assert written.read_text().splitlines()[:6] == [
        "# format: 1",
        "# data: squares",
        "# split: train",
        "# seed: 3",
        "# n: 8",
        f"# command: {manifest.command}",
    ]


def test_indices_come_in_the_order_of_the_draw(written: Path) -> None:
    images = array_set()
    indices = load_manifest(written, images)
    assert len(set(indices)) == 8
    assert [(images.content_sha256(i), images.ids[i]) for i in indices] == list(read_manifest(written).entries)


@given(st.integers(1, 50), st.integers(1, 50), st.integers(-5, 5))
def test_a_shorter_draw_begins_a_longer_one(a: int, b: int, seed: int) -> None:
    short, long = sorted((a, b))
    images = array_set()
    assert draw_manifest(images, long, seed).entries[:short] == draw_manifest(images, short, seed).entries


def test_seeds_draw_differently() -> None:
    draws = {draw_manifest(array_set(), 10, seed).entries for seed in range(5)}
    assert len(draws) == 5


def test_the_order_of_the_set_does_not_matter() -> None:
    images = array_set()
    labels = np.array([images.label(i) for i in range(len(images))])
    back = ArraySet(images.name, "train", images.classes, images.ids[::-1], images.grey_pixels[::-1], labels[::-1])
    assert draw_manifest(back, 20, 0) == draw_manifest(images, 20, 0)


def test_folders_are_drawn_and_checked_wherever_they_lie(tmp_path: Path) -> None:
    here = class_folders(tmp_path / "here" / "pets")
    write_manifest(draw_manifest(open_data(str(here)).train, 12, 0), tmp_path / "m.txt")
    there = shutil.copytree(here, tmp_path / "there" / "pets")
    train = open_data(str(there)).train
    assert len(load_manifest(tmp_path / "m.txt", train)) == 12


def test_unreadable_images_and_copies_are_passed_over(tmp_path: Path) -> None:
    for i in range(20):
        save(tmp_path / "train" / f"{i}.png", photo(i % 10))  # each picture twice
        save(tmp_path / "val" / f"{i}.png", photo(i))
    (tmp_path / "train" / "broken.png").write_bytes(b"broken")
    train = open_data(str(tmp_path)).train
    manifest = draw_manifest(train, 10, 0)
    assert len({sha256 for sha256, _ in manifest.entries}) == 10
    assert "train/broken.png" not in {image_id for _, image_id in manifest.entries}
    with pytest.raises(CalibrationManifestError, match="got 10 of 21"):
        draw_manifest(train, 11, 0)


@pytest.mark.parametrize("n", [0, -1, 51])
def test_impossible_counts_are_refused(n: int) -> None:
    with pytest.raises(CalibrationManifestError, match="cannot draw"):
        draw_manifest(array_set(), n, 0)


def test_strange_ids_survive_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "a set, with # and 'quotes'"
    for i, name in enumerate(["two\nlines.png", " # n: 3.png", "trailing \u2028.png", "ünï  cödé.png"]):
        save(folder / "train" / name, photo(i))
        save(folder / "val" / name, photo(i))
    train = open_data(str(folder)).train
    manifest = draw_manifest(train, 4, 0)
    write_manifest(manifest, tmp_path / "m.txt")
    assert read_manifest(tmp_path / "m.txt") == manifest
    assert sorted(load_manifest(tmp_path / "m.txt", train)) == [0, 1, 2, 3]


def test_line_ends_of_another_system_are_read(written: Path) -> None:
    unix = read_manifest(written)
    written.write_bytes(written.read_bytes().replace(b"\n", b"\r\n"))
    assert read_manifest(written) == unix


# ---- refusals ----


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("# format: 1", "# format: 2", "format must be 1, got 2"),
        ("# format: 1\n", "", "format must be 1, got None"),
        ("# seed: 3", "# seed: three", "seed must be a whole number"),
        ("# seed: 3\n", "", "the header lacks seed"),
        ("# n: 8", "# n: 9", "got n 9 and 8 listed"),
        ("# split", "# colour", r":3: expected"),
        ("# seed: 3", "# seed: 3\n# seed: 3", r":5: expected"),
        ("# seed: 3", "seed: 3", r":4: expected"),
        ("  image-", " image-", r":7: expected"),
    ],
)
def test_damaged_files_are_refused_with_the_place(written: Path, old: str, new: str, message: str) -> None:
    written.write_text(written.read_text().replace(old, new))
    with pytest.raises(CalibrationManifestError, match=message):
        read_manifest(written)


def test_an_id_listed_twice_is_refused(written: Path) -> None:
    lines = written.read_text().splitlines()
    lines[-1] = lines[-2]
    written.write_text("\n".join(lines))
    with pytest.raises(CalibrationManifestError, match="listed twice"):
        read_manifest(written)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"\n\n"])
def test_files_that_are_no_manifest_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.txt").write_bytes(content)
    with pytest.raises(CalibrationManifestError):
        read_manifest(tmp_path / "m.txt")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationManifestError, match="cannot be read"):
        read_manifest(tmp_path / "absent.txt")


@pytest.mark.parametrize("change", ["changed", "missing", "unreadable"])
def test_other_images_are_refused_by_name(tmp_path: Path, change: str) -> None:
    class_folders(tmp_path / "pets" / "train", each=5)
    class_folders(tmp_path / "pets" / "val", each=1)
    write_manifest(draw_manifest(open_data(str(tmp_path / "pets")).train, 10, 0), tmp_path / "m.txt")
    victim = tmp_path / "pets" / "train" / "cat" / "0003.png"
    victim.unlink()
    if change == "changed":
        save(victim, photo(999))
    elif change == "unreadable":
        victim.symlink_to(tmp_path / "absent")
    expected = "1 images missing, 0 changed" if change == "missing" else "0 images missing, 1 changed"
    with pytest.raises(CalibrationManifestError, match=f"{expected}: train/cat/0003.png"):
        load_manifest(tmp_path / "m.txt", open_data(str(tmp_path / "pets")).train)


def test_the_test_split_is_refused(written: Path) -> None:
    images = array_set()
    images.split = "test"
    with pytest.raises(CalibrationManifestError, match="got squares test"):
        load_manifest(written, images)
