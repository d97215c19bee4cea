"""Rows that devices measured: from the receipts that were imported, beside the bundles they are of."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from gpusq.scoring import accuracy_of

if TYPE_CHECKING:
    from gpusq.artifacts import Artifact
    from gpusq.finishing import Receipt
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
            mine = [row for row in receipt.rows if row.artifact.digest == engine.engine]
            if source is not None and mine:
                accuracy = _device_accuracy(accuracy_of(source, context), engine.gate)
                rows += [row.model_copy(update={"accuracy": accuracy}) for row in mine]
    return rows


def failure_notes(bundle: Artifact, context: Context) -> list[str]:
    """A line for each imported receipt without rows: of a build that failed, or of an engine that was not run."""
    from gpusq.finishing import receipts_of

    found = [(receipt, _without_rows(receipt, bundle)) for receipt in receipts_of(bundle, context.store)]
    return [f"{receipt.target}, {receipt.date}: {line}" for receipt, line in found if line]


def _without_rows(receipt: Receipt, bundle: Artifact) -> str:
    """Why a receipt has no rows of this bundle; empty where it was run."""
    from gpusq.finishing.receipt_file import NOT_RUN

    if receipt.failure is not None:
        return str(receipt.failure)
    engine = receipt.engine(bundle.digest)
    if engine is None or not receipt.status.startswith(NOT_RUN):
        return ""
    capabilities = ", ".join(engine.place["capabilities"])
    what = f"stand-in {capabilities}" if engine.stand_in else f"compute capability {capabilities}"
    states = Counter(layer.state for layer in engine.layers.pruned)
    layers = [f"{count} pruned layers {state}" for state, count in states.items()] or ["no pruned layers"]
    facts = [what, f"{engine.layers.library} {engine.layers.version}", *layers]
    return f"built, not run: {', '.join(facts)} ({receipt.status.removeprefix(NOT_RUN)})"


def _device_accuracy(accuracy: Accuracy | None, gate: dict[str, Any] | None) -> Accuracy | None:
    """The host's figure, saying on how many samples the engine was compared; None where it was not."""
    if accuracy is None or gate is None:
        return None
    found = ", ".join(f"{name} {value:.3g}" for name, value in gate["figures"].items())
    return accuracy.model_copy(update={"how": f"{DEVICE_ACCURACY} on {gate['n']} samples ({found})"})
