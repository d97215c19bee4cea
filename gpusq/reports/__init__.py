"""Reports: rows of evidence, figures by formula, verdicts, and the terminal table and page that show them."""

from gpusq.reports.accuracy_limits import nothing_to_lose
from gpusq.reports.compare import AccuracyChange, Bounds, Comparison, compare, differences
from gpusq.reports.numbers import compute_of, coverage_of, size_of
from gpusq.reports.page import html_page
from gpusq.reports.report import (
    LayerTime,
    Lineage,
    Picture,
    Report,
    build_report,
    merge,
    report_from_json,
    report_to_json,
    schema_text,
)
from gpusq.reports.rows import (
    Accuracy,
    ArtifactRef,
    Compute,
    Conditions,
    Coverage,
    Latency,
    Row,
    Size,
    TransformerPart,
    Uncovered,
    rows_from_json,
)
from gpusq.reports.sweep import BatchGain, Curve, Payoff, Sweep, SweepPoint
from gpusq.reports.table import terminal_table
from gpusq.reports.verdict import Criteria, Verdict, verdict

__all__ = [
    "Accuracy",
    "AccuracyChange",
    "ArtifactRef",
    "BatchGain",
    "Bounds",
    "Comparison",
    "Compute",
    "Conditions",
    "Coverage",
    "Criteria",
    "Curve",
    "Latency",
    "LayerTime",
    "Lineage",
    "Payoff",
    "Picture",
    "Report",
    "Row",
    "Size",
    "Sweep",
    "SweepPoint",
    "TransformerPart",
    "Uncovered",
    "Verdict",
    "build_report",
    "compare",
    "compute_of",
    "coverage_of",
    "differences",
    "html_page",
    "merge",
    "nothing_to_lose",
    "report_from_json",
    "report_to_json",
    "rows_from_json",
    "schema_text",
    "size_of",
    "terminal_table",
    "verdict",
]
