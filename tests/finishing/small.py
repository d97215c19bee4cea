"""A store with a small compressed bundle and its dense twin, made without torch, and a machine to finish them on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from gpusq.artifacts import Artifact, Store, artifact_key
from gpusq.engines.bundle import BatchProfile, write_bundle
from gpusq.engines.cuda import CudaRuntime
from gpusq.latency.clocks import Clocks, NoClocks
from gpusq.machine import Gpu, Machine
from gpusq.targets import load_target
from gpusq.workload import Layer, Op, Workload
from tests.engines.conftest import CLASSES, SHAPE, qdq_model
from tests.engines.fake_device import FakeGpu, FakePlan, classifier, runtime_module, with_device

OPS = (Op("fc1", "gemm", 1, 8, 48, read=48, write=8), Op("fc2", "gemm", 1, CLASSES, 8, read=8, write=CLASSES))
WORKLOAD = Workload(SHAPE, OPS, 48 * 8 + 8 + 8 * CLASSES)
DENSE = (Layer("fc1", "linear", 8, 48), Layer("fc2", "linear", CLASSES, 8))
COMPRESSED = (DENSE[0].pruned().quantized(), DENSE[1])


def float_model(*, half: bool) -> bytes:
    """The dense twin: the same two Linears in floating point."""
    rng = np.random.default_rng(1)
    real = np.float16 if half else np.float32
    tensors = {
        "rows": np.int64([0, -1]),
        "fc1.weight": (rng.standard_normal((48, 8)) / 8).astype(real),
        "fc2.weight": rng.standard_normal((8, CLASSES)).astype(real),
    }
    cast = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    nodes = [
        helper.make_node("Cast", ["pixel_values"], ["own"], name="own", to=cast),
        helper.make_node("Reshape", ["own", "rows"], ["flat"], name="flat"),
        helper.make_node("MatMul", ["flat", "fc1.weight"], ["fc1"], name="fc1/MatMul"),
        helper.make_node("Gelu", ["fc1"], ["act"], name="fc1/Gelu"),
        helper.make_node("MatMul", ["act", "fc2.weight"], ["last"], name="fc2/MatMul"),
        helper.make_node("Cast", ["last"], ["logits"], name="logits", to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "twin",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", *SHAPE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(model.SerializeToString(deterministic=True))


def run_onnx(model: bytes) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """What the graph computes, by ONNX Runtime."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return lambda inputs: {
        "logits": session.run(["logits"], {k: np.ascontiguousarray(v) for k, v in inputs.items()})[0]
    }


@dataclass(frozen=True)
class Pair:
    """Both bundles of one target in a store, and what their graphs compute."""

    store: Store
    model: Artifact
    twin: Artifact
    graphs: tuple[bytes, bytes]

    def plans(self, *takes_ms: Callable[[int], float], **changes: Any) -> list[FakePlan]:
        """Stand-ins for the two plans on the device, which compute what the float32 graphs do."""
        times = takes_ms or (lambda batch: 0.5 * batch, lambda batch: 1.0 * batch)
        return [
            classifier(CLASSES, SHAPE, compute=run_onnx(graph), takes_ms=took, **changes)
            for graph, took in zip(self.graphs, times, strict=True)
        ]


def make_pair(root: Path, target: str = "a100", **changes: Any) -> Pair:
    """Write and publish both bundles."""
    store = Store(root)
    forms = (
        (COMPRESSED, qdq_model(), qdq_model(half=True)),
        (DENSE, float_model(half=False), float_model(half=True)),
    )
    artifacts = [publish(store, target, number, *form, **changes) for number, form in enumerate(forms)]
    return Pair(store, artifacts[0], artifacts[1], (forms[0][1], forms[1][1]))


def publish(
    store: Store, target: str, number: int, layers: tuple[Layer, ...], fp32: bytes, fp16: bytes, **changes: Any
) -> Artifact:
    """One bundle as an artifact of the store."""
    images = np.random.default_rng(7).standard_normal((6, *SHAPE)).astype(np.float32)
    facts = load_target(target)
    given: dict[str, Any] = {
        "target": facts.model_dump(mode="json"),
        "fp16_onnx": fp16,
        "fp32_onnx": fp32,
        "pixel_values": images,
        "logits": run_onnx(fp32)({"pixel_values": images})["logits"],
        "profile": BatchProfile(1, 8, 32),
        "rtx_checks": (),
        "tolerance": 0.05,
        "extra": {
            "model.json": b'{"classes": []}',
            "layers.json": json.dumps([asdict(layer) for layer in layers]).encode(),
            "workload.json": json.dumps(WORKLOAD.to_json()).encode(),
        },
    }
    described: dict[str, Any] = {
        "stage": "build",
        "stage_version": 3,
        "params": {"number": number},
        "parents": (),
        "inputs": {},
        "target": facts.name,
        "toolchain": {},
    }
    key = artifact_key(**described)
    with store.lock(), store.staging(key) as staging:
        write_bundle(staging, **given | changes)
        return store.publish(staging, kind="bundle", facts={}, key=key, **described)


def machine_without_gpu(trt: Any) -> Callable[[str], Machine]:
    """A host: the real library and no device."""
    return lambda builder: Machine(builder, trt, None, "no GPU (cudaErrorInsufficientDriver)")


def machine_with(
    trt: Any, gpu: FakeGpu, plans: list[FakePlan], clocks: Clocks | None = None
) -> Callable[[str], Machine]:
    """The real builder, and a stand-in device that runs `plans` in the order in which they are loaded."""
    left = list(plans)
    module = with_device(trt, gpu, lambda plan: left.pop(0) if left else None)
    cuda = CudaRuntime(runtime_module(gpu))
    return lambda builder: Machine(builder, module, Gpu(cuda.device(), cuda, clocks or NoClocks()))
