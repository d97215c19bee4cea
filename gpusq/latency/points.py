"""Measured latencies to calibrate with: from a CSV file, or from a device (`device_points`)."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gpusq.errors import TableError
from gpusq.latency.csv_file import Record, read_records
from gpusq.latency.fit import Measured
from gpusq.latency.forms import FORM_DTYPES
from gpusq.latency.gemm import BYTES, shaped
from gpusq.targets import Target

SPARSITIES = ("dense", "2:4")
ENCODER = ("layers", "width", "heads", "mlp", "tokens", "batch")


@dataclass(frozen=True)
class GemmPoint:
    """One isolated call of [m, k] x [k, n] and its time in microseconds, launch included."""

    dtype: str
    sparsity: str
    m: int
    n: int
    k: int
    us: float


@dataclass(frozen=True)
class EncoderPoint:
    """One pass of an encoder in an engine; sizes as in ENCODER; us: microseconds of the whole batch."""

    dtype: str
    sparsity: str
    sizes: tuple[int, ...]
    us: float


@dataclass(frozen=True)
class Points:
    """source: where they come from, in words. sha256: of the file. conditions: libraries, driver and the like.

    named: what the rows call their GPU, "" for nothing. left_out: GPU -> its rows in the file that took no part.
    """

    gemms: tuple[GemmPoint, ...]
    encoders: tuple[EncoderPoint, ...] = ()
    source: str = "given"
    sha256: str = ""
    conditions: dict[str, str] = field(default_factory=dict)
    named: str = ""
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def gpu(self) -> str:
        """The GPU measured, by the name that the rows or the device give; "" where neither does."""
        return self.named or self.conditions.get("device", "")

    def by_path(self) -> dict[str, list[GemmPoint]]:
        """ "int8/2:4" -> its points, smallest product first."""
        found: dict[str, list[GemmPoint]] = {}
        for point in sorted(self.gemms, key=lambda p: p.m * p.n * p.k):
            found.setdefault(f"{point.dtype}/{point.sparsity}", []).append(point)
        return dict(sorted(found.items()))


def is_named(target: Target, gpu: str) -> bool:
    """Whether a GPU's name in free words may be this target: it has the words of its family, or no others than its.

    "NVIDIA A100-SXM4-80GB" is any A100; "H100" is none. h200 is of the family h100 and known by its own name too.
    """
    words, family = _words(gpu), _words(target.family)
    own = _words(target.name.partition("-")[0])
    model = any(any(c.isdigit() for c in word) and word in words for word in own)
    return family <= words or model or words <= _words(f"{target.name} {target.family} {target.title}")


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", text.lower()))


def measured_of(points: Sequence[GemmPoint]) -> Measured:
    """Points of one path as `fit_gemms` takes them. Dense INT8 writes INT32, the rest 16 bit (fp32 itself)."""
    first = points[0]
    out = 4.0 if (first.dtype, first.sparsity) == ("int8", "dense") else max(BYTES[first.dtype], 2.0)
    m, n, k, us = (np.array([getattr(p, name) for p in points], dtype=np.float64) for name in ("m", "n", "k", "us"))
    return Measured(shaped(m, n, k, out), us)


def read_points(path: Path, target: Target) -> Points:
    """The rows of a CSV file: gpu,dtype,sparsity,m,n,k,latency_us, or with kind "encoder" the sizes of ENCODER.

    Other columns are ignored. Rows of several GPUs: those are taken whose `gpu` names the target (`is_named`), the
    others counted in left_out. Raises TableError naming file, line and column.
    """
    every = read_records(path, "gpu")
    records = _of_target(every, target, path)
    gemms = [_gemm(r) for r in records if _kind(r) == "gemm"]
    encoders = [_encoder(r) for r in records if _kind(r) == "encoder"]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    names = sorted({r.cells["gpu"] for r in records if r.cells.get("gpu")})
    source = f"{path.name}" + (f", gpu {', '.join(names)}" if names else "")
    left_out = Counter(_gpu(r) for r in every) - Counter(_gpu(r) for r in records)
    return Points(
        tuple(gemms), tuple(encoders), source, digest, named=", ".join(names), left_out=dict(sorted(left_out.items()))
    )


def _gpu(record: Record) -> str:
    return record.cells.get("gpu", "")


def _of_target(records: list[Record], target: Target, path: Path) -> list[Record]:
    names = dict.fromkeys(_gpu(r) for r in records)
    if len(names) < 2:
        return records
    kept = [r for r in records if is_named(target, _gpu(r))]
    if not kept or len({_gpu(r).lower() for r in kept}) > 1:
        raise TableError(
            f"{path}: the rows are those of one GPU, or name {target.name}",
            got=f"gpu {', '.join(names)}",
            do="keep the rows of the device to calibrate",
        )
    return kept


def _kind(record: Record) -> str:
    kind = record.cells.get("kind", "").lower() or ("encoder" if record.cells.get("layers") else "gemm")
    if kind not in ("gemm", "encoder"):
        raise TableError(f"{record.place}, column kind is gemm or encoder", got=repr(kind), do="correct the cell")
    return kind


def _path(record: Record) -> tuple[str, str]:
    dtype, sparsity = record.text("dtype").lower(), record.text("sparsity").lower()
    for column, text, words in (("dtype", dtype, FORM_DTYPES), ("sparsity", sparsity, SPARSITIES)):
        if text not in words:
            raise TableError(
                f"{record.place}, column {column} is one of {', '.join(words)}", got=repr(text), do="correct the cell"
            )
    return dtype, sparsity


def _gemm(record: Record) -> GemmPoint:
    dtype, sparsity = _path(record)
    m, n, k = (record.size(name) for name in ("m", "n", "k"))
    return GemmPoint(dtype, sparsity, m, n, k, record.microseconds("latency_us"))


def _encoder(record: Record) -> EncoderPoint:
    dtype, sparsity = _path(record)
    sizes = tuple(record.size(name) for name in ENCODER)
    if sizes[1] % sizes[2]:
        raise TableError(
            f"{record.place}, column width is divisible by heads", got=f"{sizes[1]}, {sizes[2]}", do="correct the row"
        )
    return EncoderPoint(dtype, sparsity, sizes, record.microseconds("latency_us"))
