"""Rows that devices measured: from the receipts that were imported, beside the bundles they are of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpusq.scoring import accuracy_of

if TYPE_CHECKING:
    from gpusq.artifacts import Artifact
    from gpusq.reports import Accuracy, Row
    from gpusq.stages.stage import Context

DEVICE_ACCURACY = (
    "ONNX Runtime on the float32 ONNX of the bundle, on the host; on the device the engine's outputs agreed"
)


def imported_rows(bundle: Artifact, context: Context, *, with_twin: bool = False) -> list[Row]:
    """Rows that devices measured of engines built from this bundle, from the receipts kept beside it.

    with_twin: also those of the dense twin, which was measured in the same run. Their accuracy is the bundle's, where
    the outputs agreed on the device. Raises TamperedArtifactError for a receipt that is not what was sealed.
    """
    from gpusq.finishing import receipts_of

    held = {a.digest: a for a in context.store.artifacts()} if with_twin else {bundle.digest: bundle}
    rows = []
    for receipt in receipts_of(bundle, context.store):
        for engine in receipt.engines:
            source = held.get(engine.bundle)
            if source is not None:
                accuracy = _device_accuracy(accuracy_of(source, context), engine.gate)
                mine = [row for row in receipt.rows if row.artifact.digest == engine.engine]
                rows += [row.model_copy(update={"accuracy": accuracy}) for row in mine]
    return rows


def failure_notes(bundle: Artifact, context: Context) -> list[str]:
    """A line for each imported receipt of a build of this bundle that failed, with its device and date."""
    from gpusq.finishing import receipts_of

    found = [receipt for receipt in receipts_of(bundle, context.store) if receipt.failure is not None]
    return [f"{receipt.target}, {receipt.date}: {receipt.failure}" for receipt in found]


def _device_accuracy(accuracy: Accuracy | None, gate: dict[str, Any] | None) -> Accuracy | None:
    """The host's figure, saying on how many samples the engine was compared; None where it was not."""
    if accuracy is None or gate is None:
        return None
    found = ", ".join(f"{name} {value:.3g}" for name, value in gate["figures"].items())
    return accuracy.model_copy(update={"how": f"{DEVICE_ACCURACY} on {gate['n']} samples ({found})"})
