"""layers.json and workload.json of any artifact: read and written in one place, without torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpusq.workload import Layer, Workload

if TYPE_CHECKING:
    from gpusq.artifacts import Artifact

CARRIED = ("model.json", "layers.json", "workload.json")
"""Files that every artifact from the dense model on carries."""


def read_layers(artifact: Artifact) -> tuple[Layer, ...]:
    """The layer states of an artifact."""
    return tuple(Layer(**layer) for layer in artifact.read_json("layers.json"))


def read_workload(artifact: Artifact) -> Workload:
    """The operators of an artifact."""
    return Workload.from_json(artifact.read_json("workload.json"))


def write_layers(layers: Sequence[Layer], workload: Workload, out: Path) -> None:
    """Write both files into `out`."""
    write_json(out / "layers.json", [asdict(layer) for layer in layers])
    write_json(out / "workload.json", workload.to_json())


def carry(parent: Artifact, out: Path) -> None:
    """Copy the carried files, hash-checked, from a parent."""
    for name in CARRIED:
        (out / name).write_bytes(parent.read(name))


def write_json(path: Path, value: Any) -> None:
    """Deterministic JSON: sorted keys, two spaces."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
