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
    str | None,
    typer.Argument(
        metavar="FILE", help="ONNX file (.onnx), table of questions (.csv, columns below), or an artifact of the store."
    ),
]
Gemms = Annotated[list[str] | None, typer.Option("--gemm", help="One product [M, K] x [K, N] as MxNxK; repeatable.")]
Dtype = Annotated[
    str | None, typer.Option("--dtype", help="Of --gemm: fp32, fp16, bf16, int8, fp8 or int4. Default: fp16.")
]
Sparsity = Annotated[str | None, typer.Option("--sparsity", help="Of --gemm: dense or 2:4. Default: dense.")]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        "-t",
        help="a100, h200, agx-orin@30W, ... or a .toml file; repeatable. Default: an artifact's own, or a100.",
    ),
]
Batches = Annotated[
    list[int] | None, typer.Option("--batch", "-b", min=1, max=65536, help="Of a model; repeatable. Default: 1, 8, 32.")
]
Base = Annotated[
    str | None,
    typer.Option(
        "--base", help="What is not INT8 runs in: fp16, fp32, bf16; auto: as the file has it; FP16 for --break-even."
    ),
]
Shapes = Annotated[
    list[str] | None, typer.Option("--shape", help="Whole shape of an open ONNX input, as pixel_values=1x3x224x224.")
]
BreakEven = Annotated[bool, typer.Option("--break-even", help="From which batch 2:4 and INT8 pay (batches 1 to 256).")]
Html = Annotated[Path | None, typer.Option("--html", help="Write the curves against batch as a page (--break-even).")]
CsvOut = Annotated[Path | None, typer.Option("--out", help="Write the rows as CSV here (.csv).")]
AllLayers = Annotated[bool, typer.Option("--all-layers", help="List every layer, not groups of equal ones.")]

CalibrationTarget = Annotated[
    str, typer.Option("--target", "-t", help="The nearest known device: what is not fitted is taken from it.")
]
Points = Annotated[
    Path | None,
    typer.Option(
        "--csv",
        help="Measured rows (gpu,dtype,sparsity,m,n,k,latency_us) instead of a device.",
    ),
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

PREDICT_COLUMNS = """Columns of a .csv FILE, one row a question (the names in any order, other columns pass through).
Single products, kind gemm:
kind,device,dtype,sparsity,m,n,k
Whole encoders, kind encoder:
kind,device,dtype,sparsity,layers,width,heads,mlp,tokens,batch
Both kinds may share a header with the columns of both; a later line that begins with kind is a new header."""
DEFAULT_BATCHES = (1, 8, 32)


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command(
        "predict",
        help="Predict latency: one GEMM, an ONNX file, a CSV of questions, or an artifact.",
        epilog=PREDICT_COLUMNS,
    )(predict)
    app.command("calibrate", help="Fit a target's parameters to a few measurements, here or from a CSV.")(calibrate)


def predict(
    model: Model = None,
    gemm: Gemms = None,
    dtype: Dtype = None,
    sparsity: Sparsity = None,
    target: Targets = None,
    batch: Batches = None,
    base: Base = None,
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
        given: dict[str, Any] = {
            "--dtype": dtype,
            "--sparsity": sparsity,
            "--target": target,
            "--batch": batch,
            "--base": base,
        }
        given |= {"--shape": shape, "--break-even": break_even, "--html": html, "--all-layers": all_layers}
        _check(model, gemm or [], given, out)
        names = list(dict.fromkeys(target or []))
        if gemm or (model or "").endswith(".csv"):
            form = (dtype or "fp16", sparsity or "dense")
            _predict_rows(model, gemm or [], form, names or ["a100"], out, json)
            return
        from gpusq.cli.latency_subjects import subject_of

        subject = subject_of(model or "", shape or [], store)
        batches = tuple(dict.fromkeys(batch or DEFAULT_BATCHES))
        shown = (break_even, html, out, all_layers, json)
        _predict_model(subject, subject.targets(names), batches, base or "auto", shown)


def _check(model: str | None, gemm: list[str], given: dict[str, Any], out: Path | None) -> None:
    from gpusq.cli.latency_questions import check_asked, check_written

    check_asked(model, gemm, given)
    inputs = [model, *(given["--target"] or [])]
    check_written("--out", out, (".csv",), inputs)
    check_written("--html", given["--html"], (".html", ".htm"), [*inputs, out])


def _predict_rows(
    model: str | None, gemms: list[str], form: tuple[str, str], names: list[str], out: Path | None, json: bool
) -> None:
    from gpusq.cli.latency_subjects import parsed_gemm
    from gpusq.cli.latency_tables import rows_table, write_rows
    from gpusq.cli.output import print_json, print_line, print_table
    from gpusq.latency.table import Question, answer_all, answered_rows, check_question, read_questions

    if model:
        questions = read_questions(Path(model))
    else:
        asked = [(name, parsed_gemm(text)) for name in names for text in gemms]
        dtype, sparsity = (word.lower() for word in form)
        questions = [Question("gemm", name, dtype, sparsity, sizes, {}, "") for name, sizes in asked]
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
        from gpusq.cli.latency_questions import check_written

        check_written("--out", out, (".toml",), [csv, target])
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
