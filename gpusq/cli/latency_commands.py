"""`gpusq predict | calibrate`: latency without the device, and a predictor fitted to one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpusq.cli.options import DEFAULT_STORE, Json, Quiet, StoreDir

if TYPE_CHECKING:
    from gpusq.cli.latency_subjects import Subject
    from gpusq.targets import Target

Model = Annotated[
    str | None, typer.Argument(help="ONNX file (.onnx), table of questions (.csv), or an artifact of the store.")
]
Gemms = Annotated[list[str] | None, typer.Option("--gemm", help="One product [M, K] x [K, N] as MxNxK; repeatable.")]
Dtype = Annotated[str, typer.Option("--dtype", help="Of --gemm: fp32, fp16, bf16, int8, fp8 or int4.")]
Sparsity = Annotated[str, typer.Option("--sparsity", help="Of --gemm: dense or 2:4.")]
Targets = Annotated[
    list[str] | None,
    typer.Option("--target", "-t", help="a100, h200, agx-orin@30W, ... or a .toml file; repeatable. Default: a100."),
]
Batches = Annotated[
    list[int] | None, typer.Option("--batch", "-b", min=1, max=65536, help="Repeatable. Default: 1, 8, 32.")
]
Base = Annotated[
    str,
    typer.Option(
        "--base", help="What is not INT8 runs in: fp16, fp32, bf16; auto: as the file has it; FP16 for --break-even."
    ),
]
Shapes = Annotated[
    list[str] | None, typer.Option("--shape", help="Whole shape of an open ONNX input, as pixel_values=1x3x224x224.")
]
BreakEven = Annotated[bool, typer.Option("--break-even", help="From which batch 2:4 and INT8 pay (batches 1 to 256).")]
Html = Annotated[Path | None, typer.Option("--html", help="Write the curves against batch as a page (--break-even).")]
CsvOut = Annotated[Path | None, typer.Option("--out", help="Write the rows as CSV here.")]
AllLayers = Annotated[bool, typer.Option("--all-layers", help="List every layer, not groups of equal ones.")]

CalibrationTarget = Annotated[
    str, typer.Option("--target", "-t", help="The nearest known device: what is not fitted is taken from it.")
]
Points = Annotated[
    Path | None,
    typer.Option("--csv", help="Measured rows (gpu,dtype,sparsity,m,n,k,latency_us) instead of a device."),
]
TargetOut = Annotated[Path, typer.Option("--out", help="The new target file (.toml).")]
Holdout = Annotated[
    float,
    typer.Option("--holdout", min=0.0, max=0.9, help="Share of the shapes kept out of the fit to state its error."),
]
Seconds = Annotated[
    float,
    typer.Option(
        "--seconds", min=0.01, help="Seconds of measuring for each shape; no path less than 7 times, warm-up on top."
    ),
]
Name = Annotated[
    str, typer.Option("--name", help="Name of the new target. Default: that of --target with -calibrated.")
]

BASES = ("auto", "fp16", "fp32", "bf16")
DEFAULT_BATCHES = (1, 8, 32)


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("predict", help="Predict latency: one GEMM, an ONNX file, a CSV of questions, or an artifact.")(predict)
    app.command("calibrate", help="Fit a target's parameters to a few measurements, here or from a CSV.")(calibrate)


def predict(
    model: Model = None,
    gemm: Gemms = None,
    dtype: Dtype = "fp16",
    sparsity: Sparsity = "dense",
    target: Targets = None,
    batch: Batches = None,
    base: Base = "auto",
    shape: Shapes = None,
    break_even: BreakEven = False,
    html: Html = None,
    out: CsvOut = None,
    all_layers: AllLayers = False,
    store: StoreDir = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Predict latency."""
    from gpusq.cli.output import refusals

    with refusals(json):
        _check_asked(model, gemm, target, base, break_even, html)
        names = list(dict.fromkeys(target or ["a100"]))
        if gemm or (model or "").endswith(".csv"):
            _predict_rows(model, gemm or [], dtype, sparsity, names, out, json)
            return
        from gpusq.cli.latency_subjects import subject_of
        from gpusq.targets import load_target

        targets = [load_target(name) for name in names]
        subject = subject_of(model or "", shape or [], store)
        batches = tuple(dict.fromkeys(batch or DEFAULT_BATCHES))
        _predict_model(subject, targets, batches, base, (break_even, html, out, all_layers, json))


def _check_asked(
    model: str | None, gemm: list[str] | None, target: list[str] | None, base: str, break_even: bool, html: Path | None
) -> None:
    import difflib

    from gpusq.errors import UsageError

    if bool(model) == bool(gemm):
        raise UsageError(
            "predict takes one of: an .onnx file, a .csv table, an artifact, or --gemm MxNxK",
            got="both" if model else "none",
            do="give one of them",
        )
    if base not in BASES:
        near = difflib.get_close_matches(base, BASES, n=1, cutoff=0.0)[0]
        raise UsageError(f"--base is one of {', '.join(BASES)}", got=repr(base), do=f"nearest: {near}")
    if target and (model or "").endswith(".csv"):
        raise UsageError("a table names its own devices", got="--target beside a .csv", do="leave --target out")
    if html and not break_even:
        raise UsageError("--html shows the curves of --break-even", got="--html alone", do="add --break-even")
    if break_even and (gemm or (model or "").endswith(".csv")):
        raise UsageError("--break-even takes a model", got="single rows", do="name an .onnx file or an artifact")


def _predict_rows(
    model: str | None, gemms: list[str], dtype: str, sparsity: str, names: list[str], out: Path | None, json: bool
) -> None:
    from gpusq.cli.latency_subjects import parsed_gemm
    from gpusq.cli.latency_tables import rows_table, write_rows
    from gpusq.cli.output import print_json, print_line, print_table
    from gpusq.latency.table import Question, answer_all, answered_rows, check_question, read_questions

    if model:
        questions = read_questions(Path(model))
    else:
        asked = [(name, parsed_gemm(text)) for name in names for text in gemms]
        questions = [Question("gemm", name, dtype.lower(), sparsity.lower(), sizes, {}, "") for name, sizes in asked]
        for question in questions:
            check_question(question)
    rows = answered_rows(questions, answer_all(questions))
    if out is not None:
        write_rows(rows, out)
    if json:
        print_json({"status": "predicted", "rows": rows})
    elif out is not None:
        print_line(f"written: {out} ({len(rows)} rows)")
    else:
        print_table(rows_table(rows))


def _predict_model(
    subject: Subject, targets: list[Target], batches: tuple[int, ...], base: str, shown: tuple[Any, ...]
) -> None:
    from gpusq.cli.latency_tables import model_document, model_rows, print_model, write_page, write_rows
    from gpusq.cli.output import print_json, print_line

    break_even, html, out, all_layers, json = shown
    if break_even:
        subject, base = subject.compared(base)
    found = {target.name: [subject.predict(target, batch, base) for batch in batches] for target in targets}
    decisions = [subject.decide(target, base) for target in targets] if break_even else []
    written = [path for path in (out, html) if path is not None]
    if out is not None:
        write_rows(model_rows(subject, found), out)
    if html is not None:
        write_page(subject, found, decisions, targets, base, html)
    if json:
        print_json(model_document(subject, found, decisions))
        return
    print_model(subject, found, decisions, all_layers)
    for path in written:
        print_line(f"written: {path}")


def calibrate(
    target: CalibrationTarget,
    out: TargetOut,
    csv: Points = None,
    holdout: Holdout = 0.0,
    seconds: Seconds = 0.2,
    name: Name = "",
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Fit a target to measurements."""
    from gpusq.cli.output import print_json, progress_lines, refusals

    with refusals(json):
        from gpusq.latency.calibrate import calibrated, write_target
        from gpusq.latency.device_points import measure_points
        from gpusq.latency.points import read_points
        from gpusq.targets import load_target

        device = load_target(target)
        with progress_lines(quiet) as progress:
            points = read_points(csv, device) if csv else measure_points(device, seconds=seconds, progress=progress)
            result = calibrated(target, points, holdout=holdout, name=name)
        write_target(result, out)
        if json:
            print_json({"path": str(out), **result.to_json()})
        else:
            from gpusq.cli.latency_tables import print_calibration

            print_calibration(result, out)
