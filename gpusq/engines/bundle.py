"""A bundle: everything a device needs to finish an engine; `sealed_bundle` reads it back, checked. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpusq.engines.rtx_layers import RtxCheck
from gpusq.errors import UsageError

SCHEMA_VERSION = 1
BOX_LIMITS = "gate.json"
"""File of a detector's bundle, the bars of its boxes: {"mean_iou": least, "score": most or null, "faint": least}."""
MANIFEST, FINISH = "bundle.json", "FINISH.md"
FP16, FP32, SAMPLES = "model.fp16.onnx", "model.fp32.onnx", "samples.safetensors"

INPUT, LOGITS = "pixel_values", "logits"
DEFAULT_TASK, DEFAULT_AGREEMENT = "classification", 0.95

FINISH_TEXT = """# Finish this engine on the device

This directory was checked on the host that wrote it; the engine itself must be built on the device: {title}.

1. Copy this whole directory, artifact.json included, and that of its dense twin (the same model uncompressed; `gpusq
   compress` lists both, for the same target) to the device.
2. On the device, Python 3.10 to 3.13, no torch. gpusq is on no package index: install it from a clone of its
   repository, or from the wheel that you built of it (python -m build --wheel), and from nowhere else.

       sudo scripts/install_device.sh                          # Jetson: TensorRT comes with JetPack
       sudo scripts/install_device.sh --tensorrt 10.16.1.11    # data-centre GPU: TensorRT from the package index

   With a wheel: --source gpusq-VERSION-py3-none-any.whl. Without root: --prefix ~/.local/gpusq --bin ~/.local/bin
   --no-apt. On a Jetson JetPack itself comes first: sudo apt install nvidia-jetpack.

       gpusq build THIS_DIR --twin TWIN_DIR --out ENGINE_DIR --receipt receipt.json

3. Back on the host, into the store that wrote this bundle:

       gpusq import receipt.json --store STORE

Every file is compared with its SHA-256 before TensorRT or a parser sees it; a changed bundle is refused.
The result is ENGINE_DIR (and ENGINE_DIR-twin): engine.plan with its facts, its receipt and a seal; the bundles stay as
they are. An engine runs on this kind of GPU with this TensorRT version only.
"""


@dataclass(frozen=True)
class BatchProfile:
    """Batch sizes of the optimization profile, 1 <= minimum <= optimum <= maximum."""

    minimum: int
    optimum: int
    maximum: int

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.optimum <= self.maximum:
            raise UsageError(
                "batch sizes must be 1 <= minimum <= optimum <= maximum",
                got=f"{self.minimum}, {self.optimum}, {self.maximum}",
            )

    def shapes(self, image: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """(min, opt, max) shapes for images of shape (C, H, W)."""
        low, best, high = ((size, *image) for size in (self.minimum, self.optimum, self.maximum))
        return low, best, high


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. `files` holds the verified bytes, so nothing is read from disk a second time.

    target: facts of the device as the target file states them. tolerance: largest relative error of an output against
    the samples. agreement: least share of samples with the same top-1. task: what decides whether outputs agree.
    input_name, input_shape: (C, H, W).
    """

    path: Path
    target: Mapping[str, Any]
    profile: BatchProfile
    tolerance: float
    input_name: str
    input_shape: tuple[int, ...]
    files: Mapping[str, bytes]
    task: str = DEFAULT_TASK
    agreement: float = DEFAULT_AGREEMENT

    def samples(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Inputs [n, C, H, W] and expected logits [n, classes]."""
        images, outputs = self.expected()
        return images, outputs[LOGITS]

    def expected(self) -> tuple[NDArray[np.float32], dict[str, NDArray[np.float32]]]:
        """Inputs [n, C, H, W] and every expected output by name, [n, ...] each."""
        from safetensors.numpy import load

        tensors = load(self.files[SAMPLES])
        images = tensors.pop(INPUT)
        return images, tensors


def write_bundle(
    directory: Path,
    *,
    target: Mapping[str, Any],
    fp16_onnx: bytes,
    fp32_onnx: bytes,
    pixel_values: NDArray[np.float32],
    logits: NDArray[np.float32] | None,
    profile: BatchProfile,
    rtx_checks: Sequence[RtxCheck],
    tolerance: float,
    input_name: str = INPUT,
    extra: Mapping[str, bytes] | None = None,
    task: str = DEFAULT_TASK,
    agreement: float = DEFAULT_AGREEMENT,
    more_outputs: Mapping[str, NDArray[np.float32]] | None = None,
) -> None:
    """Write a bundle into `directory` (created, or empty); the same arguments give the same bytes.

    target: facts of the device, JSON-able, with "name" and "title". pixel_values [n, C, H, W] and logits [n, classes]
    of the torch model (None for a model without them), n >= 1. rtx_checks: dumped without their times. tolerance:
    relative, of the largest logit.
    extra: further files, such as model.json. more_outputs: expected outputs beside the logits, [n, ...] each.
    Raises UsageError for samples that do not belong together.
    """
    from safetensors.numpy import save

    outputs = ({} if logits is None else {LOGITS: logits}) | dict(more_outputs or {})
    sizes = {len(values) for values in outputs.values()}
    if pixel_values.ndim != 4 or not len(pixel_values) or sizes != {len(pixel_values)}:
        raise UsageError(
            "samples must be images [n, C, H, W] and outputs [n, ...] with n >= 1",
            got=f"{pixel_values.shape} and {', '.join(str(o.shape) for o in outputs.values())}",
        )
    files = dict(extra or {})
    files |= {FP16: fp16_onnx, FP32: fp32_onnx}
    files[SAMPLES] = save({name: np.ascontiguousarray(a) for name, a in {INPUT: pixel_values, **outputs}.items()})
    files |= {rtx_file(check.capability): json_bytes(check.without_times().to_json()) for check in rtx_checks}
    files[FINISH] = FINISH_TEXT.format(title=target.get("title", target.get("name", "the target"))).encode()
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "target": dict(target),
        "profile": {"minimum": profile.minimum, "optimum": profile.optimum, "maximum": profile.maximum},
        "tolerance": float(tolerance),
        "agreement": float(agreement),
        "task": task,
        "input_name": input_name,
        "input_shape": list(pixel_values.shape[1:]),
        "files": {name: {"sha256": sha256_of(data), "size": len(data)} for name, data in sorted(files.items())},
    }
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (directory / name).write_bytes(data)
    (directory / MANIFEST).write_bytes(json_bytes(manifest | {"digest": sha256_of(json_bytes(manifest))}))


def rtx_file(capability: str) -> str:
    """ "8.0" -> "rtx-sm80.json"."""
    return f"rtx-sm{capability.replace('.', '')}.json"


def sha256_of(data: bytes) -> str:
    """64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def json_bytes(value: Any) -> bytes:
    """The one spelling of a manifest."""
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n").encode()
