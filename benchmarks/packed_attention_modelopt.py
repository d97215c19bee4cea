"""Packed attention (the original DETR's layout): which tool makes its query, key and value weights 2:4 and INT8?

    OMP_NUM_THREADS=2 python benchmarks/packed_attention_modelopt.py

The same module, with the same weights, goes through gpusq and through nvidia-modelopt: magnitude 2:4, post-training
INT8 calibrated on the same random images, ONNX. Then every Q, K and V weight of every attention is looked up in the two
ONNX files by its place (gpusq) or by its values (modelopt), and its groups of four are counted along the reduction.
Writes benchmarks/results/packed_attention_modelopt.json and .md.
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import io
import json
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gpusq.graph import export_onnx, model_bytes, read_model, stored_weights, violations_nm
from gpusq.latency import host_conditions

HERE = Path(__file__).parent
MODEL, RESULTS = HERE / "packed_attention" / "model.py", HERE / "results"
PARTS = ("q", "k", "v")
IMAGES = 4
ALSO = tuple(f"*decoder.0.{name}_proj" for name in ("self_attn.q", "self_attn.k", "self_attn.v", "multihead_attn.q"))
"""Of the first decoder layer, whose input is zero: the same for every image, so gpusq leaves them alone by default."""

NOTE = (
    "The first decoder layer starts from zeros, so its self-attention and the queries of its cross-attention are the "
    "same for every image. gpusq leaves such layers dense and in floating point by default; here they are pruned on "
    "request (also_prune) and stay in floating point."
)


def images(shape: tuple[int, ...]) -> list[Tensor]:
    """Calibration batches [2, C, H, W], the same for both tools."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, *shape, generator=generator) for _ in range(IMAGES)]


def packed_model() -> tuple[nn.Module, tuple[int, ...]]:
    """The original module and its input shape (C, H, W)."""
    names: dict[str, Any] = {}
    exec(compile(MODEL.read_text(encoding="utf-8"), str(MODEL), "exec"), names)  # noqa: S102  (the file beside this one)
    torch.manual_seed(0)
    module, facts = names["build"]()
    return module.eval(), facts["input_shape"]


def by_gpusq(module: nn.Module, shape: tuple[int, ...]) -> dict[str, dict[str, Any]]:
    """Q, K and V of each attention in gpusq's file: violating groups of four, and whether the weight is INT8."""
    from gpusq.models import attention_modules, gemm_layers, load_model
    from gpusq.quantization import calibrate, insert, place, seal_scales
    from gpusq.stages.pruning import choose_layers, prune_layer

    loaded = load_model(f"{MODEL}:build")
    unpacked = loaded.module
    _same_weights(module, unpacked)
    layers = choose_layers(gemm_layers(unpacked, loaded.keep_dense), unpacked, (), ALSO)
    for layer in layers:
        if layer.sparse:
            prune_layer(unpacked.get_submodule(layer.name), "magnitude", None, layer.groups)
    insert(unpacked, place("inputs", layers, attention_modules(unpacked), skip=loaded.keep_dense))
    calibrate(unpacked, images(shape), "max")
    seal_scales(unpacked)
    form = export_onnx(unpacked, (shape[0], shape[1], shape[2]), output_names=loaded.description.outputs)
    stored = {weight.layer: weight for weight in stored_weights(read_model(model_bytes(form)))}
    found = {}
    for name in _attentions(module):
        for part in PARTS:
            weight = next(w for layer, w in stored.items() if layer.endswith(f"{name}.{part}_proj"))
            found[f"{name}.{part}"] = _entry(weight.matrix, weight.int8)
    return found


def _same_weights(module: nn.Module, unpacked: nn.Module) -> None:
    """Copy the packed weights into their unpacked places, so that both tools start from one model."""
    own = dict(unpacked.named_parameters())
    for name, parameter in module.named_parameters():
        prefix, _, kind = name.rpartition("in_proj_")
        pieces = zip(PARTS, parameter.detach().chunk(3), strict=True) if prefix else ()
        targets = {f"{prefix}{part}_proj.{kind}": piece for part, piece in pieces} or {name: parameter.detach()}
        for target, value in targets.items():
            key = next((k for k in own if k == target or k.endswith(f".{target}")), None)
            if key is None:
                raise RuntimeError(f"{target} has no place in the unpacked model")
            own[key].data.copy_(value.reshape(own[key].shape))


def by_modelopt(module: nn.Module, shape: tuple[int, ...]) -> dict[str, dict[str, Any]]:
    """The same for nvidia-modelopt: its magnitude 2:4, its default INT8, the TorchScript export that it supports."""
    import modelopt.torch.quantization as mtq
    import modelopt.torch.sparsity as mts
    import onnx

    batches = images(shape)
    sparse = mts.sparsify(copy.deepcopy(module), "sparse_magnitude", config={"data_loader": batches})
    found = mtq.quantize(sparse, mtq.INT8_DEFAULT_CFG, lambda m: [m(batch) for batch in batches])
    buffer = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "m.onnx"
        torch.onnx.export(found.eval(), (batches[0],), str(path), dynamo=False, opset_version=17)
        onnx.save(onnx.load(str(path)), buffer)
    proto = onnx.load_from_string(buffer.getvalue())
    constants = _constants(proto)
    int8 = _quantized_names(proto)
    state = found.state_dict()
    result = {}
    for name in _attentions(module):
        packed = state[f"{name}.in_proj_weight"].numpy()
        for part, piece in zip(PARTS, np.split(packed, 3), strict=True):
            holders = [key for key, array in constants.items() if _holds(array, piece)]
            result[f"{name}.{part}"] = _entry(piece, any(key in int8 for key in holders)) | {"in_file": bool(holders)}
    return result


def _constants(proto: Any) -> dict[str, np.ndarray]:
    from onnx import numpy_helper

    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return {name: array for name, array in found.items() if array.ndim == 2}


def _quantized_names(proto: Any) -> set[str]:
    return {node.input[0] for node in proto.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}


def _holds(array: np.ndarray, piece: np.ndarray) -> bool:
    """Whether a constant is a weight, its transpose, or holds it as a third of its rows or columns."""
    rows, columns = piece.shape
    for candidate in (array, array.T):
        fits = candidate.shape[1] == columns and candidate.shape[0] in (rows, 3 * rows)
        if fits and any(np.array_equal(part, piece) for part in np.split(candidate, candidate.shape[0] // rows)):
            return True
    return False


def _entry(matrix: np.ndarray, int8: bool) -> dict[str, Any]:
    groups = matrix.size // 4
    return {"violating_groups": violations_nm(matrix), "groups": groups, "int8": bool(int8)}


def _attentions(module: nn.Module) -> list[str]:
    return [name for name, part in module.named_modules() if isinstance(part, nn.MultiheadAttention)]


def markdown(content: dict[str, Any]) -> str:
    """One line per attention and tool."""
    lines = [
        "# Packed attention: Q, K and V in the ONNX file",
        "",
        f"`{content['command']}`",
        "",
        content["how"],
        "",
        "| attention | tool | 2:4 of q, k, v | INT8 of q, k, v |",
        "|---|---|---|---|",
    ]
    for name in content["attentions"]:
        for tool in ("gpusq", "nvidia-modelopt"):
            rows = [content[tool][f"{name}.{part}"] for part in PARTS]
            sparse = ", ".join("yes" if not r["violating_groups"] else "no" for r in rows)
            int8 = ", ".join("yes" if r["int8"] else "no" for r in rows)
            lines.append(f"| {name} | {tool} | {sparse} | {int8} |")
    return "\n".join([*lines, "", NOTE, ""])


def main() -> None:
    """Run both tools on one model, compare, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    module, shape = packed_model()
    begun = time.monotonic()
    ours = by_gpusq(module, shape)
    seconds = {"gpusq": round(time.monotonic() - begun, 1)}
    begun = time.monotonic()
    theirs = by_modelopt(module, shape)
    seconds["nvidia-modelopt"] = round(time.monotonic() - begun, 1)
    versions = {name: importlib.metadata.version(name) for name in ("nvidia-modelopt", "torch", "onnx")}
    content = {
        "command": "python benchmarks/packed_attention_modelopt.py",
        "how": "One module with packed nn.MultiheadAttention and one set of fresh weights, through gpusq and through "
        f"nvidia-modelopt {versions['nvidia-modelopt']} (sparse_magnitude, then INT8_DEFAULT_CFG, TorchScript export): "
        "every group of four weights of Q, K and V, counted along the reduction in the ONNX files.",
        "versions": versions,
        "host": host_conditions(),
        "seconds": seconds,
        "attentions": _attentions(module),
        "gpusq": ours,
        "nvidia-modelopt": theirs,
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "packed_attention_modelopt.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    text = markdown(content)
    (given.out / "packed_attention_modelopt.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
