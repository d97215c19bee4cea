"""Fit the latency predictor to the published measurements under benchmarks/data and state its held-out errors.

    python benchmarks/fit_latency.py [--write-targets]

Writes benchmarks/results/latency_fit.json and .md; with --write-targets also the fitted sections of the shipped target
files (commit both together: a test compares them). Some minutes on one core; numpy is all it needs.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from latency import markdown, models, orin_study
from latency.data import RESULTS, Floats, Model, Table, provenance, read_models, read_tables
from latency.gemms import PathStudy, few_shot, mape, study, transfer_ln
from latency.held_out import HeldOut, leave_groups_out
from latency.orin_study import OrinStudy
from latency.write_targets import write_fitted

from gpusq.targets import EngineFit, Fit, Target, load_target

FITTED_RUNTIMES = ("AITemplate", "TensorRT demoBERT")
FEW_SHOT_PATHS = ("bf16/dense", "bf16/2:4", "int8/dense", "int8/2:4")
# H100 engines: GEMMs are fitted on the device, launches, attention and scales are the A100's. Nothing published says
# how far that carries; the interval is widened by this much in ln (assumed).
H100_WIDER = 0.15


@dataclass(frozen=True)
class WholeModels:
    """The A100 engine: its fit, errors across runtimes and by group, and FasterTransformer with and without fusion."""

    engine: EngineFit
    seen: dict[str, Floats]
    across: dict[str, models.Held]
    held_out: HeldOut
    unfitted: dict[str, dict[str, Floats]]


@dataclass(frozen=True)
class Study:
    """Everything."""

    tables: dict[tuple[str, str], Table]
    paths: list[PathStudy]
    transfer: dict[str, dict[str, Floats]]
    few: dict[str, dict[str, dict[int, float]]]
    models: WholeModels
    orin: OrinStudy


def run() -> Study:
    """All fits and checks."""
    tables = read_tables()
    paths = [study(table) for table in tables.values()]
    fits = {(p.gpu, p.path): p.fit for p in paths}
    transfer = {f"{a} to {b}": transfer_ln(a, b, tables) for a, b in (("H100", "A100"), ("A100", "H100"))}
    few = {
        path: {
            "H100 parameters": few_shot(tables["A100", path], fits["H100", path]),
            "textbook parameters": few_shot(tables["A100", path], None),
        }
        for path in FEW_SHOT_PATHS
    }
    whole = whole_models(read_models(), with_fits("a100", fits, "A100"))
    return Study(tables, paths, transfer, few, whole, orin_study.run(fitted_paths(fits, "A100"), whole.engine))


def fitted_paths(fits: dict[tuple[str, str], Fit], gpu: str) -> dict[str, Fit]:
    """A GPU's fits, with their source."""
    told = f"{provenance()}; fit on {gpu} PCIe, interval by leaving out one workload"
    return {path: fit.model_copy(update={"source": told}) for (g, path), fit in fits.items() if g == gpu}


def with_fits(name: str, fits: dict[tuple[str, str], Fit], gpu: str) -> Target:
    """The shipped target with these GEMM fits."""
    target = load_target(name)
    return target.model_copy(update={"fit": target.fit | fitted_paths(fits, gpu)})


def whole_models(rows: list[Model], target: Target) -> WholeModels:
    """Fit on AITemplate and demoBERT together; each on the other; by leaving out groups."""
    ait, bert = ([row for row in rows if row.runtime == runtime] for runtime in FITTED_RUNTIMES)
    fitted = ait + bert

    def errors(tested: list[Model], engine: EngineFit) -> Floats:
        other = models.with_engine(target, engine)
        return np.array([models.ln_error(row, other) for row in tested])

    across = {
        "fitted on demoBERT, tested on AITemplate": models.across(bert, ait, target),
        "fitted on AITemplate, tested on demoBERT": models.across(ait, bert, target),
    }
    held = leave_groups_out(fitted, lambda row: row.group, lambda part: models.fit_engine(part, target), errors)
    source = f"fit to {len(fitted)} published AITemplate and demoBERT rows (A100-40GB); interval by leaving out groups"
    told = {"error_p90": round(held.quantile, 3), "source": source}
    engine = models.fit_engine(fitted, target).model_copy(update=told)
    final, unfitted = models.with_engine(target, engine), {}
    for group in sorted({row.group for row in rows if row not in fitted}):
        part = [row for row in rows if row.group == group]
        unfitted[group] = {
            name: np.array([models.ln_error(row, final, fused=fused) for row in part])
            for name, fused in (("as a TensorRT engine", True), ("every operator a kernel", False))
        }
    seen = {group: errors([r for r in fitted if r.group == group], engine) for group in held.ln}
    return WholeModels(engine, seen, across, held, unfitted)


def write_targets(found: Study) -> None:
    """A100 and Orin take the A100's GEMM fits; H100 its own; each its engine."""
    fits = {(p.gpu, p.path): p.fit for p in found.paths}
    a100, engine = fitted_paths(fits, "A100"), found.models.engine
    write_fitted("a100", a100, engine)
    told = f"{engine.source}; carried over from the A100 with {H100_WIDER} more in ln, assumed"
    wider = engine.model_copy(update={"error_p90": round(engine.error_p90 + H100_WIDER, 3), "source": told})
    write_fitted("h100", fitted_paths(fits, "H100"), wider)
    write_fitted("agx-orin", orin_study.carried(a100, found.transfer["H100 to A100"]), found.orin.engine)


def as_json(found: Study) -> dict[str, Any]:
    """Figures for the test that compares them with the target files, and for tables."""
    return {
        "gemms": provenance(),
        "paths": [
            {
                "gpu": p.gpu,
                "path": p.path,
                "rows": len(p.held_out_ln),
                "naive_mape": p.naive_mape,
                "mape": p.mape,
                "held_out_mape": p.held_out_mape,
                "held_out_by_workload": p.by_workload,
                "coverage": p.coverage,
                "fit": p.fit.model_dump(exclude={"source"}),
            }
            for p in found.paths
        ],
        "transfer": {way: {p: mape(ln) for p, ln in by.items()} for way, by in found.transfer.items()},
        "transfer_all": {way: mape(np.concatenate(list(by.values()))) for way, by in found.transfer.items()},
        "few_shot": found.few,
        "across": {
            way: {"mape": mape(h.ln), "p90": float(np.quantile(np.abs(np.expm1(h.ln)), 0.9)), "rows": len(h.ln)}
            for way, h in found.models.across.items()
        },
        "models": {"held_out_mape": mape(found.models.held_out.every), "coverage": found.models.held_out.coverage},
        "engine": found.models.engine.model_dump(),
        "orin": orin_study.as_json(found.orin),
    }


def save(found: Study) -> None:
    """results/latency_fit.json and .md, results/latency_orin.md."""
    text = json.dumps(as_json(found), indent=1) + "\n"
    (RESULTS / "latency_fit.json").write_text(text, encoding="utf-8")
    (RESULTS / "latency_fit.md").write_text(markdown.fit_page(found), encoding="utf-8")
    (RESULTS / "latency_orin.md").write_text(markdown.orin_page(found.orin), encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write-targets", action="store_true")
    arguments = parser.parse_args()
    found = run()
    save(found)
    if arguments.write_targets:
        write_targets(found)
    print(markdown.fit_page(found) + "\n" + markdown.orin_page(found.orin))


if __name__ == "__main__":
    main()
