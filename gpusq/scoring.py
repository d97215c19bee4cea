"""Accuracy of an artifact from running it on the test images; kept beside the artifact and not taken twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gpusq.errors import CheckError

if TYPE_CHECKING:
    import numpy as np

    from gpusq.artifacts import Artifact
    from gpusq.reports import Accuracy
    from gpusq.stages.judging import Outputs
    from gpusq.stages.stage import Context

BATCH = 250
BATCH_VALUES = 1 << 23
"""No batch holds more input values than this (or one image)."""
MODEL_KINDS = ("dense", "sparse", "quantized")

Predictor = Callable[["np.ndarray"], "Outputs"]
"""float32 images [B, C, H, W] to outputs by name (logits [B, classes] of a classifier)."""


def accuracy_of(artifact: Artifact, context: Context) -> Accuracy | None:
    """Top-1 on the test split; without labels the share of images on which it agrees with the dense model.

    Bundles carry the figure of the ONNX artifact they hold. Without images: the figure of an earlier run, or None.
    Raises ClassMismatchError where the labels are not of the model's classes.
    """
    from gpusq.reports import Accuracy

    scored = _parent(artifact, context) if artifact.kind == "bundle" else artifact
    if context.data is None or not len(context.data.test):
        return _kept(scored, context)
    name = f"accuracy-{_hash(context.data.test.fingerprint())}"
    kept = context.store.reports(scored.digest).get(name)
    if not kept:
        kept = [_score(scored, context)]
        with context.store.lock(wait_s=context.wait_s, on_wait=context.on_wait):
            context.store.add_report(scored.digest, name, kept)
    return Accuracy.model_validate(kept[0])


def _kept(artifact: Artifact, context: Context) -> Accuracy | None:
    """The accuracy of an earlier run with images, None where there was none or several."""
    from gpusq.reports import Accuracy

    found = [rows for name, rows in context.store.reports(artifact.digest).items() if name.startswith("accuracy-")]
    return Accuracy.model_validate(found[0][0]) if len(found) == 1 and found[0] else None


def _score(artifact: Artifact, context: Context) -> dict[str, Any]:
    from gpusq.stages.images import batches_in, check_labels, loader_of, skipped_count, skipped_note
    from gpusq.stages.judging import tally_of

    test, description = context.images("accuracy").test, artifact.read_json("model.json")
    check_labels(test, description)
    how, predictor = predictor_of(artifact)
    reference = _reference(artifact, context)
    loader, tally = loader_of(test, description), tally_of(description, test.supervised)
    what = f"accuracy of {artifact.kind}"
    for done, batch in batches_in(loader, range(len(test)), _batch_size(description)):
        context.progress(what, done, len(test), how)
        tally.add(predictor(batch.pixel_values), batch, reference(batch.pixel_values) if reference else None)
    skipped = loader.unreadable
    context.progress(what, len(test), len(test), skipped_note(skipped) if skipped else how)
    return {
        "metric": tally.metric,
        "value": tally.value(),
        "n": tally.n,
        "split": f"{test.name} {test.split}" + (f", {skipped_count(len(skipped))}" if skipped else ""),
        "how": how,
        **({"also": tally.extra()} if tally.extra() else {}),
    }


def _batch_size(description: dict[str, Any]) -> int:
    channels, height, width = description["input_shape"]
    return max(1, min(BATCH, BATCH_VALUES // int(channels * height * width)))


def predictor_of(artifact: Artifact) -> tuple[str, Predictor]:
    """(what runs it, images to outputs) for any artifact that can run here."""
    if artifact.kind in MODEL_KINDS:
        return "PyTorch", _torch_predictor(artifact)
    if artifact.kind == "onnx":
        from gpusq.engines import cpu_threads, onnxruntime_engine

        runner = onnxruntime_engine.load_bytes(artifact.read("model.fp32.onnx"), cpu_threads())
        return "ONNX Runtime on the float32 ONNX", runner.outputs
    if artifact.kind == "engine":
        from gpusq.measurement import open_engine

        engine = open_engine(artifact)
        return f"the engine itself, {engine.name}", engine.outputs
    raise CheckError(f"an artifact of kind {artifact.kind} cannot be run here", do="build it for cpu")


def _torch_predictor(artifact: Artifact) -> Predictor:
    from gpusq.stages.judging import run_module
    from gpusq.stages.model_files import device_of_run, open_model

    state = open_model(artifact)
    module, names = state.module.to(device_of_run()), state.loaded.description.outputs
    return lambda pixels: run_module(module, names, pixels)


def _reference(artifact: Artifact, context: Context) -> Predictor | None:
    """The dense ancestor's predictor where the images have no labels."""
    if context.images("accuracy").test.supervised:
        return None
    dense = [a for a in (*context.store.ancestors(artifact), artifact) if a.kind == "dense"]
    if not dense:
        raise CheckError("images without labels need the dense model to agree with", do="keep it in the store")
    return predictor_of(dense[0])[1]


def _parent(artifact: Artifact, context: Context) -> Artifact:
    return context.store.resolve(artifact.manifest.parents[0].digest)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
