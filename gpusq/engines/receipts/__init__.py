"""Receipts: what an engine runs, layer by layer, and whether that is what was asked for.

Not imported by `gpusq.engines`: it needs pydantic, which reading a bundle does not.
"""

from gpusq.engines.receipts.judging import judge, twin_lines
from gpusq.engines.receipts.model import (
    SCHEMA_VERSION,
    Failure,
    Finding,
    LayerReceipt,
    PrunedLayer,
    ReceiptLayer,
    Shares,
    receipt_from_json,
    receipt_schema,
)
from gpusq.engines.receipts.reading import OnnxFacts, receipt_of, refused_receipt

__all__ = [
    "SCHEMA_VERSION",
    "Failure",
    "Finding",
    "LayerReceipt",
    "OnnxFacts",
    "PrunedLayer",
    "ReceiptLayer",
    "Shares",
    "judge",
    "receipt_from_json",
    "receipt_of",
    "receipt_schema",
    "refused_receipt",
    "twin_lines",
]
