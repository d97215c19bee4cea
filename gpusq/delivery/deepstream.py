"""A Gst-nvinfer configuration for NVIDIA DeepStream, every key checked against the plugin's documented ones.

Gst-nvinfer computes y = net-scale-factor * (x - offsets[c]) with x in 0..255 and one factor for all channels, so a
model whose standard deviations differ by channel cannot be fed by it exactly; that is refused, not approximated.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from gpusq.delivery.contents import Contents
from gpusq.delivery.folder import write_folder
from gpusq.delivery.triton import labels_text
from gpusq.errors import CheckError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONFIG, LABELS = "config_infer.txt", "labels.txt"
OTHER_NETWORK = 100
SCALING_FILTER = {"nearest": 0, "bilinear": 1, "bicubic": 2, "lanczos": 4}
SAME_STD = 1e-6
FILE_NAMES = {"engine.plan": "model.engine", "model.fp32.onnx": "model.onnx"}


def write_deepstream(contents: Contents, out: Path, from_meta: bool = False) -> None:
    """Write OUT: config_infer.txt, labels.txt, README.md and the engine (of a bundle: its ONNX file).

    from_meta: the pipeline hands over ready tensors (Gst-nvdspreprocess or your own element); Gst-nvinfer then
    prepares nothing. Raises UsageError for CPU engines, and for preprocessing that Gst-nvinfer cannot do.
    """
    if not contents.files.keys() <= FILE_NAMES.keys():
        raise UsageError(
            "DeepStream runs TensorRT engines", got=f"an engine for {contents.runtime}", do="name a device engine"
        )
    properties = deepstream_properties(contents, from_meta)
    check_properties(properties, contents.image.dims[0])
    files = {FILE_NAMES[name]: data for name, data in contents.files.items()}
    files[CONFIG] = config_text(properties).encode()
    files[LABELS] = labels_text(contents).encode()
    files["README.md"] = _readme(contents, from_meta).encode()
    write_folder(out, files)


def deepstream_properties(contents: Contents, from_meta: bool) -> dict[str, Any]:
    """The keys of [property] with their values."""
    channels = contents.image.dims[0]
    own: dict[str, Any] = {
        "gpu-id": 0,
        "gie-unique-id": 1,
        "process-mode": 1,
        "network-type": OTHER_NETWORK,
        "output-tensor-meta": 1,
        "batch-size": contents.max_batch,
        "interval": 0,
        "labelfile-path": LABELS,
        "infer-dims": contents.image.dims,
        "network-input-order": 0,
        "model-color-format": 0 if channels == 3 else 2,
    }
    own |= (
        {"onnx-file": "model.onnx", "network-mode": 0} if contents.is_bundle else {"model-engine-file": "model.engine"}
    )
    if from_meta:
        return own | {"input-tensor-from-meta": 1}
    factor, offsets = scale_and_offsets(contents)
    return own | {
        "net-scale-factor": factor,
        "offsets": offsets,
        "maintain-aspect-ratio": 0,
        "scaling-filter": SCALING_FILTER[contents.resize],
    }


def scale_and_offsets(contents: Contents) -> tuple[float, tuple[float, ...]]:
    """(factor, offsets) with factor * (x - offset) = (x / 255 - mean) / std for x in 0..255.

    Raises UsageError where the standard deviations differ by channel.
    """
    low, high = min(contents.std), max(contents.std)
    if high - low > SAME_STD * high:
        raise UsageError(
            "Gst-nvinfer has one scale for all channels, so the standard deviations must be equal",
            got=", ".join(f"{s:g}" for s in contents.std),
            do="add --input-from-meta and let Gst-nvdspreprocess (with your own library) or another element hand over "
            "normalised tensors, or compress a model that was trained with one standard deviation",
        )
    return 1.0 / (255.0 * contents.std[0]), tuple(255.0 * mean for mean in contents.mean)


def config_text(properties: Mapping[str, Any]) -> str:
    """The file, in GLib's key-file form."""
    return "\n".join(["[property]", *(f"{key}={_shown(value)}" for key, value in properties.items())]) + "\n"


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ";".join(map(_shown, value))
    return f"{value:.17g}" if isinstance(value, float) else str(value)


@cache
def documented_keys() -> dict[str, dict[str, Any]]:
    """The documented keys, their types and values."""
    return tomllib.loads(resources.files("gpusq.delivery").joinpath("gst_nvinfer.toml").read_text(encoding="utf-8"))


def check_properties(properties: Mapping[str, Any], channels: int) -> None:
    """Raise CheckError for a key or value that the documentation does not allow."""
    known = documented_keys()
    for key, value in properties.items():
        if key not in known:
            raise CheckError("Gst-nvinfer has no such key", got=key, do="report it")
        problem = _problem(known[key], value)
        if problem:
            raise CheckError(f"Gst-nvinfer's {key} must be {problem}", got=repr(value), do="report it")
    if "offsets" in properties and len(properties["offsets"]) != channels:
        raise CheckError("offsets hold one number for each channel", got=str(properties["offsets"]), do="report it")


def _problem(rule: Mapping[str, Any], value: Any) -> str:
    kind = {"integer": int, "float": float, "string": str, "integers": tuple, "floats": tuple}[rule["type"]]
    if not isinstance(value, kind) or isinstance(value, bool):
        return f"of type {rule['type']}"
    numbers = value if isinstance(value, tuple) else (value,)
    if "count" in rule and len(numbers) != rule["count"]:
        return f"{rule['count']} numbers"
    if "values" in rule and any(n not in rule["values"] for n in numbers):
        return f"one of {rule['values']}"
    if "minimum" in rule and any(n < rule["minimum"] for n in numbers):
        return f"at least {rule['minimum']}"
    return f"above {rule['above']}" if "above" in rule and any(n <= rule["above"] for n in numbers) else ""


def _readme(contents: Contents, from_meta: bool) -> str:
    lines = [
        "# A Gst-nvinfer configuration for DeepStream",
        "",
        f"Made by gpusq from the artifact {contents.digest}; its bytes were checked before they were copied.",
        "Use it as `nvinfer config-file-path=config_infer.txt`; the paths inside are relative to it.",
        "",
        "`network-type=100` with `output-tensor-meta=1`: the raw outputs ("
        + ", ".join(f"`{t.name}` {list(t.dims)}" for t in contents.outputs)
        + ") are attached to each frame as tensor metadata. The built-in classifier expects probabilities and its",
        "detectors expect boxes of other forms; this model gives logits, so the application takes softmax and labels.",
    ]
    if from_meta:
        lines += [
            "",
            "`input-tensor-from-meta=1`: Gst-nvinfer prepares nothing. Hand over float32 tensors, RGB in 0..1, "
            f"minus the mean {list(contents.mean)}, over the standard deviation {list(contents.std)}.",
        ]
    else:
        lines += [
            "",
            "Frames are scaled by NVIDIA's filters, which do not average while they shrink as the training did:",
            "check the accuracy on the device with your own frames.",
        ]
    if contents.place:
        lines += [
            "",
            f"The engine runs only where it was built: {contents.place}. Where it does not load, DeepStream tries",
            "to build one from a model file; none is named here, so it stops instead.",
        ]
    if contents.is_bundle:
        lines += [
            "",
            "This names the bundle's ONNX file: DeepStream builds an engine of it by itself, without 2:4 kernels and",
            "without any of gpusq's checks. Finish the bundle (`gpusq build BUNDLE`) and package that engine instead.",
        ]
    return "\n".join(lines) + "\n"
