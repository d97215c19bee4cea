"""The room itself: what importing it brings along, and what `--data` may say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import gpusq.data
from gpusq.data import ImageSet, open_data
from gpusq.errors import EmptyDataError, MissingExtraError
from tests.data.picture_samples import class_folders


def test_the_room_starts_without_torch_pillow_and_sklearn() -> None:
    code = "import sys, gpusq.data; sys.exit(' '.join({'torch', 'PIL', 'sklearn'} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_public_names_are_there() -> None:
    assert sorted(gpusq.data.__all__) == list(gpusq.data.__all__)
    assert all(hasattr(gpusq.data, name) for name in gpusq.data.__all__)


def test_a_folder_is_opened_as_an_image_set(tmp_path: Path) -> None:
    data = open_data(str(class_folders(tmp_path / "pets")))
    assert data.name == "pets"
    assert isinstance(data.train, ImageSet)
    assert isinstance(data.test, ImageSet)


@pytest.mark.parametrize("spec", ["", "fashion-mnist:"])
def test_data_without_a_name_is_refused(spec: str) -> None:
    with pytest.raises(EmptyDataError, match="must be named"):
        open_data(spec)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EmptyDataError, match="nothing there"):
        open_data(str(tmp_path / "absent"))


def test_a_folder_called_digits_is_opened_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_folders(tmp_path / "digits", classes=("one", "two"))
    monkeypatch.chdir(tmp_path)
    assert open_data("./digits").train.classes == ("one", "two")


def test_digits_without_sklearn_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match=r"\.\[host\]"):
        open_data("digits")


def test_image_files_without_pillow_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = open_data(str(class_folders(tmp_path))).train
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"\.\[host\]"):
        images.image(0)
