"""The schema of a target file: every fact is a value with its source; unknown keys are refused."""

from __future__ import annotations

import itertools
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, StringConstraints, model_validator

Family = Literal["a100", "h100", "agx-orin", "cpu"]
Source = Annotated[str, StringConstraints(strip_whitespace=True, min_length=8)]
PathKey = Annotated[str, StringConstraints(pattern=r"^(fp32|fp16|bf16|int8|fp8|int4)/(dense|2:4)$")]
Efficiency = Annotated[float, Field(gt=0, le=2)]
Value = TypeVar("Value")


class Strict(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Fact(Strict, Generic[Value]):
    """One value and where it comes from."""

    value: Value
    source: Source


class Band(Strict):
    """Half-width of the 90 % interval, as |ln(predicted / measured)|, for predictions up to `up_to_us` microseconds."""

    up_to_us: PositiveFloat
    ln_error: PositiveFloat


class Fit(Strict):
    """How fast one GEMM path (dtype/sparsity) runs beside the datasheet; the formula is `latency.gemm.gemm_us`.

    t0_us: time of an isolated kernel that does nothing. compute_efficiency: share of the peak that kernels reach where
    power allows; memory_efficiency: of the DRAM bandwidth. cache_efficiency: cache traffic against the DRAM bandwidth
    (above 1: the cache is faster); None leaves the term out. k_latency_us: shortest time of one tile, for 1000 steps
    along k. sharpness: order of the norm that joins the terms; 1 adds them, infinity takes the largest.
    picojoules: energy of one operation on a 7 nm part, which caps the rate at the board's power; None: no cap.
    slowdown: kernels of t microseconds lose (1 + t / 100)^slowdown as the board warms to its limits.
    error_p90: half-width of the 90 % interval in ln. bands: the same by predicted time, ascending; beyond the last
    the last holds; empty: error_p90 everywhere. scaled: not fitted, taken from another path by the ratio of peaks.
    """

    t0_us: Annotated[float, Field(ge=0)]
    compute_efficiency: Efficiency
    memory_efficiency: Efficiency
    cache_efficiency: PositiveFloat | None = None
    k_latency_us: Annotated[float, Field(ge=0)] = 0.0
    sharpness: Annotated[float, Field(ge=1, le=64)] = 1.0
    picojoules: PositiveFloat | None = None
    slowdown: Annotated[float, Field(ge=0, le=1)] = 0.0
    error_p90: PositiveFloat
    bands: tuple[Band, ...] = ()
    scaled: bool = False
    source: Source

    @model_validator(mode="after")
    def _bands_ascend(self) -> Fit:
        ends = [band.up_to_us for band in self.bands]
        if any(later <= earlier for earlier, later in itertools.pairwise(ends)):
            raise ValueError(f"bands go up in up_to_us, not {ends}")
        return self


class EngineFit(Strict):
    """How GEMMs and the rest run inside one engine, back to back in one graph.

    start_us: time of an empty engine. kernel_us: gap and ramp of one kernel in the graph (replaces t0_us).
    gemm_scale: multiplies the compute time of a path (clocks, output type, fused epilogues); that of the path of
    equal width, or 1, where a path is not named. attention_efficiency: share of the base precision's dense peak that
    fused attention reaches. memory_efficiency: share of the bandwidth that LayerNorm-like kernels reach. error_p90:
    half-width of the 90 % interval of whole models, as |ln(predicted / published)|, widened where stated.
    """

    start_us: Annotated[float, Field(ge=0)]
    kernel_us: Annotated[float, Field(ge=0)]
    gemm_scale: dict[PathKey, PositiveFloat] = Field(default_factory=dict)
    attention_efficiency: Efficiency
    memory_efficiency: Efficiency
    error_p90: PositiveFloat
    source: Source

    def scale(self, dtype: str, sparsity: str) -> float:
        """The factor on a path's compute time; that of the float or 8-bit path of equal width where it has none."""
        twin = {"bf16": "fp16", "fp8": "int8"}.get(dtype, dtype)
        return self.gemm_scale.get(f"{dtype}/{sparsity}", self.gemm_scale.get(f"{twin}/{sparsity}", 1.0))


class Mode(Strict):
    """A power mode: its peaks and bandwidth as a share of the variant's maximum; units: what stays switched on."""

    peak_scale: Fact[Annotated[float, Field(gt=0, le=1)]]
    bandwidth_scale: Fact[Annotated[float, Field(gt=0, le=1)]]
    units: Fact[PositiveInt] | None = None


class Variant(Strict):
    """One member of the family; peak_scale is against the family's peaks.

    power_w: what the board may draw, in watts; absent where clocks and not power are the limit.
    """

    title: str
    memory_gib: Fact[PositiveFloat]
    bandwidth_gbs: Fact[PositiveFloat]
    cache_mib: Fact[PositiveFloat]
    units: Fact[PositiveInt]
    peak_scale: Fact[Annotated[float, Field(gt=0)]]
    power_w: Fact[PositiveFloat] | None = None
    default_mode: str | None = None
    modes: dict[str, Mode] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _default_mode_is_known(self) -> Variant:
        if self.default_mode is None and not self.modes:
            return self
        if self.default_mode not in self.modes:
            raise ValueError(f"default_mode {self.default_mode!r} is not one of {sorted(self.modes)}")
        return self


class TargetFile(Strict):
    """A whole target file.

    energy_scale: energy of one operation against a 7 nm part.
    """

    schema_version: Literal[1]
    family: Family
    default: str
    compute_capability: Fact[str] | None = None
    tensorrt: Fact[tuple[str, ...]]
    rtx_capability: Fact[tuple[str, ...]]
    energy_scale: Fact[PositiveFloat] | None = None
    peaks_tops: dict[PathKey, Fact[PositiveFloat]]
    variants: dict[str, Variant]
    fits: dict[PathKey, Fit]
    engine: EngineFit

    @model_validator(mode="after")
    def _names_agree(self) -> TargetFile:
        if self.default not in self.variants:
            raise ValueError(f"default {self.default!r} is not one of {sorted(self.variants)}")
        for key in self.fits:
            if key not in self.peaks_tops:
                raise ValueError(f"fits.{key!r} has no entry in peaks_tops")
        return self
