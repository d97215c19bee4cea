"""The schema of a target file: every fact is a value with its source; unknown keys are refused."""

from __future__ import annotations

from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, StringConstraints, model_validator

Family = Literal["a100", "agx-orin", "cpu"]
Source = Annotated[str, StringConstraints(strip_whitespace=True, min_length=8)]
PathKey = Annotated[str, StringConstraints(pattern=r"^(fp32|fp16|bf16|int8|int4)/(dense|2:4)$")]
Efficiency = Annotated[float, Field(gt=0, le=2)]
Value = TypeVar("Value")


class Strict(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Fact(Strict, Generic[Value]):
    """One value and where it comes from."""

    value: Value
    source: Source


class Fit(Strict):
    """How fast one GEMM path (dtype/sparsity) runs beside the datasheet; the formula is `latency.gemm.gemm_us`.

    t0_us: time of an isolated kernel that does nothing. compute_efficiency: sustained share of the peak;
    memory_efficiency: of the bandwidth, each operand moved once (above 1 where the cache serves it).
    cache_efficiency: operand traffic of all tiles against the bandwidth; None leaves the term out.
    k_latency_us: shortest time of one tile, for 1000 steps along k. sharpness: order of the norm that joins the
    terms; 1 adds them, infinity takes the largest. error_p90: 0.9 quantile of |ln(predicted / measured)|.
    """

    t0_us: Annotated[float, Field(ge=0)]
    compute_efficiency: Efficiency
    memory_efficiency: Efficiency
    cache_efficiency: PositiveFloat | None = None
    k_latency_us: Annotated[float, Field(ge=0)] = 0.0
    sharpness: Annotated[float, Field(ge=1, le=64)] = 1.0
    error_p90: PositiveFloat
    source: Source


class EngineFit(Strict):
    """How GEMMs and the rest run inside one engine, back to back in one graph.

    start_us: time of an empty engine. kernel_us: gap and ramp of one kernel in the graph (replaces t0_us).
    gemm_scale: multiplies the GEMM time of a path (clocks, output type, fused epilogues); 1 where a path is not
    named. attention_efficiency: share of the base precision's dense peak that fused attention reaches.
    memory_efficiency: share of the bandwidth that LayerNorm-like kernels reach. error_p90: 0.9 quantile of
    |ln(predicted / published)| over whole models, widened where stated.
    """

    start_us: Annotated[float, Field(ge=0)]
    kernel_us: Annotated[float, Field(ge=0)]
    gemm_scale: dict[PathKey, PositiveFloat] = Field(default_factory=dict)
    attention_efficiency: Efficiency
    memory_efficiency: Efficiency
    error_p90: PositiveFloat
    source: Source

    def scale(self, dtype: str, sparsity: str) -> float:
        """The factor on a path's GEMM time."""
        return self.gemm_scale.get(f"{dtype}/{sparsity}", 1.0)


class Mode(Strict):
    """A power mode: its peaks and bandwidth as a share of the variant's maximum."""

    peak_scale: Fact[Annotated[float, Field(gt=0, le=1)]]
    bandwidth_scale: Fact[Annotated[float, Field(gt=0, le=1)]]


class Variant(Strict):
    """One member of the family; peak_scale is against the family's peaks."""

    title: str
    memory_gib: Fact[PositiveFloat]
    bandwidth_gbs: Fact[PositiveFloat]
    cache_mib: Fact[PositiveFloat]
    units: Fact[PositiveInt]
    peak_scale: Fact[Annotated[float, Field(gt=0)]]
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
    """A whole target file."""

    schema_version: Literal[1]
    family: Family
    default: str
    compute_capability: Fact[str] | None = None
    tensorrt: Fact[tuple[str, ...]]
    rtx_capability: Fact[tuple[str, ...]]
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
