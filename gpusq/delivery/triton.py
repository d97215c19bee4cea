"""A model repository for NVIDIA Triton Inference Server.

Fields as in triton-inference-server/common protobuf/model_config.proto; the tests parse what is written here with the
message classes that tritonclient ships.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from gpusq.delivery.contents import Contents, Tensor
from gpusq.delivery.folder import write_folder
from gpusq.errors import UsageError

CONFIG, LABELS, VERSION = "config.pbtxt", "labels.txt", "1"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
BACKENDS: Mapping[str, tuple[str, str]] = {
    "tensorrt": ("platform", "tensorrt_plan"),
    "onnxruntime": ("platform", "onnxruntime_onnx"),
    "openvino": ("backend", "openvino"),
}
FILE_NAMES = {
    "engine.plan": "model.plan",
    "model.onnx": "model.onnx",
    "model.fp32.onnx": "model.onnx",
    "engine.xml": "model.xml",
    "engine.bin": "model.bin",
}
"""What Triton's backends look for in the version folder."""


def write_triton(contents: Contents, out: Path, name: str | None = None, queue_delay_us: int = 500) -> str:
    """Write OUT/NAME: config.pbtxt, labels.txt, README.md and the version folder 1. Returns the model's name.

    queue_delay_us: how long the server may wait to fill a batch. Raises UsageError for a name Triton would not take.
    """
    name = name or contents.default_name
    if not NAME.fullmatch(name):
        raise UsageError("a model name has letters, digits, '-', '_' and '.'", got=repr(name), do="choose another")
    files = {f"{VERSION}/{FILE_NAMES[key]}": data for key, data in contents.files.items()}
    files[CONFIG] = triton_config(contents, name, queue_delay_us).encode()
    files[LABELS] = labels_text(contents).encode()
    files["README.md"] = _readme(contents, name).encode()
    write_folder(out / name, files)
    return name


def triton_config(contents: Contents, name: str, queue_delay_us: int) -> str:
    """The text of config.pbtxt."""
    key, value = BACKENDS[contents.runtime]
    kind = "KIND_GPU" if contents.runtime == "tensorrt" else "KIND_CPU"
    batches = sorted({contents.best_batch, contents.max_batch} - {1})
    batching = [f"max_queue_delay_microseconds: {queue_delay_us}"]
    if batches:
        batching.insert(0, f"preferred_batch_size: [ {', '.join(map(str, batches))} ]")
    parts = [
        f"name: {quoted(name)}",
        f"{key}: {quoted(value)}",
        f"max_batch_size: {contents.max_batch}",
        _tensors("input", [contents.image], None),
        _tensors("output", contents.outputs, LABELS if _is_classifier(contents) else None),
        _block("dynamic_batching", batching),
        _block("instance_group [", [_block("", ["count: 1", f"kind: {kind}"], indent=1)], close="]"),
        _parameter("gpusq.digest", contents.digest),
    ]
    if contents.place:
        parts.append(_parameter("gpusq.place", contents.place))
    return "\n".join(parts) + "\n"


def _is_classifier(contents: Contents) -> bool:
    """Labels belong to an output with one value for each class."""
    return contents.outputs[0].dims == (len(contents.classes),)


def _tensors(what: str, tensors: Sequence[Tensor], labels: str | None) -> str:
    blocks = []
    for position, tensor in enumerate(tensors):
        lines = [
            f"name: {quoted(tensor.name)}",
            "data_type: TYPE_FP32",
            f"dims: [ {', '.join(map(str, tensor.dims))} ]",
        ]
        if labels and position == 0:
            lines.append(f"label_filename: {quoted(labels)}")
        blocks.append(_block("", lines, indent=1))
    return f"{what} [\n" + ",\n".join(blocks) + "\n]"


def _block(head: str, lines: Sequence[str], indent: int = 0, close: str = "}") -> str:
    pad = "  " * indent
    opened = f"{head} {{" if head and not head.endswith("[") else (head or "{")
    body = "\n".join(line if line.startswith(" ") else f"{pad}  {line}" for line in lines)
    return f"{pad}{opened}\n{body}\n{pad}{close}"


def _parameter(key: str, value: str) -> str:
    return f"parameters {{ key: {quoted(key)} value {{ string_value: {quoted(value)} }} }}"


def quoted(text: str) -> str:
    """A protobuf text string: UTF-8 bytes outside printable ASCII as octal escapes."""
    shown = "".join(chr(b) if 32 <= b < 127 and b not in b'"\\' else f"\\{b:03o}" for b in text.encode())
    return f'"{shown}"'


def labels_text(contents: Contents) -> str:
    """One class a line, in the order of the logits."""
    return "".join(" ".join(name.split()) + "\n" for name in contents.classes)


def _readme(contents: Contents, name: str) -> str:
    channels, height, width = contents.image.dims
    lines = [
        f"# {name}: a model for Triton Inference Server",
        "",
        f"Made by gpusq from the artifact {contents.digest}; its bytes were checked before they were copied.",
        "",
        "    tritonserver --model-repository THE_FOLDER_ABOVE_THIS_ONE",
        "",
        f"Input `{contents.image.name}`: float32 [batch, {channels}, {height}, {width}]. Resize the whole image to "
        f"{width} x {height} ({contents.resize}, no crop), divide by 255, subtract the mean {list(contents.mean)} and "
        f"divide by the standard deviation {list(contents.std)}, one for each channel. The server does none of this.",
        "Outputs: "
        + ", ".join(f"`{t.name}` float32 [batch, {', '.join(map(str, t.dims))}]" for t in contents.outputs)
        + ". Logits are not probabilities: apply the softmax (or the sigmoid of a detector) yourself.",
    ]
    if contents.place:
        lines += [
            "",
            f"The plan runs only where it was built: {contents.place}. Take the Triton release with exactly",
            "this TensorRT; any other refuses the plan.",
        ]
    if contents.is_bundle:
        lines += [
            "",
            "This is the bundle's ONNX file, run by ONNX Runtime on a CPU. It is not the TensorRT engine: finish",
            "the bundle on the device (`gpusq build BUNDLE`) and package that engine.",
        ]
    return "\n".join(lines) + "\n"
