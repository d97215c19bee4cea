"""A store with small artifacts, for all tests of this room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpusq.artifacts import Artifact, Parent, Store, artifact_key

PAYLOAD = {"weights.safetensors": bytes(range(256)) * 8, "model.json": b'{"a": 1}', "engine/engine.bin": b"\x00" * 333}
Make = Callable[..., Artifact]


def fields(**changes: Any) -> dict[str, Any]:
    """The arguments of publish for one small artifact, with its key."""
    given: dict[str, Any] = {
        "stage": "Prune",
        "stage_version": 1,
        "params": {"pattern": "2:4", "score": "magnitude"},
        "parents": (),
        "inputs": {"data": "ab" * 32},
        "target": None,
        "toolchain": {"torch": "2.13"},
        **{name: value for name, value in changes.items() if name not in ("kind", "facts")},
    }
    given["key"] = artifact_key(**given)
    return {"kind": "sparse", "facts": {"sparsity": 0.5}, **given, **changes}


def parent_of(artifact: Artifact, role: str = "model") -> Parent:
    """The artifact as a parent."""
    return Parent(role=role, kind=artifact.kind, key=artifact.key, digest=artifact.digest)


def fill(staging: Path, payload: dict[str, bytes]) -> None:
    """Write payload files."""
    for name, data in payload.items():
        (staging / name).parent.mkdir(parents=True, exist_ok=True)
        (staging / name).write_bytes(data)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store that does not exist on disk yet."""
    return Store(tmp_path / "store")


@pytest.fixture
def make(store: Store) -> Make:
    """make(seed=0, payload=..., **fields) publishes an artifact."""

    def publish(seed: int = 0, payload: dict[str, bytes] | None = None, **changes: Any) -> Artifact:
        changes.setdefault("params", {"seed": seed})
        given = fields(**changes)
        with store.staging(given["key"]) as staging:
            fill(staging, PAYLOAD if payload is None else payload)
            return store.publish(staging, **given)

    return publish


@pytest.fixture(name="fields")
def fields_fixture() -> Callable[..., dict[str, Any]]:
    """See fields()."""
    return fields


@pytest.fixture(name="parent_of")
def parent_of_fixture() -> Callable[..., Parent]:
    """See parent_of()."""
    return parent_of


@pytest.fixture(name="fill")
def fill_fixture() -> Callable[[Path, dict[str, bytes]], None]:
    """See fill()."""
    return fill


@pytest.fixture
def payload() -> dict[str, bytes]:
    """The default payload."""
    return dict(PAYLOAD)
