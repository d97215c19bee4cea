"""The report: rows, the verdicts they support, and where the artifacts came from.

`report.schema.json` beside this file is generated from these models (`schema_text`); a test keeps the two equal.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field, ValidationError, model_validator

from gpusq.errors import ArtifactError, NewerSchemaError, UsageError
from gpusq.reports.rows import ArtifactRef, Coverage, Fraction, Row, Sealed, Text, invalid
from gpusq.reports.sweep import Sweep
from gpusq.reports.verdict import Criteria, Verdict, verdict

SCHEMA_VERSION = 1


class Lineage(Sealed):
    """One artifact of the chain, parents before children; digests are sha256 hex; target: of engines only."""

    kind: Text
    stage: Text
    digest: Text
    key: Text
    path: str
    parents: tuple[str, ...] = ()
    target: str | None = None


class ArtifactCoverage(Sealed):
    """What is sparse and INT8 in one artifact."""

    artifact: ArtifactRef
    coverage: Coverage


class LayerTime(Sealed):
    """Predicted time of one operator: us per batch, what bounds it, share of the whole (0 to 1)."""

    name: Text
    us: Annotated[float, Field(ge=0)]
    bound: Literal["compute", "memory", "launch"]
    share: Fraction
    target: Text
    batch: Annotated[int, Field(ge=1)]
    variant: str = ""


class Picture(Sealed):
    """One SVG of a test image with what each form of a detector found on it."""

    caption: Text
    svg: Annotated[str, Field(pattern=r"^<svg[\s>]")]


class Report(Sealed):
    """Everything that one page shows; its verdicts must follow from its rows.

    lineage: parents before children. coverage: one entry per artifact. layer_times, sweeps: optional, predicted.
    pictures: of detectors, boxes side by side. cautions: what limits a verdict or the use of what it judges; notes:
    everything else beside the rows.
    """

    schema_version: Literal[1] = 1
    title: Text
    created: AwareDatetime
    rows: tuple[Row, ...]
    verdicts: tuple[Verdict, ...] = ()
    criteria: Criteria = Criteria()
    lineage: tuple[Lineage, ...] = ()
    coverage: tuple[ArtifactCoverage, ...] = ()
    layer_times: tuple[LayerTime, ...] = ()
    sweeps: tuple[Sweep, ...] = ()
    pictures: tuple[Picture, ...] = ()
    cautions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _verdicts_follow(self) -> Report:
        """A verdict that the rows do not support was edited, or belongs to other rows."""
        expected = {_claim(v) for v in verdict(self.rows, self.criteria)}
        for claim in (_claim(v) for v in self.verdicts):
            if claim not in expected:
                target, variant, _, decision, basis = claim
                raise ValueError(f"the rows do not support '{decision}' ({basis}) for {variant} on {target}")
        return self

    @property
    def targets(self) -> tuple[str, ...]:
        """Targets in the order of the rows."""
        return tuple(dict.fromkeys(row.target for row in self.rows))


def _claim(v: Verdict) -> tuple[str, str, str, str, str]:
    """What a verdict asserts, without its wording."""
    return v.target, v.variant, v.digest, v.decision, v.basis


def build_report(
    title: str,
    rows: Sequence[Row],
    *,
    lineage: Sequence[Lineage] = (),
    layer_times: Sequence[LayerTime] = (),
    sweeps: Sequence[Sweep] = (),
    pictures: Sequence[Picture] = (),
    cautions: Sequence[str] = (),
    notes: Sequence[str] = (),
    criteria: Criteria | None = None,
    created: datetime | None = None,
) -> Report:
    """Assemble a report; verdicts and the coverage of each artifact are taken from the rows."""
    criteria = criteria or Criteria()
    return Report(
        title=title,
        created=created or datetime.now(timezone.utc).replace(microsecond=0),
        rows=tuple(rows),
        verdicts=tuple(verdict(rows, criteria)),
        criteria=criteria,
        lineage=tuple(lineage),
        coverage=_coverage(rows),
        layer_times=tuple(layer_times),
        sweeps=tuple(sweeps),
        pictures=tuple(pictures),
        cautions=tuple(cautions),
        notes=tuple(notes),
    )


def _coverage(rows: Iterable[Row]) -> tuple[ArtifactCoverage, ...]:
    """The first coverage of each artifact."""
    found: dict[str, ArtifactCoverage] = {}
    for row in rows:
        if row.coverage and row.artifact.digest not in found:
            found[row.artifact.digest] = ArtifactCoverage(artifact=row.artifact, coverage=row.coverage)
    return tuple(found.values())


def merge(reports: Sequence[Report], title: str | None = None) -> Report:
    """One report of all rows, equal ones once; verdicts are drawn again from the union.

    Raises UsageError for no reports, or for reports with different criteria.
    """
    if not reports:
        raise UsageError("merging needs at least one report", got="none", do="name a report file")
    criteria = reports[0].criteria
    if any(report.criteria != criteria for report in reports):
        raise UsageError(
            "reports can only be merged under one set of criteria",
            got=f"{len({r.criteria.model_dump_json() for r in reports})} different ones",
            do="build them again with the same max_drop, min_speedup and batches",
        )
    return build_report(
        title or reports[0].title,
        _union(row for report in reports for row in report.rows),
        lineage=_union(entry for report in reports for entry in report.lineage),
        layer_times=_union(entry for report in reports for entry in report.layer_times),
        sweeps=_union(entry for report in reports for entry in report.sweeps),
        pictures=_union(entry for report in reports for entry in report.pictures),
        cautions=_union(caution for report in reports for caution in report.cautions),
        notes=_union(note for report in reports for note in report.notes),
        criteria=criteria,
        created=max(report.created for report in reports),
    )


def _union(items: Iterable[Any]) -> list[Any]:
    """Each item once, in order; models with dict fields do not hash."""
    found: list[Any] = []
    for item in items:
        if item not in found:
            found.append(item)
    return found


def report_to_json(report: Report) -> str:
    """The report as indented JSON text; inverse of `report_from_json`."""
    return report.model_dump_json(indent=1) + "\n"


def report_from_json(text: str | bytes, where: str = "report") -> Report:
    """Read and validate a report. Raises NewerSchemaError or ArtifactError (bad JSON, bad rows, edited verdicts)."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ArtifactError(f"{where} must be JSON", got=str(error), do="write it again with gpusq report") from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise NewerSchemaError(
            f"{where} has schema version {SCHEMA_VERSION} or older",
            got=str(version),
            do="read it with a newer gpusq",
        )
    try:
        return Report.model_validate(data)
    except ValidationError as error:
        raise invalid(where, error) from error


def schema_text() -> str:
    """The JSON schema of a report, as it is published in report.schema.json."""
    schema = Report.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(schema, indent=1, sort_keys=True) + "\n"
