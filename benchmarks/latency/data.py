"""The published measurements under benchmarks/data: GEMM tables by path, and whole encoders."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpusq.latency.fit import Measured
from gpusq.latency.gemm import Gemms, Speed, shaped, speed_of
from gpusq.targets import load_target

Floats = NDArray[np.float64]
HERE = Path(__file__).resolve().parents[1]
GEMMS = HERE / "data" / "gemm_latency.csv"
PUBLISHED = HERE / "data" / "published_latency.csv"
RESULTS = HERE / "results"
BOARDS = {"A100": "a100-80gb-pcie", "H100": "h100-pcie"}  # what the table calls a GPU, and which board it was


@dataclass(frozen=True)
class Table:
    """GEMM rows of one path on one board; workload names the model whose layers they are."""

    gpu: str
    path: str
    measured: Measured
    workload: NDArray[np.str_]
    speed: Speed

    def where(self, mask: NDArray[np.bool_]) -> Table:
        """The rows of the mask."""
        return Table(self.gpu, self.path, self.measured.where(mask), self.workload[mask], self.speed)

    @property
    def workloads(self) -> list[str]:
        """Names, sorted."""
        return sorted(set(self.workload.tolist()))


def read_tables(path: Path = GEMMS) -> dict[tuple[str, str], Table]:
    """Tables by (gpu, "int8/2:4"). Dense INT8 rows write INT32, all others 16 bit."""
    rows: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rows.setdefault((row["gpu"], row["dtype"].lower(), row["sparsity"]), []).append(row)
    tables = {}
    for (gpu, dtype, sparsity), part in sorted(rows.items()):
        m, n, k, us = (np.array([float(row[c]) for row in part]) for c in ("m", "n", "k", "latency_us"))
        gemms: Gemms = shaped(m, n, k, 4.0 if (dtype, sparsity) == ("int8", "dense") else 2.0)
        speed = speed_of(load_target(BOARDS[gpu]), dtype, sparsity)
        workload = np.array([row["workload"] for row in part])
        tables[gpu, f"{dtype}/{sparsity}"] = Table(gpu, f"{dtype}/{sparsity}", Measured(gemms, us), workload, speed)
    return tables


def provenance(path: Path = GEMMS) -> str:
    """Name and hash of the measurements."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return f"{path.name} sha256 {digest}, bcacdwk/vllmbench: best of cuBLASLt (dense) or cuSPARSELt (2:4), CUDA 12.9"


# layers, width, heads, mlp, tokens, and for images inputs of a patch and patches.
ENCODERS = {
    "vit_base_patch16_224": (12, 768, 12, 3072, 197, 768, 196),
    "ViT-B/16 224": (12, 768, 12, 3072, 197, 768, 196),
    "ViT-B/16 384": (12, 768, 12, 3072, 577, 768, 576),
    "BERT-base enc (12x768) seq128": (12, 768, 12, 3072, 128),
    "BERT-large enc (24x1024) seq128": (24, 1024, 16, 4096, 128),
    "BERT-large enc (24x1024) seq384": (24, 1024, 16, 4096, 384),
    "Megatron/BERT-large enc (24x1024) seq128": (24, 1024, 16, 4096, 128),
}


@dataclass(frozen=True)
class Model:
    """One published row of a plain encoder."""

    runtime: str
    name: str
    sizes: tuple[int, ...]
    int8: bool
    sparse: bool
    batch: int
    published_ms: float

    @property
    def group(self) -> str:
        """Rows that differ only in batch."""
        return f"{self.runtime}: {self.name} {'INT8' if self.int8 else 'FP16'}{' 2:4' if self.sparse else ''}"


def read_models(path: Path = PUBLISHED) -> list[Model]:
    """A100 rows of plain encoders in FP16 or INT8, eager PyTorch left out."""
    models = []
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            key = next((k for k in (row["model"], f"{row['model']} {row['input']}") if k in ENCODERS), None)
            wanted = key and row["device"].startswith("A100") and row["precision"] in ("FP16", "INT8")
            if not wanted or not key or not row["latency_ms"] or row["runtime"].startswith("PyTorch"):
                continue
            int8, sparse = row["precision"] == "INT8", row["sparsity"] == "2:4"
            batch, ms = int(row["batch"]), float(row["latency_ms"])
            models.append(Model(row["runtime"].split(" (")[0], key, ENCODERS[key], int8, sparse, batch, ms))
    return models
