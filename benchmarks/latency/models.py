"""The engine's parameters from whole published encoders, and their errors on encoders of another family."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from gpusq.latency import Prediction, encoder_layers, encoder_workload, predict
from gpusq.latency.gauss_newton import Prior, gauss_newton
from gpusq.targets import EngineFit, Target
from gpusq.workload import Layer, Workload
from latency.data import Floats, Model

# Engine parameters: name, start, least, most, standard deviation of ln in the prior.
OWN = (
    ("start_us", 20.0, 0.1, 300.0, 1.0),
    ("kernel_us", 2.0, 0.1, 10.0, 0.5),
    ("attention_efficiency", 0.4, 0.02, 1.0, 0.5),
    ("memory_efficiency", 0.8, 0.1, 1.0, 0.3),
)
SCALED = ("fp16/dense", "int8/dense", "int8/2:4")
SCALE = (1.0, 0.5, 2.0, 0.15)
ROWS = OWN + tuple((path, *SCALE) for path in SCALED)
START, LOWEST, HIGHEST = (np.log([row[i] for row in ROWS]) for i in (1, 2, 3))
SPREAD = np.array([row[4] for row in ROWS])


@cache
def workload_of(sizes: tuple[int, ...], sparse: bool, int8: bool) -> tuple[Workload, tuple[Layer, ...]]:
    """Operators and layer forms of an encoder."""
    workload = encoder_workload(*sizes)
    return workload, encoder_layers(workload, sparse=sparse, int8=int8)


def predicted(model: Model, target: Target, *, fused: bool = True) -> Prediction:
    """The row by the public predictor; these INT8 engines run attention in INT8 too."""
    workload, layers = workload_of(model.sizes, model.sparse, model.int8)
    return predict(workload, layers, target, model.batch, int8_attention=model.int8, fused=fused)


def ln_error(model: Model, target: Target, *, fused: bool = True) -> float:
    """ln(predicted / published)."""
    return float(np.log(predicted(model, target, fused=fused).latency_ms / model.published_ms))


def quick_ms(model: Model, target: Target) -> float:
    """The same latency from one block and from none: the inner loop of the fit."""
    none, one = (predicted(replace(model, sizes=(layers, *model.sizes[1:])), target).latency_ms for layers in (0, 1))
    return none + model.sizes[0] * (one - none)


def as_engine(logs: Floats, error: float = 1.0, source: str = "being fitted") -> EngineFit:
    """Engine parameters from logarithms."""
    values = np.exp(logs).round(4).tolist()
    own = dict(zip([row[0] for row in OWN], values[: len(OWN)], strict=True))
    scale = dict(zip(SCALED, values[len(OWN) :], strict=True))
    return EngineFit(**own, gemm_scale=scale, error_p90=error, source=source)


def fit_engine(models: list[Model], target: Target) -> EngineFit:
    """Engine parameters over whole models, each group of rows weighing the same; `latency.gauss_newton` and a prior."""
    groups = [model.group for model in models]
    weight = np.sqrt([len(models) / len(set(groups)) / groups.count(group) for group in groups])

    def residuals(logs: Floats) -> Floats:
        trial = target.model_copy(update={"engine": as_engine(logs)})
        found: Floats = np.log([quick_ms(m, trial) / m.published_ms for m in models]) * weight
        return found

    free = np.array([name not in SCALED or any(path_of(m) == name for m in models) for name, *_ in ROWS])
    return as_engine(gauss_newton(residuals, Prior(START, SPREAD, LOWEST, HIGHEST, free), steps=25))


def path_of(model: Model) -> str:
    """The path of the model's GEMMs."""
    return f"{'int8' if model.int8 else 'fp16'}/{'2:4' if model.sparse else 'dense'}"


def with_engine(target: Target, engine: EngineFit) -> Target:
    """The target with another engine."""
    return target.model_copy(update={"engine": engine})


@dataclass(frozen=True)
class Held:
    """Rows that an engine fit did not see, and their ln errors."""

    models: list[Model]
    ln: Floats


def across(fitted: list[Model], tested: list[Model], target: Target) -> Held:
    """Errors on `tested` of an engine fitted to `fitted`."""
    other = with_engine(target, fit_engine(fitted, target))
    return Held(tested, np.array([ln_error(m, other) for m in tested]))
