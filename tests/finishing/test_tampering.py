"""A thousand ways to spoil a bundle or an engine: every one is refused before TensorRT or a parser sees a byte of it.

Spies stand where the payload would be read: the builder, deserialization, safetensors, ONNX, and the JSON of payload
files. The two seals themselves (artifact.json, bundle.json) are JSON and are read; nothing else is.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpusq.artifacts import Artifact, open_artifact
from gpusq.device_measurement import open_on_device
from gpusq.engines.compatibility import Place
from gpusq.errors import ArtifactError, GpusqError
from gpusq.finishing import FinishOptions, finish
from gpusq.finishing.sealing import seal_engine
from gpusq.machine import Machine
from tests.finishing.small import Pair

CASES = 500
"""Of each kind; there are two kinds."""
SEAL_READERS = ("gpusq.artifacts.manifest", "gpusq.engines.sealed_bundle")
"""Whoever reads artifact.json and bundle.json, whatever lies there under these names."""


class Spy:
    """Counts what must not happen."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, what: str) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            self.seen.append(what)
            raise AssertionError(f"{what} was reached")

        return called

    def machine(self, builder: str) -> Machine:
        """Opening the machine loads the library: that is too late already."""
        self.seen.append("the library")
        raise AssertionError("the library was loaded")


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spy]:
    watching = Spy()
    monkeypatch.setattr("gpusq.engines.tensorrt.build_plan", watching("build_plan"))
    monkeypatch.setattr("gpusq.engines.tensorrt.load_library", watching("load_library"))
    monkeypatch.setattr("safetensors.numpy.load", watching("safetensors"))
    monkeypatch.setattr("gpusq.finishing.twin.forms", watching("layers.json"))
    monkeypatch.setattr("gpusq.engines.compatibility.place_of", watching("engine.json"))
    monkeypatch.setattr("gpusq.engines.device_engine.DeviceEngine", watching("deserialize"))
    real = json.loads

    def loads(text: Any, *arguments: Any, **named: Any) -> Any:
        caller = sys._getframe(1).f_globals["__name__"]
        if caller not in SEAL_READERS:
            watching.seen.append(f"json in {caller}")
        return real(text, *arguments, **named)

    monkeypatch.setattr("json.loads", loads)
    for name in ("onnx", "tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)  # an import would fail, and show
    yield watching
    assert watching.seen == []


def engine_of(pair: Pair, out: Path) -> Artifact:
    """A sealed device engine; what its plan holds does not matter here."""
    place = Place("tensorrt", "10.3.0.30", ("8.0",), "x86_64")
    files = {
        "engine.plan": random.Random(0).randbytes(5000),  # noqa: S311
        "engine.json": json.dumps({"place": place.to_json(), "runtime": "tensorrt 10.3.0.30"}).encode(),
        "receipt.json": b'{"status": "measured"}',
        "samples.safetensors": pair.model.read("samples.safetensors"),
    }
    named = {"params": {"builder": "tensorrt"}, "inputs": {}, "target": "a100-40gb", "toolchain": {}, "facts": {}}
    return seal_engine(out, files, parent=pair.model, **named)


class Spoiler:
    """Draws one change of a sealed directory; `other` is a valid one of the same kind with other contents."""

    def __init__(self, directory: Path, other: Path, draw: random.Random) -> None:
        self.directory, self.other, self.draw = directory, other, draw
        self.ways = [self.flip, self.truncate, self.swap, self.remove, self.add, self.rename, self.link, self.lengthen,
                     self.exchange, self.hard_link, self.folder]  # fmt: skip

    def one(self) -> str:
        """Spoil; returns what was done."""
        way = self.draw.choice(self.ways)
        return f"{way.__name__}: {way()}"

    def file(self) -> Path:
        return self.draw.choice(sorted(path for path in self.directory.iterdir() if path.is_file()))

    def flip(self) -> str:
        path = self.file()
        data = bytearray(path.read_bytes())
        at, bit = self.draw.randrange(len(data)), self.draw.randrange(8)
        data[at] ^= 1 << bit
        path.write_bytes(data)
        return f"{path.name} byte {at} bit {bit}"

    def truncate(self) -> str:
        path = self.file()
        data = path.read_bytes()
        path.write_bytes(data[: self.draw.randrange(len(data))])
        return path.name

    def lengthen(self) -> str:
        path = self.file()
        path.write_bytes(path.read_bytes() + self.draw.choice([b"\n", b" ", b"\0", b"}"]))
        return path.name

    def swap(self) -> str:
        names = [p.name for p in self.directory.iterdir() if (self.other / p.name).read_bytes() != p.read_bytes()]
        name = self.draw.choice(sorted(names))
        shutil.copyfile(self.other / name, self.directory / name)
        return f"{name} of another one"

    def exchange(self) -> str:
        first, second = self.draw.sample(sorted(self.directory.iterdir()), 2)
        one, two = first.read_bytes(), second.read_bytes()
        first.write_bytes(two)
        second.write_bytes(one)
        return f"{first.name} and {second.name}"

    def remove(self) -> str:
        path = self.file()
        path.unlink()
        return path.name

    def add(self) -> str:
        name = self.draw.choice(
            ["plugin.so", "engine.plan.bak", ".hidden", "libnvinfer_plugin.so.10", "model.onnx.data"]
        )
        (self.directory / name).write_bytes(self.draw.randbytes(self.draw.randrange(64)))
        return name

    def rename(self) -> str:
        path = self.file()
        path.rename(path.with_name(self.draw.choice([path.name.upper() + "X", path.name + "~", "." + path.name])))
        return path.name

    def link(self) -> str:
        path = self.file()
        elsewhere = self.directory.parent / "elsewhere"
        shutil.copyfile(path, elsewhere)
        path.unlink()
        path.symlink_to(elsewhere)
        return path.name

    def hard_link(self) -> str:
        path = self.file()
        (self.directory.parent / "second-name").hardlink_to(path)
        return path.name

    def folder(self) -> str:
        path = self.file()
        path.unlink()
        path.mkdir()
        (path / "x").write_bytes(b"x")
        return path.name


def spoil_and_open(whole: Path, other: Path, work: Path, case: int, use: Callable[[Path], object]) -> str:
    """One case; returns "" where it was refused as it must be, else what happened."""
    shutil.rmtree(work, ignore_errors=True)
    directory = work / "copy"
    shutil.copytree(whole, directory)
    done = Spoiler(directory, other, random.Random(case)).one()  # noqa: S311
    try:
        use(directory)
    except ArtifactError:
        return ""
    except GpusqError as error:
        return f"case {case}, {done}: refused as {type(error).__name__}: {error}"
    return f"case {case}, {done}: accepted"


def test_a_spoiled_bundle_is_refused_before_anything_reads_it(pair: Pair, tmp_path: Path, spy: Spy) -> None:
    options = FinishOptions(tmp_path / "engine", twin="none")
    wrong = [
        spoil_and_open(
            pair.model.path, pair.twin.path, tmp_path / "work", case, lambda path: finish(path, options, spy.machine)
        )
        for case in range(CASES)
    ]
    assert [line for line in wrong if line] == []
    assert len(wrong) == CASES


def test_a_spoiled_engine_is_refused_before_anything_reads_it(pair: Pair, tmp_path: Path, spy: Spy) -> None:
    whole = engine_of(pair, tmp_path / "whole").path
    other = tmp_path / "other"
    shutil.copytree(pair.twin.path, other)
    for name in ("engine.plan", "engine.json", "receipt.json", "samples.safetensors", "artifact.json"):
        (other / name).write_bytes(b"of another engine: " + name.encode())
    wrong = [
        spoil_and_open(
            whole, other, tmp_path / "work", case, lambda path: open_on_device(open_artifact(path), spy.machine)
        )
        for case in range(CASES)
    ]
    assert [line for line in wrong if line] == []
    assert len(wrong) == CASES


def test_a_spoiled_twin_is_refused_too(pair: Pair, tmp_path: Path, spy: Spy) -> None:
    """The model's bundle is whole; the twin named beside it is not."""

    def use(path: Path) -> None:
        finish(pair.model.path, FinishOptions(tmp_path / "engine", twin=str(path)), spy.machine)

    wrong = [spoil_and_open(pair.twin.path, pair.model.path, tmp_path / "work", case, use) for case in range(100)]
    assert [line for line in wrong if line] == []


def test_the_spies_see_what_happens_to_a_whole_bundle(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the tests above would pass for the wrong reason."""
    watching = Spy()
    with pytest.raises(AssertionError, match="library was loaded"):
        finish(pair.model.path, FinishOptions(tmp_path / "engine", twin="none"), watching.machine)
    with pytest.raises(AssertionError, match="library was loaded"):
        open_on_device(engine_of(pair, tmp_path / "whole"), watching.machine)
    assert watching.seen == ["the library"] * 2
    monkeypatch.setattr("gpusq.finishing.twin.forms", watching("layers.json"))
    with pytest.raises(AssertionError, match=r"layers\.json"):
        finish(pair.model.path, FinishOptions(tmp_path / "engine", twin=str(pair.twin.path)), watching.machine)
