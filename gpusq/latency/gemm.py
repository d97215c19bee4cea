"""Time of one GEMM from its shape: tiles, waves, memory, cache traffic and the latency of one tile.

A handful of physical parameters per (device, precision, sparsity) stand in `targets.Fit`; the two constants here
are shared by all paths. `benchmarks/fit_latency.py` fits the parameters and writes the residuals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpusq.targets import Fit, Target

Floats = NDArray[np.float64]

# Output tiles that GEMM libraries offer on SM 8.x and 9.0; the cheapest is taken, as their heuristics would.
TILES = np.array(
    [(256, 128), (128, 256), (128, 128), (128, 64), (64, 128), (64, 64), (64, 32), (256, 64), (32, 64)],
    dtype=np.float64,
)
# A smaller tile rereads its operands more often: its efficiency falls by TILE_LOSS * (1/rows + 1/columns).
TILE_LOSS = 8.0
# How far a last, partly filled wave costs a whole one; the rest is hidden by the waves before it.
WAVE_SHARE = 0.7
BASE_TILE = 128.0

BYTES = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "int8": 1.0, "int4": 0.5}
# Stored share of a 2:4 weight: half the values and a 2-bit index for each kept one (pairs share it in int4).
SPARSE_SHARE = {"fp32": 0.53125, "fp16": 0.5625, "bf16": 0.5625, "int8": 0.625, "int4": 0.625}


@dataclass(frozen=True)
class Gemms:
    """Shapes [m, k] x [k, n], `count` times each; float arrays [g].

    inputs: activation elements read (fewer than count * m * k where a convolution rereads its image).
    out_bytes: bytes of one output element.
    """

    m: Floats
    n: Floats
    k: Floats
    count: Floats
    inputs: Floats
    out_bytes: Floats


@dataclass(frozen=True)
class Speed:
    """What a path of a device offers: peak in TOPS, bandwidth in GB/s, parallel units (None: no tiles, a CPU)."""

    dtype: str
    sparsity: str
    peak_tops: float
    bandwidth_gbs: float
    units: int | None


@dataclass(frozen=True)
class Terms:
    """Times in microseconds [g] without any launch; total is their norm of order `sharpness`."""

    compute: Floats
    memory: Floats
    total: Floats


def speed_of(target: Target, dtype: str, sparsity: str) -> Speed:
    """The datasheet side of a path. Raises UsageError for a path that the target does not know."""
    units = target.units if target.is_gpu else None
    return Speed(dtype, sparsity, target.peak(dtype, sparsity), target.bandwidth_gbs, units)


def weight_bytes(dtype: str, sparsity: str) -> float:
    """Bytes per weight as stored for the kernel, 2:4 indices included."""
    return BYTES[dtype] * (SPARSE_SHARE[dtype] if sparsity == "2:4" else 1.0)


def gemm_us(gemms: Gemms, speed: Speed, fit: Fit) -> Terms:
    """Times of GEMMs on one path, in microseconds.

    total = |(compute, memory, cache, latency)|_sharpness. Add `fit.t0_us` for an isolated call.
    compute: waves of the cheapest tile at the fitted share of the peak. memory: each operand once from DRAM.
    cache: operands as often as waves of tiles reread them. latency: k steps of one tile, which nothing shortens.
    """
    compute = _compute_us(gemms, speed) / fit.compute_efficiency
    once, reread = _traffic_us(gemms, speed)
    memory = once / fit.memory_efficiency
    if speed.units is None or fit.cache_efficiency is None:
        slow = [compute, memory]
    else:
        memory = np.maximum(memory, 1e-12)
        slow = [compute, memory, reread / fit.cache_efficiency, fit.k_latency_us * gemms.k / 1e3]
    return Terms(compute, np.maximum.reduce(slow[1:]), _norm(slow, fit.sharpness))


def _compute_us(gemms: Gemms, speed: Speed) -> Floats:
    flops = 2.0 * gemms.count * gemms.m * gemms.n * gemms.k
    if speed.units is None:
        return flops / (speed.peak_tops * 1e6)
    rows, columns = TILES[:, 0], TILES[:, 1]
    tiles = np.ceil(gemms.m[:, None] / rows) * np.ceil(gemms.n[:, None] / columns) * gemms.count[:, None]  # [g, tiles]
    filled = tiles / speed.units
    waves = WAVE_SHARE * np.ceil(filled) + (1 - WAVE_SHARE) * np.maximum(filled, 1.0)
    loss = 1.0 + TILE_LOSS * (1 / rows + 1 / columns - 2 / BASE_TILE)
    work = 2.0 * rows * columns * loss * gemms.k[:, None]
    unit_rate = speed.peak_tops * 1e6 / speed.units
    best: Floats = (waves * work).min(axis=1) / unit_rate
    return best


def _traffic_us(gemms: Gemms, speed: Speed) -> tuple[Floats, Floats]:
    """(each operand once, operands as the waves reread them) at the full bandwidth."""
    rate = speed.bandwidth_gbs * 1e3  # bytes per microsecond
    weights = gemms.count * gemms.n * gemms.k * weight_bytes(speed.dtype, speed.sparsity) / rate
    inputs = gemms.inputs * BYTES[speed.dtype] / rate
    outputs = gemms.count * gemms.m * gemms.n * gemms.out_bytes / rate
    if speed.units is None:
        return weights + inputs + outputs, np.zeros_like(weights)
    # A wave of tiles is laid along n first: it spans `wide` columns and, where n is short, several rows of tiles.
    wide = speed.units * BASE_TILE
    waves = gemms.m * gemms.n / (wide * BASE_TILE)
    deep = np.maximum(1.0, wide / gemms.n) * BASE_TILE
    reread = waves * (weights * np.minimum(gemms.n, wide) / gemms.n + inputs * np.minimum(deep / gemms.m, 1.0))
    return weights + inputs + outputs, reread


def _norm(terms: list[Floats], order: float) -> Floats:
    largest = np.maximum.reduce(terms)
    total: Floats = largest * np.sum([(term / largest) ** order for term in terms], axis=0) ** (1.0 / order)
    return total
