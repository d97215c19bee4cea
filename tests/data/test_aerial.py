"""The script that fetches the aerial images, and the tiles where they have been fetched."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from gpusq.data import BoxSet, Loader, Preprocess, draw_manifest, open_data

ROOT = Path(__file__).resolve().parents[2]
TEST_FINGERPRINT = "36f19577e4c15259419688c9212a1962080a0c35e998ceceb4e4304ae9f8302b"
TILES = ROOT / "build" / "data" / "aerial"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout with nothing in it but the scripts and a stand-in for .venv/bin/python, which cannot download."""
    (tmp_path / "scripts").mkdir()
    for name in ("fetch_aerial.sh", "cut_aerial_tiles.py"):
        shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts" / name)
    stand_in(tmp_path, "echo 'no network' >&2; exit 1")
    return tmp_path


def stand_in(tree: Path, body: str) -> None:
    python = tree / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True, exist_ok=True)
    python.write_text(f"#!/bin/sh\n{body}\n")
    python.chmod(0o755)


def fetch(tree: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", tree / "scripts" / "fetch_aerial.sh"], capture_output=True, text=True, check=False)


def test_without_a_network_it_says_so_and_leaves_nothing(tree: Path) -> None:
    done = fetch(tree)
    assert (done.returncode, done.stdout) == (3, "")
    assert "pip could not download it: no network" in done.stderr
    assert [path for path in (tree / "build").rglob("*") if path.is_file()] == []


def test_without_an_environment_it_names_the_command(tree: Path) -> None:
    shutil.rmtree(tree / ".venv")
    done = fetch(tree)
    assert (done.returncode, done.stdout) == (3, "")
    assert "run: make setup" in done.stderr


def test_another_wheel_is_not_used(tree: Path) -> None:
    body = 'while [ "$1" != -d ]; do shift; done; echo other > "$2/deepforest-2.1.0-py3-none-any.whl"'
    stand_in(tree, body)
    done = fetch(tree)
    assert (done.returncode, done.stdout) == (3, "")
    assert "not the expected wheel" in done.stderr
    assert [path for path in (tree / "build").rglob("*") if path.is_file()] == []


CUT = 'case "$1" in *cut_aerial_tiles.py) mkdir -p "$3"; echo cut >>cuts ;; esac'
CUT_BY = ("voc", "annotation", "decoding", "boxes", "coco_folder", "tiles", "folder")


def with_sources(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files in the places of the source, a sha256sum that finds them as expected, a python that notes every cutting."""
    (tree / "tools").mkdir()
    tool = tree / "tools" / "sha256sum"
    tool.write_text(f'#!/bin/sh\n[ "$1" != --check ] || exit 0\nexec {shutil.which("sha256sum")} "$@"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tree / 'tools'}:{os.environ['PATH']}")
    source = tree / "build" / "data" / "aerial-source"
    source.mkdir(parents=True)
    for name in ("OSBS_029.png", "SOAP_061.xml"):
        (source / name).write_text(name)
    (tree / "gpusq" / "data").mkdir(parents=True)
    for name in CUT_BY:
        (tree / "gpusq" / "data" / f"{name}.py").write_text(name)
    stand_in(tree, CUT)


def cuts(tree: Path) -> int:
    """How often the tiles have been cut, after one more call."""
    done = fetch(tree)
    assert (done.returncode, done.stdout.strip()) == (0, str(tree / "build" / "data" / "aerial"))
    return len((tree / "cuts").read_text().splitlines())


@pytest.mark.parametrize(
    "changed",
    [
        "scripts/cut_aerial_tiles.py",
        *(f"gpusq/data/{name}.py" for name in CUT_BY),
        "build/data/aerial-source/SOAP_061.xml",
    ],
)
def test_tiles_are_cut_again_when_their_code_or_source_changes_and_not_else(
    tree: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    with_sources(tree, monkeypatch)
    assert (cuts(tree), cuts(tree)) == (1, 1)
    with (tree / changed).open("a") as file:
        file.write("# changed")
    assert (cuts(tree), cuts(tree)) == (2, 2)


def test_the_code_that_cuts_lies_where_the_script_looks() -> None:
    imports = re.findall(r"^from (gpusq\S*) import", (ROOT / "scripts" / "cut_aerial_tiles.py").read_text(), re.M)
    assert imports
    assert all(name.startswith("gpusq.data.") for name in imports)


def test_the_page_beside_the_script_names_what_the_script_checks() -> None:
    page, script = ((ROOT / "scripts" / name).read_text() for name in ("AERIAL.md", "fetch_aerial.sh"))
    assert "8c2798d8e9be7f0004b194fe207b76c1d9fff6e711b3db67b9508dcd5d00ae54" in page
    assert "8c2798d8e9be7f0004b194fe207b76c1d9fff6e711b3db67b9508dcd5d00ae54" in script


@pytest.mark.skipif(not TILES.is_dir(), reason="the aerial images were not fetched (scripts/fetch_aerial.sh)")
def test_the_tiles_are_what_the_page_says() -> None:
    data = open_data(f"coco:{TILES}")
    assert isinstance(data.train, BoxSet)
    assert isinstance(data.test, BoxSet)
    assert (data.train.classes, data.test.classes) == (("Tree",), ("Tree",))
    train, test = data.train.findings, data.test.findings
    assert (train.images, train.empty, train.boxes, train.crowd) == (546, 88, 2357, 0)
    assert (test.images, test.boxes - test.crowd, test.crowd) == (30, 277, 99)
    held_out = {own.removeprefix("test/").split("-y")[0] for own in data.test.ids}
    assert held_out == {"2019_YELL_2_541000_4977000_image_crop"}
    assert not any("541000" in own for own in data.train.ids)
    batch = Loader(data.test, Preprocess((64, 64), 3, (0.5,) * 3, (0.5,) * 3)).arrays(4)
    assert batch.targets is not None
    assert batch.pixel_values.shape == (4, 3, 64, 64)
    assert draw_manifest(data.train, 8, 0).n == 8
    assert data.test.fingerprint() == TEST_FINGERPRINT  # the same bytes wherever they are cut
