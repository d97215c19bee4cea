"""The store's promises on a quiet day: publish, find, resolve, lineage, checkpoints, reports, gc, refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpusq.artifacts import Store
from gpusq.errors import (
    ArtifactError,
    ArtifactNotFoundError,
    NewerSchemaError,
    StoreError,
    StoreFullError,
    TamperedArtifactError,
)


def test_publish_find_and_layout(make: Any, store: Store) -> None:
    artifact = make()
    assert artifact.path == store.root / "artifacts" / f"sparse-{artifact.key}"
    assert store.find(artifact.key) == artifact
    assert store.find("0" * 64) is None
    assert list((store.root / "staging").iterdir()) == []
    assert json.loads((store.root / "store.json").read_text()) == {"schema_version": 1}
    assert not (store.root / "lock.json").exists()


def test_same_inputs_and_bytes_give_the_same_digest_in_another_store(tmp_path: Path, fields: Any, fill: Any) -> None:
    digests = set()
    for name in ("one", "two"):
        store = Store(tmp_path / name)
        with store.staging(fields()["key"]) as staging:
            fill(staging, {"w": b"1"})
            digests.add(store.publish(staging, **fields()).digest)
    assert len(digests) == 1


def test_opening_and_asking_writes_nothing(store: Store) -> None:
    assert store.find("0" * 64) is None
    assert store.artifacts() == []
    assert store.verify_all() == {}
    assert store.reports("0" * 64) == {}
    assert not store.root.exists()


def test_first_artifact_of_a_key_wins(make: Any) -> None:
    first = make(1, {"w": b"1"})
    assert make(1, {"w": b"2"}) == first
    assert first.read("w") == b"1"


def test_broken_artifact_is_not_built_over(make: Any) -> None:
    first = make(1)
    (first.path / "model.json").unlink()
    with pytest.raises(TamperedArtifactError, match="remove that directory"):
        make(1)


def test_failing_stage_leaves_nothing(store: Store, fields: Any) -> None:
    def stage() -> None:
        with store.staging(fields()["key"]) as staging:
            (staging / "w").write_bytes(b"x")
            raise RuntimeError("stage broke")

    with pytest.raises(RuntimeError, match="stage broke"):
        stage()
    assert list((store.root / "staging").iterdir()) == []
    assert store.artifacts() == []


def test_publish_needs_the_lock_and_staging(store: Store, fields: Any, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="needs the lock"):
        store.publish(tmp_path, **fields())
    with store.lock(), pytest.raises(StoreError, match=r"made by Store\.staging"):
        store.publish(tmp_path, **fields())


def test_payload_may_hold_anything_with_a_plain_name(make: Any) -> None:
    odd = {"ünï cödé 模型.bin": b"1", "a b/c d/e": b"2", "empty": b"", "-rf": b"3", "x" * 255: b"4", "$(id)": b"5"}
    artifact = make(payload=odd)
    assert {name: artifact.read(name) for name in artifact.manifest.files} == odd
    assert artifact.verify() == []


def test_odd_payload_is_refused_and_nothing_is_sealed(store: Store, fields: Any, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    attacks = {
        "symbolic link": lambda d: (d / "w").symlink_to(tmp_path / "secret"),
        "'folder': a symbolic link": lambda d: (d / "folder").symlink_to(tmp_path),
        "hard link": lambda d: os.link(tmp_path / "secret", d / "w"),
        "not a regular file": lambda d: os.mkfifo(d / "w"),
        "control character": lambda d: (d / "a\nb").write_text(""),
        "backslash": lambda d: (d / "a\\b").write_text(""),
        "not valid Unicode": lambda d: Path(os.fsdecode(os.fsencode(d) + b"/\xff")).write_text(""),
        "reserved": lambda d: (d / "artifact.json").write_text("{}"),
        "only by case": lambda d: [(d / n).write_text("") for n in "aA"],
    }
    for reason, attack in attacks.items():
        with store.staging(fields()["key"]) as staging:
            attack(staging)
            with pytest.raises(ArtifactError, match=reason):
                store.publish(staging, **fields())
    assert store.artifacts() == []
    assert (tmp_path / "secret").read_text() == "s"


@pytest.mark.parametrize("key", ["", "..", "../../x", "A" * 64, "g" * 64, "0" * 63, "0" * 64 + "\n", "*"])
def test_keys_that_are_no_keys_never_become_paths(key: str, store: Store) -> None:
    for use in (store.find, store.checkpoint_dir, store.reports, lambda k: store.add_report(k, "a", [])):
        with pytest.raises(ArtifactError, match="64 hex"):
            use(key)
    with pytest.raises(ArtifactError, match="64 hex"), store.staging(key):
        pass


def test_resolve(make: Any, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = make(1), make(2, kind="quantized", stage="Qat")
    for ref in (a.digest, a.digest[:6], a.key[:9].upper(), f"sparse-{a.digest[:7]}", str(a.path), a.path, a.path.name):
        assert store.resolve(ref) == a
    monkeypatch.chdir(a.path.parent)
    assert store.resolve(b.path.name) == b
    for ref in (a.digest[:5], "", "-", "nothing", f"quantized-{a.digest[:8]}", "no/such/dir", "a\0b", "0" * 70):
        with pytest.raises(ArtifactNotFoundError):
            store.resolve(ref)


def test_resolve_names_near_candidates(make: Any, store: Store) -> None:
    artifact = make()
    wrong = artifact.digest[:7] + ("0" if artifact.digest[7] != "0" else "1")
    with pytest.raises(ArtifactNotFoundError, match=f"did you mean .*sparse-{artifact.digest[:12]}"):
        store.resolve(wrong)
    with pytest.raises(ArtifactNotFoundError, match="gpusq list"):
        Store(store.root.parent / "empty").resolve("abcdef12")


def test_ambiguous_prefix_is_refused(make: Any, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [make(seed) for seed in range(24)]
    monkeypatch.setattr("gpusq.artifacts.lookup.SHORTEST_PREFIX", 1)
    firsts = [a.digest[0] for a in made] + [a.key[0] for a in made]
    twice = next(c for c in firsts if firsts.count(c) > 2)
    with pytest.raises(ArtifactNotFoundError, match="ambiguous"):
        store.resolve(twice)


def test_lineage(make: Any, store: Store, parent_of: Any) -> None:
    dense = make(0, kind="dense", stage="Intake")
    sparse = make(1, parents=(parent_of(dense),))
    int8 = make(2, kind="quantized", stage="Qat", parents=(parent_of(sparse), parent_of(dense, "teacher")))
    assert store.children(dense.digest) == [sparse, int8]
    assert store.children(int8.digest) == []
    assert store.ancestors(int8) == [sparse, dense]
    assert store.ancestors(dense) == []
    assert store.artifacts() == [dense, sparse, int8]


def test_checkpoints_survive_until_their_key_is_published(make: Any, store: Store, fields: Any) -> None:
    key = fields(params={"seed": 1})["key"]
    mine, other = store.checkpoint_dir(key), store.checkpoint_dir("0" * 64)
    (mine / "step-5").write_bytes(b"x" * 10)
    (other / "step-5").write_bytes(b"y" * 10)
    with store.lock():
        pass
    assert store.checkpoint_dir(key) == mine
    assert (mine / "step-5").exists()
    make(1)
    assert not mine.exists()
    assert other.exists()


def test_gc_frees_leftovers_and_keeps_work(make: Any, store: Store) -> None:
    artifact = make()
    orphan = store.checkpoint_dir(artifact.key)
    (orphan / "a").write_bytes(b"x" * 100)
    unfinished = store.checkpoint_dir("1" * 64)
    (unfinished / "a").write_bytes(b"x" * 1000)
    (store.root / "staging/dead/deep").mkdir(parents=True)
    (store.root / "staging/dead/deep/w").write_bytes(b"x" * 10)
    report = store.add_report(artifact.digest, "cpu", [{"a": 1}])
    for age_s, name in ((0, "young"), (9999, "old")):
        path = report.parent / f".tmp-{name}"
        path.write_bytes(b"x")
        os.utime(path, (path.stat().st_mtime - age_s,) * 2)
    assert store.gc() == 111
    assert not orphan.exists()
    assert unfinished.exists()
    assert (report.parent / ".tmp-young").exists()
    assert store.reports(artifact.digest) == {"cpu": [{"a": 1}]}
    assert store.gc(unfinished=True) == 1000
    assert store.verify_all() == {artifact.path.name: []}


def test_cleaning_never_follows_links(store: Store, tmp_path: Path, make: Any) -> None:
    make()
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").write_text("p")
    (store.root / "staging/link").symlink_to(tmp_path / "precious")
    assert store.gc() == 0
    assert not os.path.lexists(store.root / "staging/link")
    (store.root / "staging").rmdir()
    (store.root / "staging").symlink_to(tmp_path / "precious")
    with pytest.raises(StoreError, match="symbolic link staging"), store.lock():
        pass
    assert (tmp_path / "precious/file").read_text() == "p"


def test_somebody_elses_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "staging").mkdir()
    (tmp_path / "staging/mine").write_text("m")
    with pytest.raises(StoreError, match="empty directory"), Store(tmp_path).lock():
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError), Store(tmp_path / "file").lock():
        pass
    assert (tmp_path / "staging/mine").read_text() == "m"


def test_reports_join_an_artifact_and_touch_no_seal(make: Any, store: Store) -> None:
    artifact = make()
    before = artifact.path.stat().st_mtime_ns
    rows = [{"target": "a100", "latency_ms": {"p50": 1.25}}]
    path = store.add_report(artifact.digest, "agx-orin-64gb@30W é", rows)
    store.add_report(artifact.digest, "cpu", [])
    store.add_report(artifact.digest, "cpu", rows)
    assert path == store.root / "reports" / artifact.digest / "agx-orin-64gb@30W é.json"
    assert store.reports(artifact.digest) == {"agx-orin-64gb@30W é": rows, "cpu": rows}
    assert artifact.verify() == []
    assert artifact.path.stat().st_mtime_ns == before
    path.write_text("{}")
    with pytest.raises(ArtifactError, match="measure again"):
        store.reports(artifact.digest)


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "/x", ".hidden", "a\0", "a\n", "x" * 300])
def test_report_names_stay_inside(name: str, store: Store) -> None:
    with pytest.raises(ArtifactError, match="report name"):
        store.add_report("0" * 64, name, [])


def test_report_rows_must_be_json(store: Store) -> None:
    with pytest.raises(ArtifactError, match="finite"):
        store.add_report("0" * 64, "cpu", [{"p50": float("nan")}])


def test_newer_store_is_refused_by_all(tmp_path: Path) -> None:
    (tmp_path / "store.json").write_text('{"schema_version": 2}')
    with pytest.raises(NewerSchemaError, match="upgrade gpusq"):
        Store(tmp_path)


@pytest.mark.parametrize("raw", ["", "{", "[]", "{}", "3"])
def test_unreadable_store_file_has_a_mend(raw: str, tmp_path: Path) -> None:
    (tmp_path / "store.json").write_text(raw)
    with pytest.raises(StoreError, match="schema_version"):
        Store(tmp_path)


def test_newer_artifact_beside_older_ones(make: Any, store: Store) -> None:
    old, new = make(1), make(2)
    path = new.path / "artifact.json"
    path.write_bytes(path.read_bytes().replace(b'"schema_version": 1', b'"schema_version": 9'))
    with pytest.raises(NewerSchemaError):
        store.find(new.key)
    assert store.artifacts() == [old]


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_modes_obey_the_umask(mask: int, make: Any) -> None:
    before = os.umask(mask)
    try:
        artifact = make()
    finally:
        os.umask(before)
    assert artifact.path.stat().st_mode & 0o777 == 0o777 & ~mask
    assert (artifact.path / "artifact.json").stat().st_mode & 0o777 == 0o666 & ~mask
    assert artifact.verify() == []


def test_odd_store_paths(tmp_path: Path, fields: Any, fill: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for root in ("with space/ünï 模型", "d" * 200 + "/" + "e" * 200, 'it\'s "quoted" $HOME', "-rf"):
        store = Store(root)
        with store.staging(fields()["key"]) as staging:
            fill(staging, {"w": b"1"})
            store.publish(staging, **fields())
        assert list(Store(Path(root)).verify_all().values()) == [[]]


@pytest.fixture
def as_somebody_else() -> Any:
    """Root may write anywhere, so run the test's body as another user."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    yield
    if root:
        os.seteuid(0)


def test_read_only_store_reads_and_refuses_writes(
    make: Any, store: Store, fields: Any, request: pytest.FixtureRequest
) -> None:
    artifact = make()
    store.add_report(artifact.digest, "cpu", [{"a": 1}])
    opened = [p for p in store.root.parents if os.geteuid() == 0 and p.stat().st_mode & 0o005 != 0o005]
    modes = {place: place.stat().st_mode for place in opened}
    for place in opened:
        place.chmod(0o755)
    for place in [store.root, *store.root.rglob("*")]:
        place.chmod(0o555 if place.is_dir() else 0o444)
    try:
        request.getfixturevalue("as_somebody_else")
        reader = Store(store.root)
        found = reader.find(artifact.key)
        assert found is not None
        assert found.read("model.json") == b'{"a": 1}'
        assert reader.verify_all() == {artifact.path.name: []}
        assert reader.reports(artifact.digest) == {"cpu": [{"a": 1}]}
        for write in (reader.gc, lambda: reader.checkpoint_dir("0" * 64), lambda: reader.add_report("0" * 64, "a", [])):
            with pytest.raises(StoreFullError, match="make that directory writable"):
                write()
        with pytest.raises(StoreFullError), reader.staging(fields()["key"]):
            pass
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        for place in [store.root, *store.root.rglob("*")]:
            place.chmod(0o755)
        for place, mode in modes.items():
            place.chmod(mode)


def test_reading_side_imports_neither_torch_nor_the_lock() -> None:
    code = "import sys, gpusq.artifacts; print(sorted({'torch', 'numpy', 'filelock', 'asyncio'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
