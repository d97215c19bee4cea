"""What a built plan runs, layer by layer: the builder's receipt, its verdict, and the demand for sparse kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from gpusq.finishing.rows import forms

if TYPE_CHECKING:
    from gpusq.engines.receipts import LayerReceipt
    from gpusq.finishing.engine_files import Built


def layer_receipt(built: Built, layer_us: Mapping[str, float]) -> LayerReceipt:
    """The receipt of a plan. layer_us: engine layer -> microseconds of a run; empty where it was not run."""
    from gpusq.engines.receipts import OnnxFacts, receipt_of

    layers, workload = forms(built.opened.bundle.files)
    return receipt_of(built.plan, layers, OnnxFacts.of(workload), times_us=layer_us)


def layer_verdicts(receipts: Sequence[LayerReceipt], require_sparse: float | None) -> list[tuple[str, ...]]:
    """Lines for people, one tuple for each receipt, the model first; its layers beside the twin's where both are timed.

    require_sparse: least share (0 to 1) of the model's GEMM time in 2:4 kernels. Raises SparseShareError,
    PrecisionError where an engine runs in another precision than its graph asks for.
    """
    from gpusq.engines.receipts import judge, twin_lines

    model, *twins = receipts
    found = [judge(model, require_sparse), *(judge(twin) for twin in twins)]
    for twin in twins:
        found[0] += twin_lines(model, twin)
    return found
