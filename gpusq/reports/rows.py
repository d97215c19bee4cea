"""The report row: one artifact, one target, one batch, never without its conditions.

A row is either measured (it ran: median, p90, p99, repeats, warm-up) or predicted (a model says so: a 90 %
interval). The two carry different fields, so a row whose label is flipped no longer validates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gpusq.errors import ArtifactError

Status = Literal["measured", "predicted"]
Precision = Literal["fp32", "fp16", "bf16", "int8", "int4"]
Sparsity = Literal["dense", "2:4", "4:8"]
Text = Annotated[str, Field(min_length=1)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]

_SUM_TOLERANCE = 1e-6  # rounding of shares that were summed as floats


class Sealed(BaseModel):
    """Base of every model in a report: unknown keys, NaN and infinity are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ArtifactRef(Sealed):
    """The artifact a row is about; variant names the form, e.g. "dense-fp16" or "sparse-int8"."""

    kind: Text
    digest: Text
    stage: Text
    variant: Text


class Latency(Sealed):
    """Milliseconds per call of a whole batch.

    p50: the median (measured) or the point prediction (predicted); always given.
    p90, p99, n (timed calls), warmup (calls before them): measured only.
    noise_low, noise_high: optional bounds of the median where the stopwatch knows them better than the p50..p90
    spread does; measured only.
    low, high: the 90 % interval; predicted only.
    """

    p50: Positive
    p90: Positive | None = None
    p99: Positive | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    warmup: Count | None = None
    noise_low: Positive | None = None
    noise_high: Positive | None = None
    low: Positive | None = None
    high: Positive | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Latency:
        """Percentiles and bounds must be in order around the median."""
        for names in (("p50", "p90", "p99"), ("low", "p50", "high"), ("noise_low", "p50", "noise_high")):
            known = [value for value in (getattr(self, name) for name in names) if value is not None]
            if known != sorted(known):
                raise ValueError(f"latency_ms must be ordered {' <= '.join(names)}, got {known}")
        if (self.noise_low is None) != (self.noise_high is None):
            raise ValueError("noise_low and noise_high come together")
        return self


class Accuracy(Sealed):
    """metric, e.g. "top1"; value as a fraction, 0 to 1; n images of `split` (annotated boxes, where the
    metric is an AP); how: what ran them.

    also: further figures of the same run, as a fraction each, e.g. "AP50" beside "AP".
    """

    metric: Text
    value: Fraction
    n: Annotated[int, Field(ge=1)]
    split: Text
    how: Text
    also: dict[str, Fraction] = Field(default_factory=dict)


class Size(Sealed):
    """Stored weights by formula (see `numbers.size_of`); ratio: bytes_dense_fp32 over bytes; file_bytes: on disk."""

    parameters: Count
    bytes: Count
    bytes_dense_fp32: Count
    ratio: Positive
    file_bytes: Count | None = None


class Compute(Sealed):
    """Work per image (see `numbers.compute_of`): sparse counts half in macs and bops."""

    macs_dense: Count
    macs: Count
    bops_dense_fp32: Count
    bops: Count
    paper_flops_ratio: Positive


class Uncovered(Sealed):
    """A layer that is not sparse (or not INT8): its share of the GEMM MACs, 0 to 1, and why."""

    name: Text
    share: Fraction
    reason: str


class TransformerPart(Sealed):
    """The linear layers and attention products of a model that also has convolutions.

    share: of the model's GEMM MACs, 0 to 1. sparse, int8: shares of the part's own GEMM MACs, attention included.
    """

    share: Fraction
    sparse: Fraction
    int8: Fraction


class Coverage(Sealed):
    """Share of GEMM MACs (attention included) that is sparse / INT8; `dense` and `float` list what is not.

    transformer: the part without convolutions; None where there are none (the part is the whole) or no attention.
    """

    sparse: Fraction
    int8: Fraction
    dense: tuple[Uncovered, ...]
    float: tuple[Uncovered, ...]
    transformer: TransformerPart | None = None

    @model_validator(mode="after")
    def _adds_up(self) -> Coverage:
        """Covered and uncovered shares are parts of one whole."""
        for name, covered, rest in (("sparse", self.sparse, self.dense), ("int8", self.int8, self.float)):
            total = covered + sum(layer.share for layer in rest)
            if total > 1 + _SUM_TOLERANCE:
                raise ValueError(f"coverage: {name} and what is not {name} add up to {total:.4f}, more than 1")
        return self

    @model_validator(mode="after")
    def _part_fits(self) -> Coverage:
        """The transformer part holds no more than the whole, and what it lacks fits into the rest of the model."""
        part = self.transformer
        if part is None:
            return self
        for name, inside, whole in (("sparse", part.sparse, self.sparse), ("int8", part.int8, self.int8)):
            rest = whole - inside * part.share
            if not -_SUM_TOLERANCE <= rest <= 1 - part.share + _SUM_TOLERANCE:
                raise ValueError(
                    f"coverage: {name} {whole:.4f} of the whole does not hold {inside:.4f} of a transformer part "
                    f"of {part.share:.4f}"
                )
        return self


UNKNOWN_POWER_MODE = "power mode unknown"
"""Equal to no power mode, itself included: two rows under it may have run at different ones."""


class Conditions(Sealed):
    """What must be equal before two rows may be compared (the date apart).

    power_mode, clocks: as the device names them, None where it has none; UNKNOWN_POWER_MODE where the target is a
    power mode and the device did not tell its own. threads: CPU threads of the runtime.
    libraries: name -> version of what ran (or predicted) it. date: ISO 8601, UTC.
    throttled: whether the device reported throttling during the run; None where it cannot tell.
    """

    device: Text
    power_mode: str | None = None
    clocks: str | None = None
    threads: Annotated[int, Field(ge=1)] | None = None
    libraries: dict[str, str]
    date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|\+00:00))?$")]
    throttled: bool | None = None


_ONLY = {"measured": ("p90", "p99", "n", "warmup"), "predicted": ("low", "high")}
_NEVER = {
    "measured": ("low", "high"),
    "predicted": ("p90", "p99", "n", "warmup", "noise_low", "noise_high"),
}


class Row(Sealed):
    """One line of evidence: this artifact, on this target, at this batch, under these conditions.

    throughput_per_s: images per second. input_shape: (channels, height, width) of one image.
    precision, sparsity: of the prunable GEMMs; what differs is in coverage.
    """

    artifact: ArtifactRef
    target: Text
    batch: Annotated[int, Field(ge=1)]
    status: Status
    latency_ms: Latency
    throughput_per_s: Positive
    precision: Precision
    sparsity: Sparsity
    runtime: Text
    input_shape: tuple[int, int, int]
    accuracy: Accuracy | None = None
    size: Size | None = None
    compute: Compute | None = None
    coverage: Coverage | None = None
    conditions: Conditions
    note: str = ""

    @model_validator(mode="after")
    def _label_fits_evidence(self) -> Row:
        """A measured row shows how it was timed; a predicted row shows its interval; never a mixture."""
        latency = self.latency_ms
        missing = [name for name in _ONLY[self.status] if getattr(latency, name) is None]
        if missing:
            raise ValueError(f"a {self.status} row needs latency_ms.{', '.join(missing)}")
        mixed = [name for name in _NEVER[self.status] if getattr(latency, name) is not None]
        if mixed:
            raise ValueError(f"a {self.status} row must not carry latency_ms.{', '.join(mixed)}")
        return self

    @property
    def is_twin(self) -> bool:
        """Whether this is the uncompressed model: dense and in floating point."""
        return self.sparsity == "dense" and self.precision in ("fp32", "fp16", "bf16")


def rows_from_json(data: Iterable[Mapping[str, Any]], where: str = "report rows") -> tuple[Row, ...]:
    """Validate plain data as rows. Raises ArtifactError that names the place in `where` and the first fault."""
    rows = []
    for index, entry in enumerate(data):
        try:
            rows.append(Row.model_validate(entry))
        except ValidationError as error:
            raise invalid(f"{where}, row {index}", error) from error
    return tuple(rows)


def invalid(where: str, error: ValidationError) -> ArtifactError:
    """Say in one line what pydantic found first."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return ArtifactError(
        f"{where}{': ' + place if place else ''} is not valid",
        got=first["msg"].removeprefix("Value error, "),
        do="write rows with gpusq, or mend the file by hand; never change a row's status",
    )
