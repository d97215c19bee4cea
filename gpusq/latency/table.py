"""Predict a table of questions: single GEMMs and whole encoders, mixed in any order."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from gpusq.errors import TableError, UsageError
from gpusq.latency.csv_file import Record, read_records
from gpusq.latency.encoder import encoder_workload
from gpusq.latency.forms import FORM_DTYPES, predict_form
from gpusq.latency.gemm import LARGEST_SIZE
from gpusq.latency.predict import OpPrediction, Prediction, predict_gemm
from gpusq.targets import Target, load_target
from gpusq.targets.target import check_path
from gpusq.workload import Workload

GEMM_SIZES = ("m", "n", "k")
ENCODER_SIZES = ("layers", "width", "heads", "mlp", "tokens", "batch")
SIZES = {"gemm": GEMM_SIZES, "encoder": ENCODER_SIZES}
COMMON = ("kind", "device", "dtype", "sparsity")
ANSWERS = ("latency_us", "low_us", "high_us", "bound")
SCALED = "scaled"
MOST_LAYERS = 1024
DTYPES = ("fp32", "fp16", "bf16", "int8", "fp8", "int4")


@dataclass(frozen=True)
class Question:
    """One row, checked. sizes: those of its kind, in the order of SIZES; extra: columns that only pass through."""

    kind: str
    device: str
    dtype: str
    sparsity: str
    sizes: tuple[int, ...]
    extra: dict[str, str]
    place: str


@dataclass(frozen=True)
class Answer:
    """Predicted microseconds with the 90 % interval; bound: compute, memory or launch.

    scaled: a path in it was not fitted but scaled by the ratio of peaks.
    """

    us: float
    low_us: float
    high_us: float
    bound: str
    scaled: bool = False

    def to_json(self) -> dict[str, Any]:
        """The columns that an answer adds to its row; `scaled` only where it is."""
        rounded = (float(f"{value:.6g}") for value in (self.us, self.low_us, self.high_us))
        return dict(zip(ANSWERS, (*rounded, self.bound), strict=True)) | ({SCALED: True} if self.scaled else {})


def read_questions(path: Path) -> list[Question]:
    """The rows of a CSV file: kind,device,dtype,sparsity and m,n,k (gemm) or layers,...,batch (encoder).

    Columns of the other kind are empty or absent; further columns pass through; a line that begins with "kind" is a
    new header. Raises TableError naming file, line and column, UsageError for a device or path that is not known.
    """
    return [_question(record) for record in read_records(path, COMMON[0])]


def _question(record: Record) -> Question:
    kind = _word(record, "kind", tuple(SIZES))
    device = record.text("device")
    dtype, sparsity = _word(record, "dtype", DTYPES), _word(record, "sparsity", ("dense", "2:4"))
    sizes = tuple(record.size(name) for name in SIZES[kind])
    known = {*COMMON, *GEMM_SIZES, *ENCODER_SIZES}
    extra = {name: text for name, text in record.cells.items() if name not in known and text}
    question = Question(kind, device, dtype, sparsity, sizes, extra, record.place)
    check_question(question)
    return question


def _word(record: Record, column: str, words: tuple[str, ...]) -> str:
    text = record.text(column).lower()
    if text not in words:
        near = difflib.get_close_matches(text, words, n=1)
        do = f"nearest: {near[0]}" if near else f"write {' or '.join(words)}"
        raise TableError(f"{record.place}, column {column} is one of {', '.join(words)}", got=repr(text), do=do)
    return text


def check_question(question: Question) -> None:
    """Raises UnknownTargetError or UsageError for a device, path or combination of sizes that cannot be predicted.

    The error names the row's place and column where it has one.
    """
    with _at(question, "device"):
        target = target_of(question.device)
    with _at(question, "dtype"):
        check_path(question.dtype, question.sparsity)
        target.peak(question.dtype, question.sparsity)
        if question.kind == "encoder" and question.dtype not in FORM_DTYPES:
            words = ", ".join(FORM_DTYPES)
            raise UsageError(f"an encoder runs in one of {words}", got=question.dtype, do="ask for single GEMMs")
    named = dict(zip(SIZES[question.kind], question.sizes, strict=True))
    for column, size in named.items():
        with _at(question, column):
            _check_size(column, size, named)
    with _at(question, "sparsity"):
        _check_sparse(question, named)


@contextmanager
def _at(question: Question, column: str) -> Iterator[None]:
    """A refusal within is raised again, of the same type, with the row and column before its words."""
    try:
        yield
    except UsageError as error:
        if not question.place:
            raise
        what = f"{question.place}, column {column}: {error.what}"
        raise type(error)(what, got=error.got, do=error.do) from error


def _check_size(column: str, size: int, named: dict[str, int]) -> None:
    most = MOST_LAYERS if column == "layers" else LARGEST_SIZE
    if not 1 <= size <= most:
        raise UsageError(f"{column} is a whole number from 1 to {most}", got=str(size), do="correct the size")
    if column == "width" and size % named["heads"]:
        got = f"width {size}, heads {named['heads']}"
        raise UsageError("the width of an encoder is divisible by its heads", got=got, do="correct one of them")


def _check_sparse(question: Question, named: dict[str, int]) -> None:
    if question.sparsity != "2:4":
        return
    if question.dtype == "fp32":
        raise UsageError("2:4 runs in fp16, bf16, int8, fp8 or int4", got="fp32", do="ask for fp32 dense, or fp16 2:4")
    depths = {name: named[name] for name in ("k", "width", "mlp") if named.get(name, 0) % 4}
    if depths:
        got = ", ".join(f"{name} {depth}" for name, depth in depths.items())
        raise UsageError("2:4 needs a reduction divisible by 4", got=got, do="ask for dense")


@lru_cache(maxsize=64)
def target_of(name: str) -> Target:
    """`load_target`, once for each name."""
    return load_target(name)


def answer_all(questions: Sequence[Question]) -> list[Answer]:
    """The answers in the order of the questions; equal questions are computed once."""
    known: dict[tuple[Any, ...], Answer] = {}
    answers = []
    for question in questions:
        key = (question.kind, question.device, question.dtype, question.sparsity, question.sizes)
        if key not in known:
            known[key] = answer(question)
        answers.append(known[key])
    return answers


def answer(question: Question) -> Answer:
    """One GEMM as an isolated call, or one pass of an encoder in an engine."""
    target = target_of(question.device)
    if question.kind == "gemm":
        return _gemm_answer(predict_gemm(target, question.dtype, question.sparsity, *question.sizes))
    return _encoder_answer(target, question)


def _gemm_answer(found: OpPrediction) -> Answer:
    return Answer(found.us, found.low_us, found.high_us, found.bound, found.scaled)


def _encoder_answer(target: Target, question: Question) -> Answer:
    *shape, batch = question.sizes
    found = predict_form(_encoder(*shape), target, batch, question.dtype, question.sparsity)
    return Answer(1e3 * found.latency_ms, 1e3 * found.low_ms, 1e3 * found.high_ms, main_bound(found), found.scaled)


@lru_cache(maxsize=64)
def _encoder(layers: int, width: int, heads: int, mlp: int, tokens: int) -> Workload:
    return encoder_workload(layers, width, heads, mlp, tokens)


def main_bound(found: Prediction) -> str:
    """What bounds the largest part of the time."""
    shares: dict[str, float] = {}
    for op in found.ops:
        shares[op.bound] = shares.get(op.bound, 0.0) + op.us
    return max(shares, key=lambda bound: shares[bound], default="launch")


def answered_rows(questions: Sequence[Question], answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """The rows as they came, in their order, with the answers added."""
    rows = []
    for question, found in zip(questions, answers, strict=True):
        words = (question.kind, question.device, question.dtype, question.sparsity)
        sizes = dict(zip(SIZES[question.kind], question.sizes, strict=True))
        rows.append({**dict(zip(COMMON, words, strict=True)), **sizes, **question.extra, **found.to_json()})
    return rows


def columns_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The union of the rows' columns, the answers last."""
    names = dict.fromkeys(name for row in rows for name in row)
    order = [*COMMON, *GEMM_SIZES, *ENCODER_SIZES]
    first = [name for name in order if name in names]
    last = [*ANSWERS, SCALED] if SCALED in names else list(ANSWERS)
    return [*first, *(n for n in names if n not in {*first, *last}), *last]
