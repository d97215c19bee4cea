"""The receipt file: what was built and measured on a device, without the engine, as one sealed JSON document.

A build that failed leaves one too: no engine and no rows, but the refusal and what was known by then.
Its sha256 covers every other field, so a changed receipt is noticed; it does not say who wrote it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer, model_validator

from gpusq.artifacts.canonical import pretty_json, sha256_of
from gpusq.artifacts.durable import make_directories, replace_file, writing
from gpusq.artifacts.files import read_inside
from gpusq.engines.receipts import LayerReceipt
from gpusq.errors import ArtifactError, NewerSchemaError, TamperedArtifactError
from gpusq.reports.rows import Row, Sealed, Text, invalid

SCHEMA_VERSION = 1
LIMIT_BYTES = 64 << 20
DO = "send the receipt again from the device"
MEASURED = "measured"
NOT_RUN = "not run: "
FAILED = "failed"

Step = Literal["build", "run", "layers"]
Role = Literal["model", "dense twin"]


class BuiltEngine(Sealed):
    """One engine of a receipt. bundle, engine: digests of their artifacts. onnx_sha256: of the graph it was built from.

    place: where it runs. build: what the builder said. layers, layer_verdict: what it runs, layer by layer, and the
    lines drawn from it. gate: outputs against the expected ones, None where the engine was not run. stand_in: why this
    is not an engine of the target itself; empty where it is.
    """

    role: Role
    bundle: Text
    engine: Text
    variant: Text
    onnx_sha256: Text
    plan_sha256: Text
    plan_bytes: int
    place: dict[str, Any]
    build: dict[str, Any]
    layers: LayerReceipt
    layer_verdict: tuple[str, ...] = ()
    gate: dict[str, Any] | None = None
    stand_in: str = ""


class Attempted(Sealed):
    """One bundle of a failed run, with what was known of it. onnx_sha256: of the graph that went to the builder.

    build: what the builder said, None where it gave no plan. layers: of the plan, or the refusal of its build; None
    where the builder never came to it. gate: outputs against the expected ones, None where they were not compared.
    """

    role: Role
    bundle: Text
    variant: Text
    onnx_sha256: Text
    build: dict[str, Any] | None = None
    layers: LayerReceipt | None = None
    gate: dict[str, Any] | None = None


class Refusal(Sealed):
    """An error of gpusq as `to_json` gives it."""

    type: Text
    what: Text
    got: str
    do: str
    exit_code: int


class BuildFailure(Sealed):
    """Why nothing was sealed. step: "build" (parser, builder, memory), "run" (compare and measure) or "layers".

    role: the bundle that it failed at. builder, library: its name and version. device: its facts, None for no GPU.
    """

    error: Refusal
    step: Step
    role: Role
    builder: Text
    library: Text
    device: dict[str, Any] | None = None
    bundles: tuple[Attempted, ...] = Field(min_length=1)

    def __str__(self) -> str:
        where = self.device["name"] if self.device else "a machine without a GPU"
        e = self.error
        got = f"; got {e.got}" if e.got else ""
        return f"build failed on {where} ({self.builder} {self.library}, {self.role}): {e.type}: {e.what}{got}"


class Receipt(Sealed):
    """status: "measured", "not run: " and why, or "failed". rows: measured rows of the engines named here, no others.

    failure: of a failed run, which has no engines; the field is not written where there is none.
    """

    schema_version: Literal[1] = 1
    kind: Literal["gpusq-receipt"] = "gpusq-receipt"
    gpusq: Text
    date: Text
    target: Text
    status: Text
    engines: tuple[BuiltEngine, ...]
    rows: tuple[Row, ...] = ()
    measurements: tuple[dict[str, Any], ...] = ()
    verdicts: tuple[dict[str, Any], ...] = ()
    failure: BuildFailure | None = None
    sha256: Text

    @model_serializer(mode="wrap")
    def _without_absent_failure(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Receipts of engines keep the fields, and so the seal, that they had before there were failures."""
        fields: dict[str, Any] = plain(self)
        if self.failure is None:
            fields.pop("failure", None)
        return fields

    @model_validator(mode="after")
    def _built_or_failed(self) -> Receipt:
        """Engines, or a failure."""
        if (self.status == FAILED) != (self.failure is not None):
            raise ValueError(f"a receipt has status '{FAILED}' exactly where it has a failure")
        if (self.status == FAILED) == bool(self.engines):
            raise ValueError(f"engines: at least one is expected, and none where the status is '{FAILED}'")
        return self

    @model_validator(mode="after")
    def _rows_belong_here(self) -> Receipt:
        """Rows are measured ones of these engines on this target; without a run there are none."""
        engines = {engine.engine for engine in self.engines}
        if self.status not in (MEASURED, FAILED) and not self.status.startswith(NOT_RUN):
            raise ValueError(f"status is '{MEASURED}', '{FAILED}' or '{NOT_RUN}...', got '{self.status}'")
        if self.status != MEASURED and (self.rows or self.measurements):
            raise ValueError(f"a receipt with status '{self.status}' has no rows")
        for row in self.rows:
            if row.status != MEASURED or row.target != self.target or row.artifact.digest not in engines:
                raise ValueError("a row of a receipt is measured, on its target, of one of its engines")
        return self

    @property
    def subjects(self) -> tuple[BuiltEngine, ...] | tuple[Attempted, ...]:
        """What it is of: its engines, or the bundles of a run that failed."""
        return self.failure.bundles if self.failure else self.engines

    def engine(self, bundle: str) -> BuiltEngine | None:
        """The engine that was built from the bundle with this digest."""
        return next((engine for engine in self.engines if engine.bundle == bundle), None)


def sealed_receipt(fields: dict[str, Any]) -> Receipt:
    """A receipt of these fields with its sha256. Raises ArtifactError where they are not valid."""
    whole = {"schema_version": SCHEMA_VERSION, "kind": "gpusq-receipt", **fields}
    try:
        plain = Receipt.model_validate({**whole, "sha256": "unsealed"}).model_dump(mode="json")
    except ValidationError as error:
        raise invalid("receipt", error) from error
    return Receipt.model_validate({**plain, "sha256": seal_of(plain)})


def seal_of(fields: dict[str, Any]) -> str:
    """sha256 (hex) over the canonical JSON of every field but `sha256`."""
    return sha256_of({name: value for name, value in fields.items() if name != "sha256"}, where="receipt")


def write_receipt(receipt: Receipt, path: Path) -> None:
    """Put the receipt at `path` in one step."""
    data = pretty_json(receipt.model_dump(mode="json"), where="receipt")
    with writing(path, needed_bytes=len(data)):
        make_directories(path.absolute().parent)
        replace_file(path.absolute(), data)


def read_receipt(path: Path) -> Receipt:
    """Read a receipt from a file. Raises ArtifactError, and what `open_receipt` raises."""
    try:
        data = read_inside(path.absolute().parent, path.name, LIMIT_BYTES)
    except OSError as error:
        raise ArtifactError(f"{path}: a receipt file was expected", got=str(error.strerror or error), do=DO) from error
    if len(data) > LIMIT_BYTES:
        raise ArtifactError(f"{path}: a receipt has at most {LIMIT_BYTES >> 20} MiB", got="more", do=DO)
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise TamperedArtifactError(f"{path} must be a JSON document", got=str(error), do=DO) from error
    receipt = open_receipt(fields, str(path))
    if data != pretty_json(fields, where="receipt"):
        raise TamperedArtifactError(f"{path} is not the text that was sealed", do=DO)
    return receipt


def open_receipt(fields: Any, where: str) -> Receipt:
    """Check the seal of a receipt and then its fields.

    Raises ArtifactError for other JSON, NewerSchemaError, TamperedArtifactError for contents that were not sealed.
    """
    if not isinstance(fields, dict) or fields.get("kind") != "gpusq-receipt":
        raise ArtifactError(f"{where} must be a receipt of gpusq build", got="other JSON", do="name the --receipt file")
    version = fields.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise NewerSchemaError(
            f"{where}: this gpusq reads receipts of schema {SCHEMA_VERSION} and older",
            got=f"schema {version}",
            do="upgrade gpusq",
        )
    try:
        whole = fields.get("sha256") == seal_of(fields)
    except ArtifactError as error:  # numbers or depths that canonical JSON cannot carry
        raise TamperedArtifactError(f"{where} is not what was sealed", got=str(error), do=DO) from error
    if not whole:
        raise TamperedArtifactError(f"{where} is not what was sealed: its sha256 does not fit", do=DO)
    try:
        return Receipt.model_validate(fields)
    except ValidationError as error:
        raise invalid(where, error) from error
