"""Run the whole study and write docs/latency.md with its pictures, and the result pages.

    python benchmarks/latency_report.py [--write-targets]

Takes some minutes on one core; needs nothing beyond the base install. With --write-targets the fitted sections of the
shipped target files are rewritten too.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import fit_latency
import numpy as np
from fit_latency import Study
from latency import markdown
from latency.charts import Axis, Series, scatter
from latency.data import HERE
from latency.gemms import naive_ln
from latency.orin_study import source_of
from latency.text import AFTER_GEMMS, AFTER_MODELS, BEFORE, CANNOT, headlines

DOCS = HERE.parent / "docs"
PICTURES = DOCS / "latency"
TIME = Axis("measured, microseconds", 1, 1e6, logarithmic=True)
RATIO = Axis("predicted / measured", 0.5, 2.0)


def gemm_picture(found: Study, gpu: str) -> str:
    """Held-out ratios of every row by measured time."""
    series = []
    for path in (p for p in found.paths if p.gpu == gpu):
        us = found.tables[gpu, path.path].measured.us
        series.append(Series(path.path, us, np.exp(path.held_out_ln)))
    return scatter(f"{gpu} PCIe: GEMMs of workloads left out of the fit", TIME, RATIO, series, (0.9, 1.0, 1.1))


def roofline_picture(found: Study) -> str:
    """The naive roofline beside it, on an A100."""
    series = [
        Series(path, table.measured.us, np.exp(naive_ln(table)))
        for (gpu, path), table in found.tables.items()
        if gpu == "A100"
    ]
    axis = Axis("peak roofline / measured", 0.0, 2.0)
    return scatter("A100 PCIe: the peak roofline on the same rows", TIME, axis, series, (1.0,))


def short_name(group: str) -> str:
    """ "TensorRT demoBERT: BERT-base enc (12x768) seq128 FP16" as "BERT-base seq128 FP16", which a legend holds."""
    return re.sub(r" enc \(.*?\)|^Megatron/|_patch16_224", "", group.split(": ")[1])


def models_picture(found: Study) -> str:
    """Ratios by batch of each group, left out of the engine fit."""
    batches: dict[str, list[int]] = {}
    for model in (m for held in found.models.across.values() for m in held.models):
        batches.setdefault(model.group, []).append(model.batch)
    series = [
        Series(short_name(group), np.array(batches[group], dtype=float), np.exp(ln), joined=True)
        for group, ln in found.models.held_out.ln.items()
    ]
    axis = Axis("batch", 1, 256, logarithmic=True)
    title = "A100-40GB: whole encoders, the group left out of the fit"
    return scatter(title, axis, Axis("predicted / published", 0.5, 1.5), series, (0.9, 1.0, 1.1))


def orin_picture(found: Study) -> str:
    """Predicted against published on Orin, the row's group left out."""
    rows = list(zip(markdown.ordered(), found.orin.by_group.every.tolist(), strict=True))
    series = []
    for source in sorted({source_of(row) for row, _ in rows}):
        part = [(row, ln) for row, ln in rows if source_of(row) == source]
        x = np.array([row.published_ms for row, _ in part])
        series.append(Series(source, x, np.exp([ln for _, ln in part])))
    axis = Axis("published, milliseconds", 1, 20)
    title = "Orin: published engines, their group left out of the fit"
    return scatter(title, axis, Axis("predicted / published", 0.5, 1.5), series, (0.7, 1.0, 1.3))


def page(found: Study) -> str:
    """docs/latency.md."""
    lines = ["# How gpusq predicts latency, and how wrong it is", "", *headlines(found), *BEFORE, ""]
    lines += ["## Errors of one GEMM", "", *markdown.gemm_table(found), "![A100](latency/gemm_a100.svg)", ""]
    lines += ["![H100](latency/gemm_h100.svg)", "", "![roofline](latency/roofline_a100.svg)", "", *AFTER_GEMMS, ""]
    lines += markdown.transfer_table(found)
    lines += ["## A few measurements on your device", "", *markdown.few_table(found)]
    lines += ["## Errors of whole encoders on A100", "", *markdown.models_tables(found.models)]
    lines += ["![models](latency/models_a100.svg)", "", *AFTER_MODELS, ""]
    lines += ["## Errors on Jetson Orin", "", *markdown.orin_tables(found.orin), "![Orin](latency/orin.svg)", ""]
    lines += CANNOT
    return "\n".join(lines).rstrip() + "\n"


def write(found: Study) -> None:
    """The page and its pictures."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    pictures = {
        "gemm_a100": gemm_picture(found, "A100"),
        "gemm_h100": gemm_picture(found, "H100"),
        "roofline_a100": roofline_picture(found),
        "models_a100": models_picture(found),
        "orin": orin_picture(found),
    }
    for name, svg in pictures.items():
        Path(PICTURES / f"{name}.svg").write_text(svg, encoding="utf-8")
    (DOCS / "latency.md").write_text(page(found), encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write-targets", action="store_true")
    arguments = parser.parse_args()
    found = fit_latency.run()
    fit_latency.save(found)
    if arguments.write_targets:
        fit_latency.write_targets(found)
    write(found)


if __name__ == "__main__":
    main()
