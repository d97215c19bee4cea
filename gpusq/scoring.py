"""Accuracy of an artifact from running it on the test images; kept beside the artifact and not taken twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from gpusq.errors import CheckError

if TYPE_CHECKING:
    import numpy as np

    from gpusq.artifacts import Artifact
    from gpusq.reports import Accuracy
    from gpusq.stages.stage import Context

BATCH = 250
MODEL_KINDS = ("dense", "sparse", "quantized")

Predictor = Callable[["np.ndarray"], "np.ndarray"]
"""float32 images [B, C, H, W] to logits [B, classes]."""


def accuracy_of(artifact: Artifact, context: Context) -> Accuracy | None:
    """Top-1 on the test split; without labels the share of images on which it agrees with the dense model.

    Bundles carry the figure of the ONNX artifact they hold. Without images: the figure of an earlier run, or None.
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
    import numpy as np

    how, predictor = predictor_of(artifact)
    images = context.images("accuracy")
    chosen, truth, reference = [], [], _reference(artifact, context)
    what = f"accuracy of {artifact.kind}"
    for done, pixels, labels in test_batches(artifact, context):
        context.progress(what, done, len(images.test), how)
        chosen.append(predictor(pixels).argmax(axis=1))
        truth.append(labels if reference is None else reference(pixels).argmax(axis=1))
    found, expected = np.concatenate(chosen), np.concatenate(truth)
    context.progress(what, len(images.test), len(images.test), how)
    return {
        "metric": "top1" if reference is None else "agreement with the dense model",
        "value": float((found == expected).mean()),
        "n": len(found),
        "split": f"{images.test.name} {images.test.split}",
        "how": how,
    }


def test_batches(artifact: Artifact, context: Context) -> Iterator[tuple[int, Any, Any]]:
    """(images done before, pixels [B, C, H, W] float32, labels [B] or None) over the whole test split."""
    from gpusq.stages.images import loader_of

    data = context.images("accuracy")
    loader = loader_of(data.test, artifact.read_json("model.json"))
    for start in range(0, len(data.test), BATCH):
        batch = loader.batch(range(start, min(start + BATCH, len(data.test))))
        if len(batch.ids):
            yield start, batch.pixel_values, batch.labels


def predictor_of(artifact: Artifact) -> tuple[str, Predictor]:
    """(what runs it, images to logits) for any artifact that can run here."""
    if artifact.kind in MODEL_KINDS:
        return "PyTorch", _torch_predictor(artifact)
    if artifact.kind == "onnx":
        from gpusq.engines import cpu_threads, onnxruntime_engine

        runner = onnxruntime_engine.load_bytes(artifact.read("model.fp32.onnx"), cpu_threads())
        return "ONNX Runtime on the float32 ONNX", runner.run
    if artifact.kind == "engine":
        from gpusq.measurement import open_engine

        engine = open_engine(artifact)
        return f"the engine itself, {engine.name}", engine.run
    raise CheckError(f"an artifact of kind {artifact.kind} cannot be run here", do="build it for cpu")


def _torch_predictor(artifact: Artifact) -> Predictor:
    import torch

    from gpusq.stages.model_files import device_of_run, open_model

    device = device_of_run()
    module = open_model(artifact).module.to(device)

    def run(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            logits: np.ndarray = module(torch.from_numpy(pixels).to(device)).float().cpu().numpy()
        return logits

    return run


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
