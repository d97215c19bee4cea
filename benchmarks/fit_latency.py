"""Fit the latency predictor to measured GEMMs and check it on published whole models.

    python benchmarks/fit_latency.py GEMMS.csv [--published MODELS.csv] [--write-targets]

GEMMS.csv: gpu,dtype,sparsity,workload,m,n,k,latency_us. MODELS.csv: device,runtime,model,input,precision,sparsity,
batch,latency_ms (other columns are ignored). Writes benchmarks/results/latency_fit.json and .md; with
--write-targets also the fitted sections of the shipped target files. Needs scipy.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, minimize

from gpusq.latency import encoder_layers, encoder_workload, predict
from gpusq.latency.gemm import Gemms, Speed, gemm_us
from gpusq.targets import EngineFit, Fit, Target, load_target

HERE = Path(__file__).parent
TARGETS = HERE.parent / "gpusq" / "targets"
Floats = NDArray[np.float64]

# The boards that the table was measured on: (peak TOPS by dtype, GB/s, streaming multiprocessors).
BOARDS = {
    "A100": ({"BF16": 312, "FP16": 312, "INT8": 624}, 1935, 108),  # A100 80GB PCIe data sheet
    "H100": ({"BF16": 756, "FP16": 756, "INT8": 1513, "FP8": 1513}, 2000, 114),  # H100 PCIe data sheet
}
NAMES = ("t0_us", "compute_efficiency", "memory_efficiency", "sharpness", "k_latency_us", "cache_efficiency")
START = (5.0, 0.65, 0.8, 1.5, 1.0, 1.5)
LOWEST = (0.5, 0.1, 0.1, 0.05, 1e-3, 0.1)
HIGHEST = (30.0, 1.0, 2.0, 30.0, 20.0, 30.0)
ENGINE_NAMES = ("start_us", "kernel_us", "attention_efficiency", "memory_efficiency")
SCALED = ("fp16/dense", "int8/dense", "int8/2:4")
ENGINE_START = (20.0, 2.0, 0.4, 0.7, 1.0, 1.0, 1.0)
# The scales stop where a GEMM would pass 0.85 of its peak: GEMM and attention time trade off in these rows.
ENGINE_LOWEST = (0.1, 0.1, 0.02, 0.1, 0.86, 0.7, 0.7)
ENGINE_HIGHEST = (300.0, 10.0, 1.0, 1.0, 2.0, 2.0, 2.0)
ENCODERS = {
    "vit_base_patch16_224": (12, 768, 12, 3072, 197, 768, 196),
    "ViT-B/16 224": (12, 768, 12, 3072, 197, 768, 196),
    "ViT-B/16 384": (12, 768, 12, 3072, 577, 768, 576),
    "BERT-base enc (12x768) seq128": (12, 768, 12, 3072, 128),
    "BERT-large enc (24x1024) seq128": (24, 1024, 16, 4096, 128),
    "BERT-large enc (24x1024) seq384": (24, 1024, 16, 4096, 384),
    "Megatron/BERT-large enc (24x1024) seq128": (24, 1024, 16, 4096, 128),
}
# What the A100 cannot say about an Orin, as ln: covers the INT8 rows that check_orin_latency.py compares.
TRANSFER_ERROR = 0.4


@dataclass(frozen=True)
class Table:
    """GEMM rows of one path on one board."""

    gemms: Gemms
    measured_us: Floats
    workload: NDArray[np.str_]
    speed: Speed

    def where(self, mask: NDArray[np.bool_]) -> Table:
        """The rows of the mask."""
        gemms = Gemms(**{name: column[mask] for name, column in vars(self.gemms).items()})
        return Table(gemms, self.measured_us[mask], self.workload[mask], self.speed)


@dataclass(frozen=True)
class PathResult:
    """Fit and errors of one path; MAPE as shares of 1."""

    gpu: str
    path: str
    rows: int
    naive_mape: float
    mape: float
    held_out_mape: float
    held_out_p90: float
    held_out_by_workload: dict[str, float]
    fit: dict[str, float]


def read_tables(path: Path) -> dict[tuple[str, str], Table]:
    """Tables by (gpu, "int8/2:4"). INT8 dense rows write INT32, all others 16 bit."""
    rows: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rows.setdefault((row["gpu"], row["dtype"], row["sparsity"]), []).append(row)
    tables = {}
    for (gpu, dtype, sparsity), part in sorted(rows.items()):
        m, n, k, us = (np.array([float(row[c]) for row in part]) for c in ("m", "n", "k", "latency_us"))
        out = np.full_like(m, 4.0 if (dtype, sparsity) == ("INT8", "dense") else 2.0)
        peaks, bandwidth, units = BOARDS[gpu]
        known = {"FP8": "int8"}.get(dtype, dtype.lower())  # one byte an element alike
        speed = Speed(known, sparsity, peaks[dtype] * (2 if sparsity == "2:4" else 1), bandwidth, units)
        gemms = Gemms(m, n, k, np.ones_like(m), m * k, out)
        workload = np.array([row["workload"] for row in part])
        tables[gpu, f"{dtype.lower()}/{sparsity}"] = Table(gemms, us, workload, speed)
    return tables


def minimise(loss: Callable[[Floats], float], start: tuple[float, ...]) -> Floats:
    """Nelder-Mead from three starts over the logarithms of the parameters."""
    runs = []
    for shift in (0.0, 0.3, -0.3):
        begin = np.log(start) + shift
        simplex = np.vstack([begin, begin + 0.3 * np.eye(len(begin))])
        options = {"maxfev": 1500, "xatol": 1e-3, "fatol": 1e-5, "initial_simplex": simplex}
        runs.append(minimize(loss, begin, method="Nelder-Mead", options=options))
    best: Floats = min(runs, key=lambda run: float(run.fun)).x
    return best


def as_fit(logs: Floats, error: float = 1.0, source: str = "being fitted") -> Fit:
    """Parameters from clipped logarithms; sharpness is 1 plus its parameter."""
    values = dict(zip(NAMES, np.clip(np.exp(logs), LOWEST, HIGHEST).round(4).tolist(), strict=True))
    values["sharpness"] += 1
    return Fit(**values, error_p90=error, source=source)


def predicted_us(table: Table, fit: Fit) -> Floats:
    """Isolated calls: t0 included."""
    us: Floats = fit.t0_us + gemm_us(table.gemms, table.speed, fit).total
    return us


def fit_path(table: Table) -> Floats:
    """Logarithms of the parameters with the least mean |ln(predicted / measured)|."""

    def loss(logs: Floats) -> float:
        with np.errstate(all="ignore"):
            return float(np.mean(np.abs(np.log(predicted_us(table, as_fit(logs)) / table.measured_us))))

    return minimise(loss, START)


def relative(predicted: Floats, measured: Floats) -> Floats:
    """|predicted / measured - 1|."""
    error: Floats = np.abs(predicted / measured - 1)
    return error


def naive_us(table: Table) -> Floats:
    """Roofline at datasheet peaks: the larger of compute and memory, no launch, no tiles."""
    plain = Speed(table.speed.dtype, table.speed.sparsity, table.speed.peak_tops, table.speed.bandwidth_gbs, None)
    ideal = Fit(t0_us=0, compute_efficiency=1, memory_efficiency=1, sharpness=64, error_p90=1, source="datasheet peaks")
    return predicted_us(Table(table.gemms, table.measured_us, table.workload, plain), ideal)


def evaluate(gpu: str, path: str, table: Table) -> tuple[PathResult, Floats]:
    """Fit on all rows, and once without each workload; ln errors of the held-out rows beside it."""
    fit = as_fit(fit_path(table))
    held_out, logs = {}, []
    for workload in sorted(set(table.workload.tolist())):
        test = table.where(table.workload == workload)
        got = predicted_us(test, as_fit(fit_path(table.where(table.workload != workload))))
        held_out[workload] = relative(got, test.measured_us)
        logs.append(np.log(got / test.measured_us))
    all_held_out = np.concatenate(list(held_out.values()))
    ln_errors = np.abs(np.concatenate(logs))
    result = PathResult(
        gpu,
        path,
        len(table.measured_us),
        float(relative(naive_us(table), table.measured_us).mean()),
        float(relative(predicted_us(table, fit), table.measured_us).mean()),
        float(all_held_out.mean()),
        float(np.quantile(ln_errors, 0.9)),
        {name: float(errors.mean()) for name, errors in held_out.items()},
        {name: getattr(fit, name) for name in NAMES},
    )
    return result, all_held_out


@dataclass(frozen=True)
class Model:
    """One published row."""

    group: str
    runtime: str
    sizes: tuple[int, ...]
    int8: bool
    sparse: bool
    batch: int
    published_ms: float


def read_models(path: Path) -> list[Model]:
    """A100 rows of plain encoders in FP16 or INT8, eager PyTorch left out."""
    models = []
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            key = next((k for k in (row["model"], f"{row['model']} {row['input']}") if k in ENCODERS), None)
            wanted = key and row["device"].startswith("A100") and row["precision"] in ("FP16", "INT8")
            if not wanted or not key or not row["latency_ms"] or row["runtime"].startswith("PyTorch"):
                continue
            runtime = row["runtime"].split(" (")[0]
            group = f"{runtime}: {key} {row['precision']} {row['sparsity']}"
            int8, sparse = row["precision"] == "INT8", row["sparsity"] == "2:4"
            models.append(
                Model(group, runtime, ENCODERS[key], int8, sparse, int(row["batch"]), float(row["latency_ms"]))
            )
    return models


def predicted_ms(model: Model, target: Target) -> float:
    """The row's latency by the public predictor; these INT8 engines run attention in INT8 too."""
    workload = encoder_workload(*model.sizes)
    layers = encoder_layers(workload, sparse=model.sparse, int8=model.int8)
    return predict(workload, layers, target, model.batch, int8_attention=model.int8).latency_ms


def quick_ms(model: Model, target: Target) -> float:
    """The same from one block times the number of blocks; for the inner loop of the fit."""
    one = Model(model.group, model.runtime, (1, *model.sizes[1:5]), model.int8, model.sparse, model.batch, 0.0)
    start = target.engine.start_us / 1e3
    return start + model.sizes[0] * (predicted_ms(one, target) - start)


def as_engine(logs: Floats, error: float = 1.0, source: str = "being fitted") -> EngineFit:
    """Engine parameters from clipped logarithms."""
    values = np.clip(np.exp(logs), ENGINE_LOWEST, ENGINE_HIGHEST).round(4).tolist()
    own, scales = values[: len(ENGINE_NAMES)], values[len(ENGINE_NAMES) :]
    scale = dict(zip(SCALED, scales, strict=True))
    return EngineFit(**dict(zip(ENGINE_NAMES, own, strict=True)), gemm_scale=scale, error_p90=error, source=source)


def fit_engine(models: list[Model], target: Target) -> Floats:
    """Logarithms of the engine parameters over whole models, each group of rows weighing the same."""
    groups = [model.group for model in models]
    weight = np.array([1 / groups.count(group) for group in groups])

    def residuals(logs: Floats) -> Floats:
        trial = target.model_copy(update={"engine": as_engine(logs)})
        errors = [np.log(quick_ms(model, trial) / model.published_ms) for model in models]
        return np.array(errors) * np.sqrt(weight)

    start = np.log(ENGINE_START)
    bounds = (np.log(ENGINE_LOWEST) - start + 1, np.log(ENGINE_HIGHEST) - start + 1)
    begin = np.ones_like(start)  # moved to 1: the step of a difference is relative to its variable
    run = least_squares(
        lambda moved: residuals(moved + start - 1), begin, bounds=bounds, loss="soft_l1", f_scale=0.03, diff_step=0.02
    )
    best: Floats = run.x + start - 1
    return best


def check_models(models: list[Model], target: Target) -> tuple[EngineFit, dict[str, dict[str, float]]]:
    """Engine fit on AITemplate and demoBERT, and errors by group: in the fit, held out, mean of ln."""
    fitted = [m for m in models if m.runtime in ("AITemplate", "TensorRT demoBERT")]
    engine = as_engine(fit_engine(fitted, target))
    table: dict[str, dict[str, float]] = {}
    held: list[float] = []
    for group in sorted({m.group for m in models}):
        rows = [m for m in models if m.group == group]
        with_all = target.model_copy(update={"engine": engine})
        ln = np.array([np.log(predicted_ms(m, with_all) / m.published_ms) for m in rows])
        table[group] = {"rows": len(rows), "mape": float(np.abs(np.expm1(ln)).mean()), "mean_ln": float(ln.mean())}
        if rows[0] in fitted:
            others = as_engine(fit_engine([m for m in fitted if m.group != group], target))
            without = target.model_copy(update={"engine": others})
            ln = np.array([np.log(predicted_ms(m, without) / m.published_ms) for m in rows])
            table[group]["held_out_mape"] = float(np.abs(np.expm1(ln)).mean())
            held += np.abs(ln).tolist()
    error = float(np.quantile(held, 0.9))
    source = f"fit to {len(fitted)} published AITemplate and demoBERT rows (A100-40GB); error by leaving out one group"
    return engine.model_copy(update={"error_p90": round(error, 3), "source": source}), table


def provenance(path: Path) -> str:
    """Name and hash of the measurements."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return f"{path.name} sha256 {digest}, bcacdwk/vllmbench: best of cuBLASLt (dense) or cuSPARSELt (2:4), CUDA 12.9"


def toml_section(name: str, section: Fit | EngineFit) -> str:
    """One TOML table."""
    values = {key: value for key, value in section.model_dump().items() if value is not None}
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items() if not isinstance(value, dict)]
    for key, value in values.items():
        if isinstance(value, dict):
            lines += [f"[{name}.{key}]", *(f"{json.dumps(k)} = {v}" for k, v in value.items())]
    return "\n".join([f"[{name}]", *lines]) + "\n"


def write_targets(results: list[PathResult], engine: EngineFit | None, source: str) -> None:
    """Rewrite what stands between "# fitted: begin" and "# fitted: end" in the A100's and the Orin's file."""
    for file, more in (("a100.toml", 0.0), ("agx-orin.toml", TRANSFER_ERROR)):
        told = f"{source}; fit on A100 80GB PCIe" + (f", carried over with {more} more error" if more else "")
        fits = [
            Fit(**result.fit, error_p90=round(result.held_out_p90 + more, 3), source=told)
            for result in results
            if result.gpu == "A100"
        ]
        paths = [result.path for result in results if result.gpu == "A100"]
        text = "\n".join(toml_section(f'fits."{path}"', fit) for path, fit in zip(paths, fits, strict=True))
        if engine:
            wide = {"error_p90": round(engine.error_p90 + more, 3)}
            wide |= {"source": engine.source + (f"; carried over with {more} more error" if more else "")}
            text += "\n" + toml_section("engine", engine.model_copy(update=wide))
        path = TARGETS / file
        whole = path.read_text(encoding="utf-8")
        new = re.sub(r"(# fitted: begin\n).*(# fitted: end)", lambda m: m[1] + text + m[2], whole, flags=re.DOTALL)  # noqa: B023
        path.write_text(new, encoding="utf-8")


def markdown(results: list[PathResult], models: dict[str, dict[str, float]], source: str) -> str:
    """The tables for people. MAPE in percent."""
    lines = ["# Latency predictor: fit and errors", "", f"GEMMs: {source}.", ""]
    lines += ["Held out: each workload predicted by a fit without it. Naive: roofline at datasheet peaks.", ""]
    lines += ["| GPU | path | rows | naive MAPE | MAPE | held-out MAPE | held-out worst workload |", "|" + "---|" * 7]
    for r in results:
        worst = max(r.held_out_by_workload, key=lambda name: r.held_out_by_workload[name])
        shown = f"{worst} {r.held_out_by_workload[worst]:.1%}"
        lines.append(
            f"| {r.gpu} | {r.path} | {r.rows} | {r.naive_mape:.1%} | {r.mape:.1%} | {r.held_out_mape:.1%} | {shown} |"
        )
    for gpu in sorted({r.gpu for r in results}):
        part = [r for r in results if r.gpu == gpu]
        mean = {n: np.average([getattr(r, n) for r in part], weights=[r.rows for r in part]) for n in MEANS}
        lines.append(f"| {gpu} | all | | {mean[MEANS[0]]:.1%} | {mean[MEANS[1]]:.1%} | {mean[MEANS[2]]:.1%} | |")
    return "\n".join(lines + models_markdown(models)) + "\n"


def models_markdown(models: dict[str, dict[str, float]]) -> list[str]:
    """The table of whole models; nothing where none were checked."""
    if not models:
        return []
    lines = ["", "Whole models on A100-40GB, published by their runtimes' makers. Held out: engine parameters"]
    lines += ["fitted without that group. FasterTransformer does not fuse attention and is no part of the fit.", ""]
    lines += ["| runtime, model, precision | rows | MAPE | held-out MAPE | mean ln error |", "|" + "---|" * 5]
    for group, row in models.items():
        held = f"{row['held_out_mape']:.1%}" if "held_out_mape" in row else "not fitted"
        lines.append(f"| {group} | {row['rows']:.0f} | {row['mape']:.1%} | {held} | {row['mean_ln']:+.2f} |")
    return lines


MEANS = ("naive_mape", "mape", "held_out_mape")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gemms", type=Path)
    parser.add_argument("--published", type=Path)
    parser.add_argument("--write-targets", action="store_true")
    arguments = parser.parse_args()
    source = provenance(arguments.gemms)
    results = [evaluate(gpu, path, table)[0] for (gpu, path), table in read_tables(arguments.gemms).items()]
    fits = {r.path: Fit(**r.fit, error_p90=1, source=source) for r in results if r.gpu == "A100"}
    target = load_target("a100").model_copy(update={"fit": fits})
    engine, models = check_models(read_models(arguments.published), target) if arguments.published else (None, {})
    data = {"gemms": source, "paths": [asdict(r) for r in results], "models": models}
    data |= {"engine": engine.model_dump() if engine else None}
    (HERE / "results" / "latency_fit.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    text = markdown(results, models, source)
    (HERE / "results" / "latency_fit.md").write_text(text, encoding="utf-8")
    print(text)
    if arguments.write_targets:
        write_targets(results, engine, source)


if __name__ == "__main__":
    main()
