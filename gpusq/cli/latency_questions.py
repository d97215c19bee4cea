"""What `gpusq predict` and `gpusq calibrate` refuse before they begin: options that mean nothing, files in danger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpusq.errors import UsageError

BASES = ("auto", "fp16", "fp32", "bf16")
ROWS_ONLY = ("--dtype", "--sparsity")
"""Options of --gemm."""
MODEL_ONLY = ("--batch", "--base", "--shape", "--all-layers")
"""Options of an .onnx file or an artifact."""


def check_asked(model: str | None, gemm: Sequence[str], options: Mapping[str, Any]) -> None:
    """Raise UsageError for an option that would be ignored. options: "--batch" -> its value, falsy where not given."""
    if bool(model) == bool(gemm):
        raise UsageError(
            "predict takes one of: an .onnx file, a .csv table, an artifact, or --gemm MxNxK",
            got="both" if model else "none",
            do="give one of them",
        )
    _check_base(options.get("--base") or "auto")
    table = (model or "").endswith(".csv")
    if options.get("--target") and table:
        raise UsageError("a table names its own devices", got="--target beside a .csv", do="leave --target out")
    if options.get("--html") and not options.get("--break-even"):
        raise UsageError("--html shows the curves of --break-even", got="--html alone", do="add --break-even")
    if options.get("--break-even") and (gemm or table):
        raise UsageError("--break-even takes a model", got="single rows", do="name an .onnx file or an artifact")
    _check_ignored(table, bool(gemm), options)


def _check_base(base: str) -> None:
    import difflib

    if base not in BASES:
        near = difflib.get_close_matches(base, BASES, n=1, cutoff=0.0)[0]
        raise UsageError(f"--base is one of {', '.join(BASES)}", got=repr(base), do=f"nearest: {near}")


def _check_ignored(table: bool, gemm: bool, options: Mapping[str, Any]) -> None:
    meaningless = [*(ROWS_ONLY if not gemm else ()), *(MODEL_ONLY if gemm or table else ())]
    given = [name for name in meaningless if options.get(name)]
    if not given:
        return
    beside = "--gemm" if gemm else "a .csv" if table else "a model"
    if gemm:
        do = "leave it out; M of --gemm holds the rows of all images, --dtype names the precision"
    elif table:
        do = "leave it out; the columns of the table say it"
    else:
        do = "leave it out; --base names the precision of what is not INT8, the model holds the rest"
    raise UsageError(f"{given[0]} means nothing beside {beside}", got=f"{' '.join(given)} beside {beside}", do=do)


def check_written(option: str, path: Path | None, suffixes: Sequence[str], inputs: Sequence[object]) -> None:
    """Raise UsageError where writing `path` would overwrite an input, or a file that is not of this kind by its name.

    inputs: paths, or words (names of targets, artifacts) that may be paths.
    """
    if path is None:
        return
    if any(_same(path, Path(str(given))) for given in inputs if given):
        raise UsageError(f"{option} never overwrites an input", got=str(path), do="write to another file")
    if path.suffix.lower() not in suffixes:
        raise UsageError(f"{option} names a file that ends in {suffixes[0]}", got=str(path), do="name it so")
    if path.is_dir():
        raise UsageError(f"{option} names a file", got=f"{path}, a directory", do="name a file in it")


def _same(path: Path, given: Path) -> bool:
    if path.exists() and given.exists():
        return path.samefile(given)
    return path.resolve() == given.resolve()
