"""What `gpusq predict` predicts: an ONNX file or an artifact, as a workload with the form of its layers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpusq.errors import ArtifactNotFoundError, StageOrderError, UnsupportedModelError, UsageError

if TYPE_CHECKING:
    from gpusq.latency import Prediction
    from gpusq.latency.decisions import Decisions
    from gpusq.targets import Target
    from gpusq.workload import Layer, Workload

DEFAULT_TARGET = "a100"


@dataclass(frozen=True)
class Subject:
    """A model to predict. precision: of what is not quantized, as the file has it; None: what the target runs best.

    target: the name of the target that an artifact was sealed for, "" for none.
    """

    title: str
    kind: str
    workload: Workload
    layers: tuple[Layer, ...]
    precision: str | None = None
    int8_attention: bool = False
    unknown: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    target: str = ""

    def targets(self, asked: Sequence[str]) -> list[Target]:
        """Those asked for, else the artifact's own, else an A100. Raises UnknownTargetError."""
        from gpusq.errors import UnknownTargetError
        from gpusq.targets import load_target

        try:
            return [load_target(name) for name in asked or [self.target or DEFAULT_TARGET]]
        except UnknownTargetError as error:
            if asked:
                raise
            what = f"{self.title} was made for the target {self.target}: {error.what}"
            raise UnknownTargetError(what, got=error.got, do="give its target file, --target FILE.toml") from error

    def base(self, target: Target, asked: str) -> str:
        """fp32, fp16 or bf16: as asked, else as in the file, else fp16; a CPU runs fp32."""
        if not target.is_gpu:
            return "fp32"
        return asked if asked != "auto" else self.precision or "fp16"

    def compared(self, asked: str) -> tuple[Subject, str]:
        """(the model, the precision asked) for a comparison of forms: "auto" is FP16, which a note tells.

        FP16 is the twin to beat on a GPU, whatever the file holds. bf16 has the kernels of FP16 and its name.
        """
        if asked == "bf16" or (asked == "auto" and self.precision == "bf16"):
            return self._noting("bf16 runs in the kernels of FP16 and is listed as fp16"), "bf16"
        if asked != "auto" or self.precision in (None, "fp16"):
            return self, asked if asked != "auto" else "fp16"
        note = (
            f"the file is {self.precision.upper()}; --break-even predicts and compares it in FP16 on a GPU, on screen "
        )
        note += f"and page alike, since that is the twin to beat; --base {self.precision} keeps it"
        return self._noting(note), "fp16"

    def _noting(self, note: str) -> Subject:
        return replace(self, notes=(*self.notes, note))

    def predict(self, target: Target, batch: int, asked: str = "auto") -> Prediction:
        """The prediction at one batch."""
        from gpusq.latency import predict
        from gpusq.latency.forms import STANDS_FOR, standing_in

        base = self.base(target, asked)
        return predict(
            self.workload,
            self.layers,
            standing_in(target, base),
            batch,
            STANDS_FOR.get(base, base),
            int8_attention=self.int8_attention,
        )

    def decide(self, target: Target, asked: str = "auto", batches: Sequence[int] | None = None) -> Decisions:
        """Break-even batches in the precision asked, as `predict` takes it; see `compared`."""
        from gpusq.latency.decisions import ALL_BATCHES, decide
        from gpusq.latency.forms import STANDS_FOR, standing_in
        from gpusq.reports.compare import TWIN_ERROR_CORRELATION

        base = self.base(target, asked)
        return decide(
            self.workload,
            self.layers,
            standing_in(target, base),
            batches or ALL_BATCHES,
            base_dtype=STANDS_FOR.get(base, base),
            correlation=TWIN_ERROR_CORRELATION,
            int8_attention=self.int8_attention,
        )


def subject_of(reference: str, shapes: Sequence[str], store: Path) -> Subject:
    """An .onnx file, or an artifact by path or name. Raises the errors of `read_onnx` and of the store."""
    if reference.endswith(".onnx"):
        return _onnx_subject(Path(reference), parsed_shapes(shapes))
    if shapes:
        raise UsageError("--shape belongs to an ONNX file", got=reference, do="leave --shape out")
    return _artifact_subject(reference, store)


def _onnx_subject(path: Path, shapes: dict[str, tuple[int, ...]]) -> Subject:
    from gpusq.latency.onnx_workload import read_onnx

    if not path.is_file():
        raise UnsupportedModelError(f"{path} is an ONNX file", got="no such file", do="check the path")
    found = read_onnx(path, shapes)
    return Subject(
        title=str(path),
        kind="onnx file",
        workload=found.workload,
        layers=found.layers,
        precision=found.precision,
        int8_attention=found.int8_attention,
        unknown=found.unknown,
        notes=found.notes,
    )


def _artifact_subject(reference: str, store: Path) -> Subject:
    from gpusq.cli.options import artifact_of
    from gpusq.stages.layer_files import read_layers, read_workload

    try:
        artifact = artifact_of(reference, store)
    except ArtifactNotFoundError as error:
        what = f"{reference} is an .onnx file, a .csv table or an artifact: {error.what}"
        raise ArtifactNotFoundError(what, got=error.got, do=error.do) from error
    if "workload.json" not in artifact.manifest.files:
        raise StageOrderError(
            "predict takes an artifact of a model", got=artifact.kind, do="name a dense, sparse, quantized or onnx one"
        )
    title = f"{artifact.kind} {artifact.digest[:12]}"
    sealed_for = artifact.manifest.target or ""
    return Subject(title, artifact.kind, read_workload(artifact), read_layers(artifact), target=sealed_for)


def parsed_shapes(shapes: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """ "pixel_values=1x3x224x224" for each input. Raises UsageError."""
    found: dict[str, tuple[int, ...]] = {}
    for text in shapes:
        name, equals, sizes = text.rpartition("=")
        if not equals or not name or not re.fullmatch(r"\d+([x,]\d+)*", sizes):
            raise UsageError("--shape is NAME=1x3x224x224", got=text, do="write the input's name and its sizes")
        found[name] = tuple(_size(part, text) for part in re.split("[x,]", sizes))
    return found


def parsed_gemm(text: str) -> tuple[int, int, int]:
    """ "197x3072x768" as (m, n, k). Raises UsageError."""
    parts = re.fullmatch(r"(-?\d+)[x,](-?\d+)[x,](-?\d+)", text.strip().lower())
    if parts is None:
        raise UsageError("--gemm is MxNxK, as in 197x3072x768", got=repr(text), do="write three whole numbers")
    m, n, k = (_size(part, text) for part in parts.groups())
    return m, n, k


def _size(part: str, text: str) -> int:
    from gpusq.latency.gemm import LARGEST_SIZE

    value = int(part)
    if not 1 <= value <= LARGEST_SIZE:
        raise UsageError(f"a size is from 1 to {LARGEST_SIZE}", got=f"{part} in {text}", do="correct the size")
    return value


def operators(found: Prediction) -> list[dict[str, Any]]:
    """Each operator of a prediction as plain data, and the engine's start; `us` add up to the latency, `share` to 1."""
    whole = 1e3 * found.latency_ms or 1.0
    return [
        {
            "name": op.name,
            "us": op.us,
            "low_us": op.low_us,
            "high_us": op.high_us,
            "bound": op.bound,
            "share": op.us / whole,
            "scaled": op.scaled,
        }
        for op in (*found.ops, found.rest)
    ]
