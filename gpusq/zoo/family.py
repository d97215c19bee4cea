"""One family through every stage of the product, in a process of its own: `python -m gpusq.zoo.family`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gpusq.errors import EngineError, GpusqError
from gpusq.zoo.agreement import check_agreement, self_agreement
from gpusq.zoo.families import Family
from gpusq.zoo.images import CLASSES, write_boxes, write_images
from gpusq.zoo.lively import write_lively
from gpusq.zoo.result import FamilyResult

if TYPE_CHECKING:
    from gpusq.artifacts import Artifact
    from gpusq.stages.stage import Context

CALIBRATION, TEST_IMAGES = 16, 24
CAPABILITY = "8.0"
MOST_BATCH = 8
COMPARED = {
    "classification": "images with the same top-1",
    "detection": "boxes paired by class and overlap",
    "tensors": "images whose outputs agree within 10 %",
}


def run_family(family: Family, root: Path, note: Callable[[FamilyResult], None]) -> FamilyResult:
    """Intake or a short training, one-shot 2:4 by SparseGPT, post-training INT8, export, the TensorRT-RTX build.

    root: an empty directory for images and the store. note: told after every step. A refusal ends it and is kept.
    """
    from gpusq.artifacts import Store
    from gpusq.data import open_data
    from gpusq.stages.stage import Context

    result, begun = FamilyResult(family.name, family.model, passes=family.passes), time.monotonic()
    write = write_boxes if family.passes else write_images
    context = Context(Store(root / "store"), open_data(write(root / "images")))
    try:
        dense = _dense(result, family, context)
        note(result)
        sparse = _prune(result, dense, context)
        note(result)
        quantized = _quantize(result, sparse, context)
        note(result)
        exported = _export(result, dense, quantized, context)
        note(result)
        _build(result, exported, root)
    except GpusqError as error:
        result.why = f"{type(error).__name__}: {error}"
    result.seconds = round(time.monotonic() - begun, 1)
    note(result)
    return result


def _dense(result: FamilyResult, family: Family, context: Context) -> Artifact:
    from gpusq.stages import Intake, Train
    from gpusq.stages.stage import run_stage

    model, classes = family.model, len(CLASSES) if family.passes else None
    if family.lively:
        model = write_lively(model, context.store.root.parent / "model", classes)
    train = Train(model=model, epochs=family.passes, batch_size=8, augment=False)
    dense = run_stage(train if family.passes else Intake(model=model), None, context).artifact
    facts = dense.read_json("model.json")
    result.task, result.input_shape = facts.get("task", "classification"), tuple(facts["input_shape"])
    result.parameters = dense.manifest.facts["parameters"]
    result.done.append("intake")
    return dense


def _prune(result: FamilyResult, dense: Artifact, context: Context) -> Artifact:
    from gpusq.stages import Prune
    from gpusq.stages.stage import run_stage

    sparse = run_stage(Prune(epochs=0, calibration_images=CALIBRATION), dense, context).artifact
    result.sparse = sparse.manifest.facts["sparse_share_of_gemm_macs"]
    result.done.append("prune")
    return sparse


def _quantize(result: FamilyResult, sparse: Artifact, context: Context) -> Artifact:
    from gpusq.stages import Qat
    from gpusq.stages.stage import run_stage

    quantized = run_stage(Qat(epochs=0, calibration_images=CALIBRATION), sparse, context).artifact
    result.int8 = quantized.manifest.facts["int8_share_of_gemm_macs"]
    result.done.append("quantize")
    return quantized


def _export(result: FamilyResult, dense: Artifact, quantized: Artifact, context: Context) -> Artifact:
    """Both forms. Export itself holds the dense float32 file to 1e-4; the others are held to `check_agreement`."""
    from gpusq.stages import Export
    from gpusq.stages.stage import run_stage

    result.compared = COMPARED[result.task]
    stage = Export(samples=TEST_IMAGES, parity_images=TEST_IMAGES, fp16_agreement=0.0)
    twin = run_stage(stage, dense, context).artifact
    result.dense = twin.read_json("export.json")["parity_fp32"]
    result.dense_half = twin.read_json("export.json")["parity_fp16"]
    check_agreement(result.dense_half, self_agreement(dense, twin)["float16"], "the dense FP16 file")
    exported = run_stage(replace(stage, agreement=0.0), quantized, context).artifact
    report = exported.read_json("export.json")
    result.quantized, result.half = report["parity_fp32"], report["parity_fp16"]
    result.itself = self_agreement(quantized, exported)
    check_agreement(result.quantized, result.itself["float32"], "the INT8 float32 file")
    check_agreement(result.half, result.itself["float16"], "the INT8 FP16 file")
    result.done.append("export")
    return exported


def _build(result: FamilyResult, exported: Artifact, root: Path) -> None:
    from gpusq.engines.tensorrt_rtx import check_build
    from gpusq.stages.layer_files import read_layers
    from gpusq.stages.rtx_facts import rtx_summary

    path = root / "model.fp16.onnx"
    path.write_bytes(exported.read("model.fp16.onnx"))
    shapes = tuple((batch, *result.input_shape) for batch in (1, 2, MOST_BATCH))
    (check,) = check_build(path, (CAPABILITY,), {"pixel_values": (shapes[0], shapes[1], shapes[2])})
    if not check.ok:
        raise EngineError(f"TensorRT-RTX must parse and build the FP16 file for {CAPABILITY}", got=check.errors[0])
    facts = rtx_summary(check, read_layers(exported))
    result.int8_gemms, result.int8_layers = facts["int8_layers"], facts["quantized_layers"]
    result.fused_attention = facts["fused_attention"]
    result.done.append("build")


def main(arguments: Sequence[str]) -> None:
    """The child process: the family as JSON, a file for the result, gibibytes of address space (0: no limit)."""
    parser = argparse.ArgumentParser(prog="gpusq.zoo.family")
    parser.add_argument("family", type=json.loads)
    parser.add_argument("result", type=Path)
    parser.add_argument("memory", type=float)
    given = parser.parse_args(arguments)
    _limit_memory(given.memory)

    def note(result: FamilyResult) -> None:
        given.result.write_text(json.dumps(result.to_json()), encoding="utf-8")

    family = Family(**given.family)
    note(FamilyResult(family.name, family.model))
    with tempfile.TemporaryDirectory(prefix="gpusq-zoo-") as folder:
        run_family(family, Path(folder), note)


def _limit_memory(gibibytes: float) -> None:
    if gibibytes:
        import resource

        limit = int(gibibytes * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main(sys.argv[1:])
