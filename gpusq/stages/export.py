"""Export: any model artifact to ONNX, twice (float32, strongly typed FP16), checked before it is sealed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from gpusq.errors import UsageError
from gpusq.stages.stage import Context, Stage, parameter

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from gpusq.artifacts import Artifact
    from gpusq.data import Batch
    from gpusq.graph.parity import Parity
    from gpusq.stages.judging import Outputs
    from gpusq.stages.model_files import ModelState

EXPORT_LIBRARIES = ("torch", "transformers", "numpy", "pillow", "onnx", "onnx-ir", "onnxscript", "onnxruntime")
PARITY_BATCH = 50
SMALL_IMAGE = 1 << 16
"""Values of an image from which the parity check takes smaller batches."""
KEYS = {
    "relative": "export.float_tolerance",
    "top1": "export.agreement",
    "mean_iou": "export.box_iou",
    "score": "export.score_difference",
    "faint": "export.faint_agreement",
}
"""Bar of `check_parity` -> the parameter that sets it."""
FP32, FP16 = "model.fp32.onnx", "model.fp16.onnx"


@dataclass(frozen=True)
class Export(Stage):
    """Write the ONNX files and prove that they are the model: parity, 2:4 on the integers, lint, signature."""

    name: ClassVar[str] = "export"
    version: ClassVar[int] = 3
    takes: ClassVar[tuple[str, ...]] = ("dense", "sparse", "quantized")
    libraries: ClassVar[tuple[str, ...]] = EXPORT_LIBRARIES

    opset: int = parameter(21, "ONNX operator set, 18 or later (FP16 needs 19, GELU is one node from 20)")
    samples: int = parameter(32, "test images stored with their expected outputs, for bundles and engines")
    parity_images: int = parameter(2000, "test images on which ONNX Runtime must agree with PyTorch")
    float_tolerance: float = parameter(
        1e-4, "largest difference of a float model's outputs, over the largest value (detectors: query by query)"
    )
    agreement: float = parameter(
        0.995,
        "least share of equal answers of quantized models: images with the same top-1, a detector's boxes that both "
        "find, else images with outputs alike; 0 judges neither these nor the boxes' overlap and scores",
    )
    fp16_agreement: float = parameter(0.99, "the same of the FP16 file, on the sample images")
    box_iou: float = parameter(
        0.9, "least mean overlap (IoU, 0 to 1) of the boxes that both find: detectors, quantized or FP16"
    )
    score_difference: float = parameter(
        0.05, "largest mean difference of the scores (0 to 1) of those boxes: detectors, quantized or FP16"
    )
    faint_agreement: float = parameter(
        0.75, "least share found by both of the boxes with scores from 0.05 to 0.3, which still count in AP: detectors"
    )
    sampler: Literal["gather", "grid_sample"] = parameter(
        "gather",
        "sampling of deformable attention: gather works around wrong GridSample engines of TensorRT from 10.14 on",
    )
    signature: str | None = parameter(None, "JSON file with the frozen names, shapes and types")

    def __post_init__(self) -> None:
        if self.samples < 1 or self.parity_images < 1:
            raise UsageError("export: samples and parity_images must be at least 1", do="raise them")
        for name in ("box_iou", "score_difference", "faint_agreement"):
            if not 0 <= getattr(self, name) <= 1:
                given = str(getattr(self, name))
                raise UsageError(f"export: {name} must be from 0 to 1", got=given, do="see `gpusq export --help`")

    def gives(self, parent: Artifact | None) -> str:
        return "onnx"

    def inputs(self, parent: Artifact | None, context: Context) -> dict[str, str]:
        from gpusq.recipe_files import sha256_of

        found = {"test": context.images(self.name).test.fingerprint()}
        return found | ({"signature": sha256_of(Path(self.signature))} if self.signature else {})

    def key_params(self) -> dict[str, Any]:
        return super().key_params() | {"signature": bool(self.signature)}  # its content counts, not its place

    def run(self, parent: Artifact | None, out: Path, context: Context) -> dict[str, Any]:
        from gpusq.graph.export_onnx import export_onnx
        from gpusq.graph.fp16 import to_fp16
        from gpusq.graph.lint import lint_tensorrt
        from gpusq.graph.model_file import model_bytes, read_model
        from gpusq.graph.signature import signature
        from gpusq.stages.layer_files import carry, write_json
        from gpusq.stages.model_files import open_model

        artifact = self._parent(parent)
        state = open_model(artifact)
        context.progress(self.name, 0, None, "tracing to ONNX")
        names = state.loaded.description.outputs
        model = export_onnx(
            state.module, state.workload.input_shape, opset=self.opset, output_names=names, sampler=self.sampler
        )
        context.progress(self.name, 0, None, "writing float32 and FP16")
        (out / FP32).write_bytes(model_bytes(model))
        (out / FP16).write_bytes(model_bytes(to_fp16(model)))
        write_json(out / "signature.json", signature(model))
        carry(artifact, out)
        report = self._parity(state, out, context)
        report["lint"] = [f.to_json() for f in lint_tensorrt(read_model(out / FP16), state.layers)]
        write_json(out / "export.json", report)
        return {k: report[k] for k in ("parity_fp32", "parity_fp16", "parity_self")}

    def ensures(self, parent: Artifact | None, out: Path, context: Context) -> None:
        """The files that ship, read back: parity, the model's own weights, 2:4, lint, signature."""
        import json

        from gpusq.graph.checks import check_sparsity
        from gpusq.graph.lint import check_lint, lint_tensorrt
        from gpusq.graph.model_file import read_model
        from gpusq.stages.exported_checks import check_weights
        from gpusq.stages.model_files import layers_in

        artifact = self._parent(parent)
        report = json.loads((out / "export.json").read_text(encoding="utf-8"))
        self._check_parity(report, artifact.kind)
        layers = layers_in(out)
        for name in (FP32, FP16):
            written = read_model(out / name)
            check_sparsity(written, layers)
            check_weights(written, artifact)
        self._check_signature(out)
        check_lint(lint_tensorrt(read_model(out / FP16), layers))

    def _parent(self, parent: Artifact | None) -> Artifact:
        if parent is None:
            raise UsageError("export needs a model artifact", do="run `gpusq qat` first")
        return parent

    def _parity(self, state: ModelState, out: Path, context: Context) -> dict[str, Any]:
        """ONNX Runtime beside PyTorch on real images; the first ones are stored with the expected outputs."""
        import numpy as np
        from safetensors.numpy import save_file

        from gpusq.stages.parity_gate import misses, relaxed_note, self_parity

        expected, found, images = self._both(state, out / FP32, context)
        n = min(self.samples, len(images))
        half = _run_file(out / FP16, images[:n])
        first = {name: np.ascontiguousarray(values[:n]) for name, values in expected.items()}
        save_file({"pixel_values": np.ascontiguousarray(images[:n]), **first}, out / "samples.safetensors")
        fp32, fp16, own = _parity(state, expected, found), _parity(state, first, half), None
        asked = ((fp32, self.agreement), (fp16, self.fp16_agreement))
        if state.quantizers and any(misses(found, least, self._boxes(least, None)) for found, least in asked):
            context.progress(f"{self.name}: parity", 0, None, "PyTorch beside itself")
            own = self_parity(state, (b.pixel_values for _, b in self._images(state, context)), expected)
        report = {"parity_fp32": fp32, "parity_fp16": fp16, "parity_self": own}
        if own is not None:
            context.progress(f"{self.name}: parity", 1, 1, relaxed_note(report))
        return report

    def _both(self, state: ModelState, path: Path, context: Context) -> tuple[Outputs, Outputs, np.ndarray]:
        """(PyTorch outputs, ONNX Runtime outputs, the first images) on up to parity_images test images."""
        import numpy as np

        from gpusq.engines import cpu_threads, onnxruntime_engine
        from gpusq.stages.judging import joined, run_module

        runner = onnxruntime_engine.load_bytes(path.read_bytes(), cpu_threads())
        expected: list[Outputs] = []
        found: list[Outputs] = []
        kept: list[np.ndarray] = []
        for done, batch in self._images(state, context):
            context.progress(f"{self.name}: parity", done, self.parity_images, "ONNX Runtime beside PyTorch")
            expected.append(run_module(state.module, state.loaded.description.outputs, batch.pixel_values))
            found.append(runner.outputs(batch.pixel_values))
            if sum(len(k) for k in kept) < self.samples:
                kept.append(batch.pixel_values)
        return joined(expected), joined(found), np.concatenate(kept)

    def _images(self, state: ModelState, context: Context) -> Iterator[tuple[int, Batch]]:
        """(images done before, batch) over the test images of the parity check."""
        from gpusq.stages.images import batches_of

        data = context.images(self.name).test
        wanted = range(min(self.parity_images, len(data)))
        channels, height, width = state.workload.input_shape
        size = PARITY_BATCH if channels * height * width < SMALL_IMAGE else PARITY_BATCH // 5
        yield from batches_of(data, state.loaded.description, wanted, size, context, f"{self.name}: parity")

    def _check_parity(self, report: dict[str, Any], kind: str) -> None:
        from gpusq.graph.parity import check_parity
        from gpusq.stages.parity_gate import allowed_agreement

        fp32, fp16 = _read_parity(report["parity_fp32"]), _read_parity(report["parity_fp16"])
        own, what = report["parity_self"], "export: ONNX Runtime and PyTorch"
        if kind == "quantized":
            least = allowed_agreement(self.agreement, own, fp32.n)
            check_parity(fp32, relative=None, top1=least, what=what, keys=KEYS, **self._boxes(self.agreement, own))
        else:  # the values decide; where they were paired, what was left alone and how they overlap counts too
            least = self.agreement if fp32.paired else 0.0
            bars = self._boxes(least, None)
            check_parity(fp32, relative=self.float_tolerance, top1=least, what=what, keys=KEYS, **bars)
        least = allowed_agreement(self.fp16_agreement, own, fp16.n)
        bars = self._boxes(self.fp16_agreement, own)
        keys = {**KEYS, "top1": "export.fp16_agreement"}
        check_parity(fp16, relative=None, top1=least, what="export: FP16 ONNX and PyTorch", keys=keys, **bars)

    def _boxes(self, agreement: float, own: dict[str, Any] | None) -> dict[str, Any]:
        from gpusq.stages.parity_gate import box_bars

        return box_bars(agreement, self.box_iou, self.score_difference, self.faint_agreement, own)

    def _check_signature(self, out: Path) -> None:
        import json

        from gpusq.graph.signature import check_signature

        if self.signature:
            frozen = json.loads(Path(self.signature).read_text(encoding="utf-8"))
            check_signature(json.loads((out / "signature.json").read_text(encoding="utf-8")), frozen)


def _run_file(path: Path, images: np.ndarray) -> Outputs:
    from gpusq.engines import cpu_threads, onnxruntime_engine

    return onnxruntime_engine.load_bytes(path.read_bytes(), cpu_threads()).outputs(images)


def _parity(state: ModelState, expected: Outputs, found: Outputs) -> dict[str, Any]:
    from gpusq.graph.output_parity import compare_outputs

    return asdict(compare_outputs(state.loaded.description.model_dump(mode="json"), expected, found))


def _read_parity(data: dict[str, Any]) -> Parity:
    from gpusq.graph.parity import Parity

    return Parity(**data)
