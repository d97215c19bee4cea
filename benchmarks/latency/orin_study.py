"""Orin: the A100's parameters carried over, a few-shot refit of the engine, and errors on rows that it did not see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpusq.latency import Prediction, encoder_layers, predict
from gpusq.latency.gauss_newton import Prior, gauss_newton
from gpusq.latency.interval import conformal_quantile
from gpusq.targets import EngineFit, Fit
from latency.data import Floats
from latency.gemms import mape
from latency.held_out import HeldOut, leave_groups_out
from latency.models import HIGHEST, LOWEST, SCALED, as_engine
from latency.orin import ROWS, Row, device_of

# How far an Orin's engine may be from the A100's, as standard deviations of ln: launches on a slow host most.
SPREAD = np.array([0.7, 1.0, 0.3, 0.3, 0.2, 0.2, 0.2])
SLOWEST_LAUNCH_US = 40.0
# TensorRT runs FP32 layers in TF32 unless told not to; the target's fp32 is IEEE float32. No row for it.
TESTED = tuple(row for row in ROWS if row.base == "fp16")


@dataclass(frozen=True)
class OrinStudy:
    """carried: ln errors of the A100's parameters as they are. by_group, by_source: refitted without them."""

    engine: EngineFit
    carried: Floats
    by_group: HeldOut
    by_source: HeldOut
    final: list[Prediction]


def group_of(row: Row) -> str:
    """Rows of one source, device and architecture."""
    kind = row.model.split("-2")[0] if row.model.startswith("Eff") else "ViTs"
    return f"{row.device}, {kind}, {source_of(row)}"


def source_of(row: Row) -> str:
    """Who published the row."""
    return row.source.split()[0].rstrip(",")


def run(fits: dict[str, Fit], a100: EngineFit) -> OrinStudy:
    """All of it; `fits` and the prior are the A100's."""

    def fit(rows: list[Row]) -> EngineFit:
        return _fit(rows, fits, a100)

    def errors(rows: list[Row], engine: EngineFit) -> Floats:
        return np.array([_ln_error(row, fits, engine) for row in rows])

    rows = list(TESTED)
    by_group = leave_groups_out(rows, group_of, fit, errors)
    by_source = leave_groups_out(rows, source_of, fit, errors)
    source = f"the A100's engine refitted to {len(rows)} published Orin rows; interval by leaving out sources"
    told = {"error_p90": round(by_source.quantile, 3), "source": source}
    engine = _with_twins(fit(rows), a100).model_copy(update=told)
    return OrinStudy(engine, errors(rows, a100), by_group, by_source, [_predicted(row, fits, engine) for row in rows])


def carried(fits: Mapping[str, Fit], transfer: Mapping[str, Floats]) -> dict[str, Fit]:
    """The A100's GEMM fits for an Orin: intervals by what H100 parameters missed on the A100, the one transfer seen."""
    found = {}
    for path, fit in fits.items():
        error = round(conformal_quantile(transfer[path]), 3)
        told = f"{fit.source}; carried over to Orin, interval that of H100 parameters on the A100"
        found[path] = fit.model_copy(update={"bands": (), "error_p90": error, "source": told})
    return found


def as_json(study: OrinStudy) -> dict[str, Any]:
    """Figures."""
    found: dict[str, Any] = {"engine": study.engine.model_dump(), "carried_mape": mape(study.carried)}
    for name, held in (("by_group", study.by_group), ("by_source", study.by_source)):
        found[name] = {"mape": mape(held.every), "coverage": held.coverage, "rows": len(held.every)}
    return found


def _predicted(row: Row, fits: dict[str, Fit], engine: EngineFit) -> Prediction:
    device = device_of(row.device)
    target = device.model_copy(update={"fit": device.fit | fits, "engine": engine})
    layers = encoder_layers(row.workload, int8=row.int8)
    return predict(row.workload, layers, target, 1, row.base, int8_attention=row.int8_attention)


def _ln_error(row: Row, fits: dict[str, Fit], engine: EngineFit) -> float:
    return float(np.log(_predicted(row, fits, engine).latency_ms / row.published_ms))


def _with_twins(engine: EngineFit, a100: EngineFit) -> EngineFit:
    """2:4 paths have no Orin row: their factors move from the A100's as those of their dense twins did."""
    scale = dict(engine.gemm_scale)
    for dtype in ("fp16", "int8"):
        moved = engine.scale(dtype, "dense") / a100.scale(dtype, "dense")
        scale[f"{dtype}/2:4"] = round(a100.scale(dtype, "2:4") * moved, 4)
    return engine.model_copy(update={"gemm_scale": scale})


def _fit(rows: list[Row], fits: dict[str, Fit], start: EngineFit) -> EngineFit:
    """Each group of rows weighs the same; the prior's centre is `start`."""
    groups = [group_of(row) for row in rows]
    weight = np.sqrt([len(rows) / len(set(groups)) / groups.count(group) for group in groups])

    def residuals(logs: Floats) -> Floats:
        engine = as_engine(logs)
        found: Floats = np.array([_ln_error(row, fits, engine) for row in rows]) * weight
        return found

    own = (start.start_us, start.kernel_us, start.attention_efficiency, start.memory_efficiency)
    centre = np.log([*own, *(start.gemm_scale[path] for path in SCALED)])
    highest = HIGHEST.copy()
    highest[1] = np.log(SLOWEST_LAUNCH_US)
    prior = Prior(centre, SPREAD, LOWEST, highest, np.ones(len(centre), dtype=bool))
    return as_engine(gauss_newton(residuals, prior, steps=12))
