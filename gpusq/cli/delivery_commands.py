"""`gpusq matrix | gate | package`: what CI builds, whether it may be released, and where engines go next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gpusq.cli.options import DEFAULT_STORE, Json, Reference, StoreDir, artifact_of

if TYPE_CHECKING:
    from gpusq.finishing import Receipt
    from gpusq.gates import Judged
    from gpusq.reports import Report

MATRIX_FILE = Path("export/engines.toml")
RECEIPT_SUFFIX = ".receipt.json"
Jobs = Annotated[Literal["build", "prepare"], typer.Option("--for", help="The jobs that build, or those that prepare.")]
MatrixFile = Annotated[Path, typer.Option("--file", help="The engine matrix.")]
Receipts = Annotated[list[Path] | None, typer.Argument(help="Receipt files of `gpusq build BUNDLE --receipt`.")]
Baseline = Annotated[
    list[Path] | None, typer.Option("--baseline", help="Receipt of the last release; one for each target.")
]
MaxDrop = Annotated[float, typer.Option("--max-drop", min=0, help="Points of accuracy that may be lost.")]
MinSparse = Annotated[
    float, typer.Option("--min-sparse", min=0, max=1, help="Least share of GEMM time in 2:4 kernels.")
]
MaxRegression = Annotated[
    float, typer.Option("--max-regression", min=0, help="How much slower than the baseline, 0.05 for 5 %.")
]
ByMatrix = Annotated[
    Path | None,
    typer.Option("--matrix", help="Take engines and limits from this matrix; receipts are ID.receipt.json."),
]
Folder = Annotated[Path | None, typer.Option("--receipts", help="With --matrix: the folder of the receipts.")]
Baselines = Annotated[Path | None, typer.Option("--baselines", help="With --matrix: those of the last release.")]
Reports = Annotated[
    list[Path] | None,
    typer.Option("--report", help="The host's report of a bundle, which gives the accuracies; may be repeated."),
]
Summary = Annotated[Path | None, typer.Option("--summary", help="Append the result as Markdown to this file.")]
Form = Annotated[Literal["triton", "deepstream"], typer.Option("--as", help="What to write.")]
Out = Annotated[Path, typer.Option("--out", help="Folder to write; new, or for triton the model repository.")]
ModelName = Annotated[str | None, typer.Option("--name", help="Triton: the model's name.")]
MaxBatch = Annotated[int | None, typer.Option("--max-batch", min=1, help="Largest batch, if less than the engine's.")]
BundleRef = Annotated[
    str | None, typer.Option("--bundle", help="The engine's bundle, where the engine lacks something.")
]
FromMeta = Annotated[
    bool, typer.Option("--input-from-meta", help="DeepStream: tensors come ready from another element.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("matrix", help="The engines that CI builds, as GitHub's job matrices.")(matrix)
    app.command("gate", help="Hold receipts to limits. Exit 1 where one fails or is missing.")(gate)
    app.command("package", help="Write a Triton model repository or a DeepStream configuration from an engine.")(
        package
    )


def matrix(jobs: Jobs = "build", file: MatrixFile = MATRIX_FILE, json: Json = False) -> None:
    """List the engines that CI builds."""
    from gpusq.cli.output import print_json, print_line, refusals

    with refusals(json):
        from gpusq.matrix import build_jobs, load_matrix, prepare_jobs

        found = (build_jobs if jobs == "build" else prepare_jobs)(load_matrix(file))
        if json:
            print_json(found)
            return
        for job in found["include"]:
            where = f"{job['target']} on {', '.join(job['runs_on'])}" if jobs == "build" else ", ".join(job["targets"])
            print_line(f"{job.get('id', job['name']):32} {where}")


def gate(
    receipts: Receipts = None,
    baseline: Baseline = None,
    max_drop: MaxDrop = 1.0,
    min_sparse: MinSparse = 0.0,
    max_regression: MaxRegression = 0.05,
    matrix: ByMatrix = None,
    folder: Folder = None,
    baselines: Baselines = None,
    report: Reports = None,
    summary: Summary = None,
    json: Json = False,
) -> None:
    """Hold receipts to limits."""
    from gpusq.cli.output import print_json, print_line, refusals

    with refusals(json):
        from gpusq.errors import UsageError
        from gpusq.gates import passed
        from gpusq.gates import summary as markdown

        if bool(receipts) == (matrix is not None) or (matrix is None) != (folder is None):
            raise UsageError("gate takes receipts, or --matrix with --receipts", do="see gpusq gate --help")
        limits = {"max_drop": max_drop, "min_sparse": min_sparse, "max_regression": max_regression}
        if matrix is not None and folder is not None:
            judged = _judge_matrix(matrix, folder, baselines, report or [])
        else:
            judged = _judge_files(receipts or [], baseline or [], limits, report or [])
        if summary is not None:
            with summary.open("a", encoding="utf-8") as file:
                file.write(markdown(judged))
        if json:
            print_json({"passed": passed(judged), "engines": [each.to_json() for each in judged]})
        else:
            for each in judged:
                print_line(f"{each.state:10} {each.id} ({each.target})")
                for f in each.findings:
                    print_line(f"{'':10} {f.gate}: {f.outcome}, {f.seen}")
        if not passed(judged):
            raise SystemExit(1)


def _judge_files(
    paths: list[Path], baselines: list[Path], limits: dict[str, float], reports: list[Path]
) -> list[Judged]:
    from gpusq.finishing import read_receipt
    from gpusq.gates import judge, with_accuracies
    from gpusq.matrix import Gates

    before = {receipt.target: receipt for receipt in map(read_receipt, baselines)}
    scored = _read_reports(reports)
    found = [(path, with_accuracies(read_receipt(path), scored)) for path in paths]
    return [
        judge(path.name, receipt.target, receipt, before.get(receipt.target), Gates(**limits))
        for path, receipt in found
    ]


def _judge_matrix(file: Path, folder: Path, baselines: Path | None, reports: list[Path]) -> list[Judged]:
    from gpusq.gates import judge_all, with_accuracies
    from gpusq.matrix import build_jobs, load_matrix

    jobs: list[dict[str, Any]] = build_jobs(load_matrix(file))["include"]
    ids = [str(job["id"]) for job in jobs]
    scored = _read_reports(reports)
    receipts = {name: with_accuracies(found, scored) for name, found in _receipts_in(folder, ids).items()}
    return judge_all(jobs, receipts, _receipts_in(baselines, ids) if baselines else {})


def _read_reports(paths: list[Path]) -> list[Report]:
    from gpusq.runs import read_report

    return [read_report(str(path), path.parent) for path in paths]


def _receipts_in(folder: Path, ids: list[str]) -> dict[str, Receipt]:
    """ID.receipt.json, anywhere below the folder, read with their seals checked."""
    from gpusq.finishing import read_receipt

    found = {path.name.removesuffix(RECEIPT_SUFFIX): path for path in folder.rglob(f"*{RECEIPT_SUFFIX}")}
    return {name: read_receipt(found[name]) for name in ids if name in found}


def package(
    artifact: Reference,
    form: Form,
    out: Out,
    name: ModelName = None,
    max_batch: MaxBatch = None,
    bundle: BundleRef = None,
    input_from_meta: FromMeta = False,
    store: StoreDir = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Write a package for a server."""
    from gpusq.cli.output import print_json, print_line, refusals, say

    with refusals(json):
        from gpusq.delivery import contents_of, write_deepstream, write_triton
        from gpusq.errors import UsageError

        if input_from_meta and form != "deepstream":
            raise UsageError("--input-from-meta goes with --as deepstream", do="leave it out")
        extra = artifact_of(bundle, store) if bundle is not None else None
        contents = contents_of(artifact_of(artifact, store), max_batch, extra)
        if form == "triton":
            path = out / write_triton(contents, out, name)
        else:
            write_deepstream(contents, out, input_from_meta)
            path = out
        if contents.is_bundle:
            say("a bundle holds no engine: its ONNX file was packaged; finish it on the device and package the engine")
        files = sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
        if json:
            print_json({"path": str(path), "runtime": contents.runtime, "digest": contents.digest, "files": files})
            return
        print_line(f"{form} package {path}: {', '.join(files)}")
