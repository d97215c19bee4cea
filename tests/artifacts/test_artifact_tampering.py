"""No changed byte leaves an artifact: flips, truncations, swaps, links, extra, removed and renamed files."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpusq.artifacts import Artifact, Store, open_artifact
from gpusq.errors import ArtifactError, ArtifactNotFoundError, NewerSchemaError, TamperedArtifactError


def files_of(artifact: Artifact) -> list[Path]:
    return sorted(path for path in artifact.path.rglob("*") if path.is_file())


def read_everything(path: Path) -> Iterator[tuple[str, bytes]]:
    artifact = open_artifact(path)
    for name in artifact.manifest.files:
        yield name, artifact.read(name)


def test_reads_back(make: Callable[..., Artifact], payload: dict[str, bytes]) -> None:
    artifact = make()
    assert dict(read_everything(artifact.path)) == payload
    assert artifact.read_json("model.json") == {"a": 1}
    assert artifact.file("engine/engine.bin").read_bytes() == payload["engine/engine.bin"]
    assert artifact.verify() == []
    assert open_artifact(artifact.path) == artifact


def test_thousand_bit_flips_are_all_caught_before_a_byte_is_returned(make: Any, payload: dict[str, bytes]) -> None:
    artifact = make()
    draw = random.Random(5)  # noqa: S311
    paths = files_of(artifact)
    for _ in range(1000):
        path = draw.choice(paths)
        good = path.read_bytes()
        bad = bytearray(good)
        bit = draw.randrange(len(good) * 8)
        bad[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(bad)
        returned: dict[str, bytes] = {}
        with pytest.raises((TamperedArtifactError, NewerSchemaError)):
            returned.update(read_everything(artifact.path))
        assert all(payload[name] == data for name, data in returned.items())
        assert any(problem.startswith("changed: ") for problem in artifact.verify())
        path.write_bytes(good)
    assert artifact.verify() == []


def test_truncations_and_growth_are_caught(make: Any) -> None:
    artifact = make()
    draw = random.Random(6)  # noqa: S311
    for path in files_of(artifact):
        good = path.read_bytes()
        for bad in [good[: draw.randrange(len(good))] for _ in range(30)] + [b"", good[:-1], good + b"\0", good * 2]:
            path.write_bytes(bad)
            with pytest.raises(TamperedArtifactError):
                list(read_everything(artifact.path))
            name = path.relative_to(artifact.path).as_posix()
            word = "changed" if name == "artifact.json" or len(bad) > len(good) else "torn"
            assert any(p.startswith(f"{word}: {name}") for p in artifact.verify())
        path.write_bytes(good)


def test_payloads_swapped_between_two_valid_artifacts(make: Any, store: Store) -> None:
    a = make(1, {"w": b"a" * 99, "v": b"b" * 99})
    b = make(2, {"w": b"c" * 99, "v": b"d" * 99})
    for left, right in [(a.path / "w", b.path / "w"), (a.path / "w", a.path / "v")]:
        one, two = left.read_bytes(), right.read_bytes()
        left.write_bytes(two)
        right.write_bytes(one)
        with pytest.raises(TamperedArtifactError):
            store.resolve(a.digest).read("w")
        assert "changed: w" in a.verify()
        left.write_bytes(one)
        right.write_bytes(two)
    assert store.verify_all() == {a.path.name: [], b.path.name: []}


def test_two_valid_artifacts_swapped_whole(make: Any, store: Store, tmp_path: Path) -> None:
    a, b = make(1), make(2)
    a.path.rename(tmp_path / "x")
    b.path.rename(a.path)
    (tmp_path / "x").rename(b.path)
    for artifact in (a, b):
        with pytest.raises(TamperedArtifactError, match="not what its name says"):
            store.find(artifact.key)
        assert "changed: artifact.json" in artifact.verify()
    assert all(problems for problems in store.verify_all().values())


def test_artifact_moved_to_another_kind_is_caught(make: Any, store: Store) -> None:
    a = make()
    moved = a.path.rename(a.path.with_name(f"dense-{a.key}"))
    with pytest.raises(TamperedArtifactError):
        store.find(a.key)
    assert any(p.startswith("renamed: ") for p in Artifact(moved, a.manifest).verify())


def test_a_copy_under_a_free_name_opens(make: Any, tmp_path: Path) -> None:
    shutil.copytree(make().path, tmp_path / "best model é")
    assert open_artifact(tmp_path / "best model é").verify() == []


def test_replaced_parent_is_named(make: Any, store: Store, parent_of: Any) -> None:
    first = make(1, {"w": b"1"})
    child = make(2, parents=(parent_of(first),))
    shutil.rmtree(first.path)
    assert store.verify_all() == {child.path.name: []}
    make(1, {"w": b"2"})
    assert any(p.startswith("replaced: model") for p in store.verify_all()[child.path.name])


@pytest.mark.parametrize("name", ["weights.safetensors", "engine/engine.bin", "artifact.json"])
def test_removed_file(name: str, make: Any, store: Store) -> None:
    artifact = make()
    (artifact.path / name).unlink()
    assert any(p.startswith(f"missing: {name}") for p in artifact.verify())
    with pytest.raises(TamperedArtifactError, match="remove that directory"):
        store.find(artifact.key)
    with pytest.raises(TamperedArtifactError):
        list(read_everything(artifact.path))
    assert store.verify_all()[artifact.path.name] != []


def test_extra_and_renamed_files(make: Any, store: Store) -> None:
    artifact = make()
    (artifact.path / "engine/plugin.so").write_bytes(b"x")
    assert artifact.verify() == ["extra: engine/plugin.so"]
    (artifact.path / "engine/plugin.so").unlink()
    (artifact.path / "model.json").rename(artifact.path / "Model.json")
    assert [p.split(" (")[0] for p in artifact.verify()] == ["missing: model.json", "extra: Model.json"]
    with pytest.raises(TamperedArtifactError, match=r"missing: model\.json"):
        store.find(artifact.key)


def link_to_copy(path: Path, outside: Path) -> None:
    shutil.copy(path, outside)
    path.unlink()
    path.symlink_to(outside)


def link_twice(path: Path, outside: Path) -> None:
    os.link(path, outside)


def pipe(path: Path, outside: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path, outside: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("attack", [link_to_copy, link_twice, pipe, folder])
@pytest.mark.parametrize("name", ["model.json", "engine/engine.bin", "artifact.json"])
def test_links_and_devices_in_an_artifact_are_refused_though_the_bytes_agree(
    attack: Callable[[Path, Path], None], name: str, make: Any, tmp_path: Path, store: Store
) -> None:
    artifact = make()
    attack(artifact.path / name, tmp_path / "outside")
    with pytest.raises(ArtifactError):
        list(read_everything(artifact.path))
    assert any(name in problem for problem in artifact.verify())
    with pytest.raises(ArtifactError):
        store.find(artifact.key)


def test_linked_folders_are_refused(make: Any, tmp_path: Path) -> None:
    artifact = make()
    shutil.move(artifact.path / "engine", tmp_path / "engine")
    (artifact.path / "engine").symlink_to(tmp_path / "engine")
    with pytest.raises(TamperedArtifactError):
        artifact.read("engine/engine.bin")
    shutil.move(artifact.path, tmp_path / "elsewhere")
    artifact.path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TamperedArtifactError):
        open_artifact(artifact.path)


@pytest.mark.parametrize("name", ["../artifact.json", "/etc/hostname", "a\0b", "artifact.json", "nothing"])
def test_only_sealed_names_can_be_read(name: str, make: Any) -> None:
    artifact = make()
    for read in (artifact.read, artifact.file, artifact.read_json):
        with pytest.raises(ArtifactNotFoundError, match="has no file"):
            read(name)


def test_opening_what_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactNotFoundError, match="gpusq list"):
        open_artifact(tmp_path / "none")
    with pytest.raises(TamperedArtifactError):
        open_artifact(tmp_path)


@pytest.mark.parametrize("raw", [b"\xff", b"{,}", b"[" * 99_999])
def test_payload_that_is_no_json(raw: bytes, make: Any) -> None:
    with pytest.raises(ArtifactError, match="expected JSON"):
        make(payload={"x": raw}).read_json("x")


def test_foreign_entry_in_the_store_is_named_and_harms_nobody(make: Any, store: Store) -> None:
    good = make()
    (good.path.parent / "notes.txt").write_text("hello")
    (good.path.parent / f"sparse-{'e' * 64}").mkdir()
    found = store.verify_all()
    assert found[good.path.name] == []
    assert found["notes.txt"][0].startswith("extra: ")
    assert found[f"sparse-{'e' * 64}"][0].startswith("torn: ")
    assert store.artifacts() == [good]
    assert store.resolve(good.digest[:8]) == good
    with pytest.raises(TamperedArtifactError):
        store.resolve("eeeeeeee")


def test_staging_leftovers_are_no_errors(make: Any, store: Store) -> None:
    artifact = make()
    (store.root / "staging/half").mkdir(parents=True)
    (store.root / "staging/half/w").write_bytes(b"x")
    assert store.verify_all() == {artifact.path.name: []}
