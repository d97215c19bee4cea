"""The tables of the study for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from latency.data import Floats, provenance
from latency.gemms import mape
from latency.orin import NOT_MODELLED, Row
from latency.orin_study import TESTED, OrinStudy, group_of

if TYPE_CHECKING:
    from fit_latency import Study, WholeModels


def table(head: str, rows: list[list[str]]) -> list[str]:
    """A Markdown table; head: column names by "|"."""
    names = head.split("|")
    lines = [names, ["---"] * len(names), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines] + [""]


def percent(share: float) -> str:
    """One decimal."""
    return f"{share:.1%}"


def p90(ln: Floats) -> float:
    """90th percentile of the absolute percentage error, as a share of 1."""
    return float(np.quantile(np.abs(np.expm1(ln)), 0.9))


def fit_page(found: Study) -> str:
    """benchmarks/results/latency_fit.md."""
    lines = ["# Latency predictor: fit and errors", "", f"GEMMs: {provenance()}.", ""]
    lines += ["## One GEMM, the workload left out", "", *gemm_table(found)]
    lines += ["## Parameters of one GPU on the other", "", *transfer_table(found)]
    lines += ["## A few anchors on the A100", "", *few_table(found)]
    lines += ["## Whole encoders on A100-40GB", "", *models_tables(found.models)]
    return "\n".join(lines).rstrip() + "\n"


def gemm_table(found: Study) -> list[str]:
    """Every path and both GPUs."""
    rows = []
    for gpu in sorted({p.gpu for p in found.paths}):
        part = [p for p in found.paths if p.gpu == gpu]
        for p in part:
            worst = max(p.by_workload, key=lambda name: p.by_workload[name])
            shown = f"{worst} {percent(p.by_workload[worst])}"
            errors = [percent(e) for e in (p.naive_mape, p.mape, p.held_out_mape)]
            width = f"x/÷ {np.exp(p.median_width):.2f}"
            rows.append([gpu, p.path, str(len(p.held_out_ln)), *errors, shown, percent(p.coverage), width])
        count = [len(p.held_out_ln) for p in part]
        mean = [np.average([getattr(p, n) for p in part], weights=count) for n in MEANS]
        rows.append([f"**{gpu}**", "all", str(sum(count)), *map(percent, mean[:3]), "", percent(mean[3]), ""])
    return table("GPU|path|rows|peak roofline|seen|held out|worst workload|in 90 % interval|median interval", rows)


MEANS = ("naive_mape", "mape", "held_out_mape", "coverage")


def transfer_table(found: Study) -> list[str]:
    """Both directions."""
    rows = []
    for way, by_path in found.transfer.items():
        every = np.concatenate(list(by_path.values()))
        rows += [[way, path, percent(mape(ln)), f"{ln.mean():+.2f}"] for path, ln in by_path.items()]
        rows.append([f"**{way}**", "all", percent(mape(every)), f"{every.mean():+.2f}"])
    return table("fitted on, tested on|path|MAPE|mean ln error", rows)


def few_table(found: Study) -> list[str]:
    """Anchors drawn at random, the rest held out."""
    rows = []
    for path, by_start in found.few.items():
        zero = percent(mape(found.transfer["H100 to A100"][path]))
        for start, errors in by_start.items():
            first = zero if start.startswith("H100") else "-"
            rows.append([path, start, first, *(percent(error) for error in errors.values())])
    anchors = [f"{count} rows" for count in next(iter(next(iter(found.few.values())).values()))]
    return table("|".join(["path", "prior", "no rows", *anchors]), rows)


def models_tables(whole: WholeModels) -> list[str]:
    """Across runtimes, by group, and FasterTransformer."""
    rows = [
        [way, str(len(h.ln)), percent(mape(h.ln)), percent(p90(h.ln)), f"{h.ln.mean():+.2f}"]
        for way, h in whole.across.items()
    ]
    every = whole.held_out.every
    shown = [percent(mape(every)), percent(p90(every)), f"{every.mean():+.2f}"]
    rows.append(["each group left out", str(len(every)), *shown])
    lines = table("engine parameters|rows|MAPE|p90|mean ln error", rows)
    lines += [f"In the 90 % interval of the other groups: {percent(whole.held_out.coverage)} of {len(every)} rows.", ""]
    rows = [
        [group, str(len(ln)), percent(mape(whole.seen[group])), percent(mape(ln)), f"{ln.mean():+.2f}"]
        for group, ln in whole.held_out.ln.items()
    ]
    lines += table("runtime, model, precision|rows|seen|group left out|mean ln error, left out", rows)
    lines += ["Runtimes that the engine model is not meant for, and what joining no operators explains:", ""]
    rows = [
        [group, str(len(next(iter(by.values())))), *(f"{percent(mape(ln))} ({ln.mean():+.2f})" for ln in by.values())]
        for group, by in whole.unfitted.items()
    ]
    return lines + table("runtime, model, precision|rows|" + "|".join(next(iter(whole.unfitted.values()))), rows)


def orin_page(study: OrinStudy) -> str:
    """benchmarks/results/latency_orin.md."""
    lines = ["# Orin: predictions against published engines", "", *orin_tables(study)]
    return "\n".join(lines).rstrip() + "\n"


GROUPS = """\
A group is the rows of one source, device and architecture, so the same ViT-B on the same board by another source,
or EfficientViT-B2 beside B1, stays in the fit; a source left out has none of that. The shipped interval is the 90 %
quantile of the errors with the source left out; set by the other sources alone, it holds fewer rows, as shown.
""".splitlines()


def orin_tables(study: OrinStudy) -> list[str]:
    """Summary, every row, and what was left out."""
    ways = [
        ("A100 parameters carried over, no Orin row seen", study.carried, "-"),
        ("refitted, the row's source left out", study.by_source.every, percent(study.by_source.coverage)),
        ("refitted, the row's group left out", study.by_group.every, percent(study.by_group.coverage)),
    ]
    rows = [[name, str(len(ln)), percent(mape(ln)), percent(p90(ln)), inside] for name, ln, inside in ways]
    lines = table("engine parameters|rows|MAPE|p90|in 90 % interval", rows)
    lines += [*GROUPS, ""]
    left_out = {id(row): value for row, value in zip(ordered(), study.by_group.every.tolist(), strict=True)}
    rows = []
    for row, got in zip(TESTED, study.final, strict=True):
        error = np.exp(left_out[id(row)]) - 1
        span = f"{got.low_ms:.2f} to {got.high_ms:.2f}"
        inside = "yes" if got.low_ms <= row.published_ms <= got.high_ms else "no"
        shown = [f"{row.published_ms:.2f}", f"{got.latency_ms:.2f}", span, inside, f"{error:+.0%}"]
        rows.append([row.device, row.model, *shown, row.source])
    lines += table(
        "device|model, batch 1|published ms|shipped ms|90 % interval|inside|error, group left out|source", rows
    )
    lines += ["The shipped parameters saw every row of this table; the last error did not see its group.", ""]
    lines += ["Published but not modelled:", "", *(f"- {reason}." for reason in NOT_MODELLED), ""]
    return lines


def ordered() -> list[Row]:
    """The rows in the order of HeldOut.every by group."""
    return [row for group in sorted({group_of(r) for r in TESTED}) for row in TESTED if group_of(row) == group]
