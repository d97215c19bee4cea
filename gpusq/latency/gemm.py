"""Time of one GEMM from its shape: tiles, waves, memory, cache traffic and the latency of one tile.

A handful of physical parameters per (device, precision, sparsity) stand in `targets.Fit`, fitted by `latency.fit`;
`benchmarks/fit_latency.py` writes their residuals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpusq.targets import Fit, Target

Floats = NDArray[np.float64]

LARGEST_SIZE = 2**24
"""No m, n or k, and no size of a model, may be larger: a guard against a slip of the keyboard."""

# Output tiles that GEMM libraries offer on SM 8.x and 9.0; the cheapest is taken, as their heuristics would.
TILES = np.array(
    [(256, 128), (128, 256), (128, 128), (128, 64), (64, 128), (64, 64), (64, 32), (256, 64), (32, 64)],
    dtype=np.float64,
)
# Six constants shared by all devices and paths, set by hand on the GEMM table that docs/latency.md describes.
# A smaller tile rereads its operands more often: its efficiency falls by TILE_LOSS * (1/rows + 1/columns).
TILE_LOSS = 8.0
# How far a last, partly filled wave costs a whole one; the rest is hidden by the waves before it.
WAVE_SHARE = 0.6
# Operands stay in the cache from one call to the next up to this share of it, and how sharply that ends.
CACHE_SHARE = 0.7
CACHE_EDGE = 8.0
# Order of the norm that joins the rate of the tensor cores and the rate that the board's power allows.
POWER_EDGE = 6.0
# Kernels longer than this many microseconds lose rate by the path's `slowdown`.
WARM_US = 100.0
BASE_TILE = 128.0
LEAST_US = 1e-12

BYTES = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "int8": 1.0, "fp8": 1.0, "int4": 0.5}
# Stored share of a 2:4 weight: half the values and a 2-bit index for each kept one (pairs share it in int4).
SPARSE_SHARE = {"fp32": 0.53125, "fp16": 0.5625, "bf16": 0.5625, "int8": 0.625, "fp8": 0.625, "int4": 0.625}


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

    def where(self, mask: NDArray[np.bool_] | NDArray[np.int64]) -> Gemms:
        """The rows that a mask or index array selects."""
        return Gemms(**{name: column[mask] for name, column in vars(self).items()})


@dataclass(frozen=True)
class Speed:
    """What a path of a device offers: peak in TOPS, bandwidth in GB/s, parallel units (None: no tiles, a CPU).

    cache_bytes: the last cache. power_w: watts that a 7 nm part of equal power would have; None where clocks limit.
    """

    dtype: str
    sparsity: str
    peak_tops: float
    bandwidth_gbs: float
    units: int | None
    cache_bytes: float = 0.0
    power_w: float | None = None


@dataclass(frozen=True)
class Terms:
    """Times in microseconds [g] without any launch; total is their norm of order `sharpness`.

    latency: what more units or bandwidth would not shorten, the steps of one tile along k.
    """

    compute: Floats
    memory: Floats
    latency: Floats
    total: Floats


def speed_of(target: Target, dtype: str, sparsity: str) -> Speed:
    """The datasheet side of a path. Raises UsageError for a path that the target does not know."""
    units = target.units if target.is_gpu else None
    power = target.power_w / target.energy_scale if target.power_w else None
    cache = target.cache_mib * 2.0**20
    return Speed(dtype, sparsity, target.peak(dtype, sparsity), target.bandwidth_gbs, units, cache, power)


def shaped(m: object, n: object, k: object, out_bytes: object) -> Gemms:
    """Plain GEMMs from numbers or arrays of equal length."""
    rows, columns, steps = (np.atleast_1d(np.asarray(x, dtype=np.float64)) for x in (m, n, k))
    wide = np.broadcast_to(np.asarray(out_bytes, dtype=np.float64), rows.shape)
    return Gemms(rows, columns, steps, np.ones_like(rows), rows * steps, wide)


def weight_bytes(dtype: str, sparsity: str) -> float:
    """Bytes per weight as stored for the kernel, 2:4 indices included."""
    return BYTES[dtype] * (SPARSE_SHARE[dtype] if sparsity == "2:4" else 1.0)


def gemm_us(gemms: Gemms, speed: Speed, fit: Fit, competing_bytes: float = 0.0) -> Terms:
    """Times of GEMMs on one path, in microseconds.

    total = |(compute, dram, cache, latency)|_sharpness. Add `fit.t0_us` for an isolated call.
    compute: waves of the cheapest tile at the fitted share of the peak, held by the board's power. dram: each operand
    once, less what the cache kept from the call before. cache: that rest, or operands as often as waves of tiles
    reread them. latency: k steps of one tile, which nothing shortens.
    competing_bytes: what else passes through the cache before these weights are used again (a model's other
    weights); 0 for a call repeated on the same operands.
    """
    compute = _compute_us(gemms, speed, fit)
    if speed.units is None or fit.cache_efficiency is None:
        weights, moved = _traffic_us(gemms, speed)
        memory, latency = (weights + moved) / fit.memory_efficiency, np.zeros_like(weights)
        return Terms(compute, memory, latency, norm([compute, memory], fit.sharpness))
    dram, cache = _levels_us(gemms, speed, competing_bytes)
    dram, cache = dram / fit.memory_efficiency, cache / fit.cache_efficiency
    latency = fit.k_latency_us * gemms.k / 1e3
    return Terms(compute, np.maximum(dram, cache), latency, norm([compute, dram, cache, latency], fit.sharpness))


def _compute_us(gemms: Gemms, speed: Speed, fit: Fit) -> Floats:
    work = 2.0 * gemms.count * gemms.m * gemms.n * gemms.k
    if speed.units is None:
        return work / (speed.peak_tops * 1e6 * fit.compute_efficiency)
    rows, columns = TILES[:, 0], TILES[:, 1]
    tiles = np.ceil(gemms.m[:, None] / rows) * np.ceil(gemms.n[:, None] / columns) * gemms.count[:, None]  # [g, tiles]
    filled = tiles / speed.units
    waves = WAVE_SHARE * np.ceil(filled) + (1 - WAVE_SHARE) * np.maximum(filled, 1.0)
    loss = 1.0 + TILE_LOSS * (1 / rows + 1 / columns - 2 / BASE_TILE)
    unit_rate = speed.peak_tops * 1e6 / speed.units * fit.compute_efficiency
    cold: Floats = (waves * 2.0 * rows * columns * loss * gemms.k[:, None]).min(axis=1) / unit_rate
    if speed.power_w and fit.picojoules:
        cold = norm([cold, work * fit.picojoules * 1e-6 / speed.power_w], POWER_EDGE)
    warm: Floats = cold * (1.0 + cold / WARM_US) ** fit.slowdown
    return warm


def _traffic_us(gemms: Gemms, speed: Speed) -> tuple[Floats, Floats]:
    """(weights, activations in and out) once at the full bandwidth."""
    rate = speed.bandwidth_gbs * 1e3  # bytes per microsecond
    weights = gemms.count * gemms.n * gemms.k * weight_bytes(speed.dtype, speed.sparsity)
    moved = gemms.inputs * BYTES[speed.dtype] + gemms.count * gemms.m * gemms.n * gemms.out_bytes
    return weights / rate, moved / rate


def _levels_us(gemms: Gemms, speed: Speed, competing_bytes: float) -> tuple[Floats, Floats]:
    """(DRAM, cache) traffic, both at the full DRAM bandwidth."""
    weights, moved = _traffic_us(gemms, speed)
    own = (weights + moved) * speed.bandwidth_gbs * 1e3
    dram = weights * missing(np.maximum(own, competing_bytes), speed) + moved * missing(own, speed)
    # A wave of tiles is laid along n first: it spans `wide` columns and, where n is short, several rows of tiles.
    wide = (speed.units or 1) * BASE_TILE
    waves = gemms.m * gemms.n / (wide * BASE_TILE)
    deep = np.maximum(1.0, wide / gemms.n) * BASE_TILE
    inputs = gemms.inputs * BYTES[speed.dtype] / (speed.bandwidth_gbs * 1e3)
    reread = waves * (weights * np.minimum(gemms.n, wide) / gemms.n + inputs * np.minimum(deep / gemms.m, 1.0))
    return dram, np.maximum(reread, weights + moved - dram)


def missing(footprint: Floats, speed: Speed) -> Floats:
    """Share (0 to 1) of a footprint in bytes that the cache did not keep since its last use."""
    kept = CACHE_SHARE * speed.cache_bytes / np.maximum(footprint, 1.0)
    share: Floats = 1.0 / (1.0 + np.minimum(kept, 1e6) ** CACHE_EDGE)
    return share


def norm(terms: list[Floats], order: float) -> Floats:
    """The norm of this order over terms of equal shape: between their largest and their sum."""
    largest = np.maximum(np.maximum.reduce(terms), LEAST_US)
    total: Floats = largest * np.sum([(term / largest) ** order for term in terms], axis=0) ** (1.0 / order)
    return total
