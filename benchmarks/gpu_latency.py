"""On a machine with an NVIDIA GPU: how far off the latency predictor is there, before and after calibration.

    .venv/bin/python benchmarks/gpu_latency.py --target h200

1. Dense and 2:4 GEMMs (torch.mm, torch._int_mm, torch._cslt_sparse_mm; fp16, bf16, int8) of SHAPES, and ViT-B and
   ViT-L encoders (torch.compile, CUDA graphs, fp16 and bf16, batch 1 to 256), measured through the functions of
   `gpusq calibrate`: CUDA graphs, events, the paths of a shape taking turns, medians.
2. The target fitted on half of the shapes as `gpusq calibrate --holdout 0.5` does; the error on the other half.
3. Predicted beside measured, row by row, and as a picture.

Writes benchmarks/results/gpu_latency.json, .md, .svg and the fitted target gpu_latency.toml. Without a GPU it says
"not run" and writes nothing, or with --write-not-run the Markdown file that says so.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpusq.errors import GpusqError
from gpusq.latency.calibrate import Calibration, calibrated, write_target
from gpusq.latency.device_points import Device, cuda_device, measure_encoders, measure_points
from gpusq.latency.engine_fit import predicted_us as encoder_us
from gpusq.latency.held_out import split_rows
from gpusq.latency.points import Points
from gpusq.latency.predict import predict_gemm
from gpusq.targets import Target, load_target

RESULT = Path(__file__).parent / "results" / "gpu_latency.json"
COMMAND = ".venv/bin/python benchmarks/gpu_latency.py"
TITLE = "# The latency predictor against a GPU at hand"
HOLDOUT = 0.5
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
ENCODERS = {"ViT-B": (12, 768, 12, 3072, 197), "ViT-L": (24, 1024, 16, 4096, 197)}
WIDTHS = ((768, 768), (3072, 768), (768, 3072), (1024, 1024), (4096, 1024), (1024, 4096), (2048, 8192), (8192, 2048))
ROWS = (64, 208, 1584, 6304, 25216)  # tokens of ViT at batch 1, 8, 32 and 128, as multiples of 16, and a small product
SHAPES = tuple((m, n, k) for n, k in WIDTHS for m in ROWS)


def measure(target: Target, device: Device, seconds: float) -> Points:
    """GEMMs and encoders on the device."""
    points = measure_points(target, seconds=seconds, shapes=SHAPES, device=device, progress=_say)
    asked = [
        (d, "dense", (*sizes, batch)) for d in ("fp16", "bf16") for sizes in ENCODERS.values() for batch in BATCHES
    ]
    encoders = measure_encoders(device, asked, seconds=seconds)
    return Points(points.gemms, tuple(encoders), points.source, "", points.conditions)


def rows_of(points: Points, before: Target, after: Target) -> list[dict[str, Any]]:
    """Each measured row with both predictions, and whether the fit saw it."""
    rows = []
    for key, mine in points.by_path().items():
        seen = split_rows(mine, HOLDOUT)[0]
        for point in mine:
            path = (point.dtype, point.sparsity, point.m, point.n, point.k)
            found, first = predict_gemm(after, *path), predict_gemm(before, *path)
            shape = f"{point.m}x{point.n}x{point.k}"
            rows.append(_row(key, shape, point.us, first.us, found.us, found.low_us, found.high_us, point in seen))
    encoders = sorted(points.encoders, key=lambda p: p.us)
    seen_encoders = split_rows(encoders, HOLDOUT)[0]
    for encoder in encoders:
        spread = math.exp(after.engine.error_p90)
        us, first_us = encoder_us(encoder, after), encoder_us(encoder, before)
        shape = f"{encoder.sizes[0]} x {encoder.sizes[1]}, batch {encoder.sizes[-1]}"
        key = f"encoder {encoder.dtype}"
        rows.append(_row(key, shape, encoder.us, first_us, us, us / spread, us * spread, encoder in seen_encoders))
    return rows


def _row(path: str, shape: str, measured: float, first: float, us: float, low: float, high: float, seen: bool) -> Any:
    values = {"measured_us": measured, "before_us": first, "predicted_us": us, "low_us": low, "high_us": high}
    return {"path": path, "shape": shape, "in_fit": seen, **{name: round(value, 3) for name, value in values.items()}}


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean absolute error of each path on the rows that the fit did not see, and how many lie in the interval."""
    found = []
    for path in dict.fromkeys(row["path"] for row in rows):
        left = [row for row in rows if row["path"] == path and not row["in_fit"]]
        if not left:
            continue
        inside = sum(row["low_us"] <= row["measured_us"] <= row["high_us"] for row in left)
        entry = {"path": path, "rows": sum(row["path"] == path for row in rows), "held_out": len(left)}
        errors = {n: _mape(left, n) for n in ("before_us", "predicted_us")}
        found.append(
            {**entry, "before": errors["before_us"], "after": errors["predicted_us"], "inside": inside / len(left)}
        )
    return found


def _mape(rows: Sequence[dict[str, Any]], name: str) -> float:
    return float(sum(abs(row[name] / row["measured_us"] - 1) for row in rows)) / len(rows)


def picture(rows: Sequence[dict[str, Any]], device: str) -> str:
    """Predicted over measured against measured, held-out rows only, as SVG."""
    sys.path.insert(0, str(Path(__file__).resolve().parent))  # where the script's own directory is not the first
    from latency.charts import Axis, Series, scatter

    left = [row for row in rows if not row["in_fit"]]
    times = np.array([row["measured_us"] for row in left])
    ratios = np.array([row["predicted_us"] for row in left]) / times
    paths = np.array([row["path"] for row in left])
    least, most = (10.0 ** math.floor(math.log10(times.min())), 10.0 ** math.ceil(math.log10(times.max()) + 1e-9))
    series = [Series(str(path), times[paths == path], ratios[paths == path]) for path in dict.fromkeys(paths.tolist())]
    axes = Axis("measured, microseconds", least, most, logarithmic=True), Axis("predicted / measured", 0.0, 2.0)
    svg: str = scatter(f"{device}: rows that the fit did not see", *axes, series, guides=(1.0,))
    return svg


def content_of(target_name: str, points: Points, result: Calibration, after: Target) -> dict[str, Any]:
    """Everything that is written."""
    rows = rows_of(points, load_target(target_name), after)
    return {
        "command": f"{COMMAND} --target {target_name}",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "target": target_name,
        "conditions": points.conditions,
        "summary": summary(rows),
        "fits": result.to_json()["paths"],
        "rows": rows,
    }


def page(content: dict[str, Any]) -> str:
    """The result for people."""
    lines = [TITLE, "", f"Measured by `{content['command']}`, {content['date']}:", ""]
    lines += [f"- {name}: {value}" for name, value in content["conditions"].items()]
    lines += [
        "",
        f"before: {content['target']} as shipped; after: refitted on half of the shapes. Errors are mean absolute",
        "percentage errors on the other half, which no fit has seen; inside: share of it in the 90 % interval, whose",
        "width that same half has set, so that this is near 90 % by construction.",
        "Encoders are compiled by torch, not built by TensorRT.",
        "",
        "| path | rows | held out | before | after | inside |",
        "|---|---|---|---|---|---|",
    ]
    for entry in content["summary"]:
        shares = " | ".join(f"{100 * entry[name]:.1f} %" for name in ("before", "after", "inside"))
        lines.append(f"| {entry['path']} | {entry['rows']} | {entry['held_out']} | {shares} |")
    lines += ["", "![predicted over measured](gpu_latency.svg)", "", "Every row is in `gpu_latency.json`.", ""]
    return "\n".join(lines)


def not_run_page() -> str:
    """What the page says before anybody has run the script."""
    return f"{TITLE}\n\nnot run: no GPU at hand. On a machine with an NVIDIA GPU:\n\n    {COMMAND} --target h200\n"


def run(options: argparse.Namespace, device: Device) -> dict[str, Any]:
    """Measure, fit, compare and write."""
    points = measure(load_target(options.target), device, options.seconds)
    result = calibrated(options.target, points, holdout=HOLDOUT)
    toml = options.out.with_suffix(".toml")
    write_target(result, toml)
    content = content_of(options.target, points, result, load_target(str(toml)))
    options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    options.out.with_suffix(".md").write_text(page(content), encoding="utf-8")
    svg = picture(content["rows"], points.conditions.get("device", "device"))
    options.out.with_suffix(".svg").write_text(svg, encoding="utf-8")
    return content


def _say(what: str, done: int, total: int | None, note: str) -> None:
    print(f"{what} {done}/{total} {note}", file=sys.stderr)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="h200", help="the nearest known device")
    parser.add_argument("--seconds", type=float, default=0.2, help="for each shape")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--write-not-run", action="store_true", help="without a GPU, write the page that says so")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> None:
    """Measure where there is a GPU, else say that nothing was run."""
    options = arguments(given)
    try:
        device = cuda_device()
    except GpusqError as error:
        print(f"not run: {error}")
        if options.write_not_run:
            options.out.with_suffix(".md").write_text(not_run_page(), encoding="utf-8")
        return
    print(page(run(options, device)))


if __name__ == "__main__":
    main()
