"""The layer receipt as data: versioned JSON with a published schema (`receipt.schema.json` beside this file)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gpusq.errors import ArtifactError, NewerSchemaError

SCHEMA_VERSION = 1
State = Literal["chosen", "lost on time", "eligible", "not eligible", "unknown"]
Basis = Literal["time", "macs", "weights"]
Precision = Literal["int8", "fp8", "fp16", "bf16", "tf32", "fp32", "unknown"]
Role = Literal["gemm", "attention", "cast", "quantize", "reformat", "other", "none"]
FindingKind = Literal[
    "int8 not fused",
    "fp32 fallback",
    "reformat heavy",
    "sparse lost",
    "sparse not shown",
    "attention not fused",
    "details missing",
]
Share = Annotated[float, Field(ge=0, le=1 + 1e-9)]
Count = Annotated[int, Field(ge=0)]


class Record(BaseModel):
    """Base: unknown keys, NaN and infinity are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ReceiptLayer(Record):
    """One layer of the engine. sources: layers of the model (layers.json) whose weights it multiplies with.

    sparse: a 2:4 kernel, by its name or the build log; False too where no source is pruned; None where the library
    does not show it. input_types, output_types: of its
    tensors, in order. us: microseconds of one run, None where not timed. macs: per image, None where not known.
    """

    name: str
    kind: str
    role: Role
    sources: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    precision: Precision
    sparse: bool | None = None
    tactic: str = ""
    input_types: tuple[str, ...] = ()
    output_types: tuple[str, ...] = ()
    us: Annotated[float, Field(ge=0)] | None = None
    macs: Count | None = None


class PrunedLayer(Record):
    """A 2:4 layer of the model and what became of its pattern; reason: why this state, in words.

    chosen: a sparse kernel runs it. lost on time: the builder counted it as eligible and kept a dense kernel.
    eligible: counted, the kernel is not shown. not eligible: the builder did not count it. unknown: nothing is shown.
    """

    name: str
    state: State
    reason: str
    engine_layer: str | None = None
    precision: Precision = "unknown"
    us: Annotated[float, Field(ge=0)] | None = None


class Shares(Record):
    """Shares of the work in layers that multiply with weights, 0 to 1: what the engine shows, so lower bounds.

    basis: "time" of the layers, else their "macs", else the number of "weights". The parts of a fused layer count as
    one. Attention products have no weights and are not in it. full_float: FP32 or TF32. sparse_hidden: pruned, but
    the kernel is not shown; precision_hidden: neither types nor kernel tell the precision.
    """

    basis: Basis
    sparse: Share
    sparse_hidden: Share
    int8: Share
    full_float: Share
    precision_hidden: Share


class Totals(Record):
    """Numbers of layers, and microseconds where they were timed. reformat_us: casts, quantizers and reformats."""

    layers: Count
    gemms: Count
    fused_attentions: Count
    casts: Count
    quantizers: Count
    reformats: Count
    us: float | None = None
    gemm_us: float | None = None
    reformat_us: float | None = None


class Finding(Record):
    """Something that a reader should know. severity: "fail" stops `judge`. layers: names it is about, at most 20."""

    kind: FindingKind
    severity: Literal["fail", "warn", "note"]
    text: str
    do: str = ""
    layers: tuple[str, ...] = ()


class Failure(Record):
    """Why there is no engine: the refusal's own words."""

    error: str
    what: str
    got: str
    do: str


class LayerReceipt(Record):
    """What one build gave. Either layers, or a failure.

    library, version: "tensorrt" or "tensorrt_rtx". compute_capabilities: of an ahead-of-time build, else empty.
    sparse_allowed: whether SPARSE_WEIGHTS was set. log_eligible, log_chosen: the "(Sparsity)" counts of the build log.
    memory_mib: peaks of the build by name. timed: whether `us` comes from a run on a device.
    """

    schema_version: Literal[1] = 1
    library: str
    version: str
    compute_capabilities: tuple[str, ...] = ()
    onnx_sha256: str
    plan_sha256: str | None = None
    sparse_allowed: bool = True
    seconds: float | None = None
    memory_mib: dict[str, float | None] = {}
    timing_cache_in_sha256: str | None = None
    timing_cache_sha256: str | None = None
    log_eligible: int | None = None
    log_chosen: int | None = None
    timed: bool = False
    layers: tuple[ReceiptLayer, ...] = ()
    pruned: tuple[PrunedLayer, ...] = ()
    shares: Shares | None = None
    totals: Totals | None = None
    findings: tuple[Finding, ...] = ()
    failure: Failure | None = None

    @model_validator(mode="after")
    def _built_or_failed(self) -> LayerReceipt:
        """A receipt of an engine has its hash, shares and totals; one of a failed build has none of them."""
        built = (self.plan_sha256, self.shares, self.totals)
        if self.failure is None and None in built:
            raise ValueError("a receipt without a failure needs plan_sha256, shares and totals")
        if self.failure is not None and (any(part is not None for part in built) or self.layers):
            raise ValueError("a receipt of a failed build has no plan, shares, totals or layers")
        return self


def receipt_from_json(data: Mapping[str, Any], where: str = "layer receipt") -> LayerReceipt:
    """Validate plain data. Raises NewerSchemaError for a later schema, ArtifactError naming the first fault."""
    version = data.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise NewerSchemaError(
            f"{where}: schema {SCHEMA_VERSION} or older was expected", got=str(version), do="upgrade gpusq"
        )
    try:
        return LayerReceipt.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(f"{where}: {place or 'the receipt'} is not valid", got=first["msg"]) from error


def receipt_schema() -> dict[str, Any]:
    """JSON Schema of the receipt, as published."""
    schema = LayerReceipt.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
