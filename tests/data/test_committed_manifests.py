"""Every file in calibration/ parses, matches the data where it is at hand, and can be drawn again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gpusq.data import DataSpec, draw_manifest, load_manifest, open_data, read_manifest
from gpusq.data.fashion_mnist import VARIABLE
from gpusq.errors import EmptyDataError

ROOT = Path(__file__).resolve().parents[2]
FETCHED = {"aerial": "coco:build/data/aerial"}  # what a script obtains: name of the set -> how it is opened
FILES = sorted((ROOT / "calibration").glob("*.txt"))


def data_at_hand(name: str, monkeypatch: pytest.MonkeyPatch) -> DataSpec:
    """The set of that name; skips where it is not installed."""
    monkeypatch.chdir(ROOT)
    if name in FETCHED and not (ROOT / FETCHED[name].partition(":")[2]).is_dir():
        pytest.skip(f"{name} was not fetched (scripts/fetch_{name}.sh)")
    try:
        return open_data(FETCHED.get(name, name))
    except EmptyDataError:
        if os.environ.get(VARIABLE) or name != "fashion-mnist":
            raise
        pytest.skip("Fashion-MNIST is not installed")


def test_the_expected_files_are_there() -> None:
    assert {path.name for path in FILES} >= {"digits-256.txt", "fashion-mnist-512.txt"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_file_parses_and_is_named_after_what_it_holds(path: Path) -> None:
    manifest = read_manifest(path)
    assert path.name == f"{manifest.data}-{manifest.n}.txt"
    assert (manifest.split, manifest.seed) == ("train", 0)
    assert f"# command: {manifest.command}" in path.read_text().splitlines()
    assert path.name in (ROOT / "calibration" / "README.md").read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_file_matches_the_data_and_is_drawn_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = read_manifest(path)
    train = data_at_hand(manifest.data, monkeypatch).train
    assert len(load_manifest(path, train)) == manifest.n
    assert draw_manifest(train, manifest.n, manifest.seed) == manifest
