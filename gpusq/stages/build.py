"""Build: an ONNX artifact becomes an engine for this CPU, or a bundle that an NVIDIA device finishes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from gpusq.errors import CheckError, EngineError, UsageError
from gpusq.stages.stage import Context, Stage, parameter

if TYPE_CHECKING:
    from gpusq.artifacts import Artifact
    from gpusq.engines.rtx_layers import RtxCheck
    from gpusq.targets import Target

SAMPLES = "samples.safetensors"
CHOICE_S = 1.0
"""Seconds of timing for each CPU runtime when `auto` chooses."""
GRAPHS = ("model.fp32.onnx", "model.fp16.onnx")


KEYS = {
    "top1": "build.agreement",
    "mean_iou": "build.box_iou",
    "score": "build.score_difference",
    "faint": "build.faint_agreement",
}
"""Bar of `check_parity` -> the parameter that sets it."""


@dataclass(frozen=True)
class Build(Stage):
    """Make what runs on the target. GPU targets also get a real TensorRT-RTX parse and build as a check."""

    name: ClassVar[str] = "build"
    version: ClassVar[int] = 4
    takes: ClassVar[tuple[str, ...]] = ("onnx",)
    libraries: ClassVar[tuple[str, ...]] = ("openvino", "onnxruntime", "tensorrt-rtx-cu13", "numpy")

    target: str = parameter(
        "cpu", "cpu, a100, a100-80gb, agx-orin, agx-orin-32gb, agx-orin@30W, ... (`gpusq targets`)", key=False
    )
    runtime: Literal["auto", "openvino", "onnxruntime"] = parameter(
        "auto", "CPU runtime; auto builds both and keeps the one that is faster in the same run"
    )
    rtx_check: Literal["auto", "required", "off"] = parameter(
        "auto", "TensorRT-RTX parse-and-build check of bundles; auto runs it where the library is installed"
    )
    max_batch: int = parameter(32, "largest batch of the bundle's optimization profile")
    tolerance: float = parameter(
        0.05,
        "largest error of a device's outputs on the samples, over the largest value (detectors: boxes found by both); "
        "where the FP16 file itself is further off on this host, half as much again as that, to 0.2",
    )
    agreement: float = parameter(
        0.95,
        "least share of answers on the samples that equal PyTorch's: images, or a detector's boxes that both find; 0 "
        "judges neither these nor the boxes' overlap and scores",
    )
    box_iou: float = parameter(
        0.85, "detectors: least mean overlap (IoU, 0 to 1) of the boxes that the engine and PyTorch both find"
    )
    score_difference: float = parameter(0.1, "detectors: largest mean difference of the scores (0 to 1) of those boxes")
    faint_agreement: float = parameter(
        0.75, "detectors: least share found by both of the boxes with scores from 0.05 to 0.3, which still count in AP"
    )

    def __post_init__(self) -> None:
        if self.max_batch < 1:
            raise UsageError("build: max_batch must be at least 1", got=str(self.max_batch), do="raise it")
        for name in ("box_iou", "score_difference", "faint_agreement"):
            if not 0 <= getattr(self, name) <= 1:
                given = str(getattr(self, name))
                raise UsageError(f"build: {name} must be from 0 to 1", got=given, do="see `gpusq build --help`")

    def gives(self, parent: Artifact | None) -> str:
        return "bundle" if self._target().is_gpu else "engine"

    def target_name(self) -> str | None:
        return self._target().name

    def inputs(self, parent: Artifact | None, context: Context) -> dict[str, str]:
        from gpusq.latency import host_conditions

        facts = {"target facts": self._target().fingerprint}
        if self.runtime == "auto" and not self._target().is_gpu:  # which runtime is faster depends on the processor
            facts["processor"] = hashlib.sha256(str(host_conditions()["cpu"]).encode()).hexdigest()
        return facts

    def _target(self) -> Target:
        from gpusq.targets import load_target

        return load_target(self.target)

    def run(self, parent: Artifact | None, out: Path, context: Context) -> dict[str, Any]:
        if parent is None:
            raise UsageError("build needs an ONNX artifact", do="run `gpusq export` first")
        target = self._target()
        return self._bundle(parent, target, out, context) if target.is_gpu else self._engine(parent, out, context)

    def ensures(self, parent: Artifact | None, out: Path, context: Context) -> None:
        """The engine gives the expected outputs; the bundle reads back whole."""
        if self._target().is_gpu:
            from gpusq.engines.sealed_bundle import read_bundle

            bundle = read_bundle(out)
            self._check_bundle(bundle.files, parent)
        else:
            self._check_engine(parent, out)

    def _engine(self, parent: Artifact, out: Path, context: Context) -> dict[str, Any]:
        from gpusq.engines import choose_cpu, cpu_threads
        from gpusq.engines.cpu import RUNTIMES
        from gpusq.latency import time_interleaved
        from gpusq.stages.layer_files import carry, write_json

        onnx, samples = parent.read("model.fp32.onnx"), parent.read(SAMPLES)
        runtime: str = self.runtime
        context.progress(self.name, 0, None, f"CPU engine, runtime {self.runtime}")
        if self.runtime == "auto":
            image = _samples(samples)[0][:4]  # neither the smallest batch nor a large one decides alone
            timer = partial(time_interleaved, warmup=2, min_repeats=10, max_seconds=CHOICE_S)
            choice = choose_cpu(onnx, out, sample=image, threads=cpu_threads(), time_interleaved=timer)
            runtime = choice.runtime
            note = ", ".join(f"{name} {ms:.2f} ms" for name, ms in choice.p50_ms.items())
            context.progress(self.name, 0, None, f"{runtime} kept ({note})")
        else:
            RUNTIMES[runtime].build(onnx, out)
        (out / SAMPLES).write_bytes(samples)
        write_json(out / "engine.json", {"runtime": runtime, "target": self._target().name})
        carry(parent, out)
        return {"runtime": runtime}

    def _check_bundle(self, files: Mapping[str, bytes], parent: Artifact | None) -> None:
        """The graphs in the bundle are those that Export checked, byte for byte."""
        for name in GRAPHS if parent else ():
            if parent and files.get(name) != parent.read(name):
                raise CheckError(f"build: {name} in the bundle must be the one that was exported", got="other bytes")

    def _check_engine(self, parent: Artifact | None, out: Path) -> None:
        import json

        from gpusq.engines import cpu_threads, load_cpu
        from gpusq.graph.output_parity import compare_outputs
        from gpusq.graph.parity import check_parity
        from gpusq.stages.parity_gate import allowed_agreement

        runtime = json.loads((out / "engine.json").read_text(encoding="utf-8"))["runtime"]
        description = json.loads((out / "model.json").read_text(encoding="utf-8"))
        images, expected = _samples((out / SAMPLES).read_bytes())
        parity = compare_outputs(description, expected, load_cpu(runtime, out, cpu_threads()).outputs(images))
        own = parent.read_json("export.json").get("parity_self") if parent else None
        least = allowed_agreement(self.agreement, own, parity.n)
        bars = self._bars(own)
        what = f"build: the {runtime} engine and PyTorch"
        check_parity(parity, relative=None, top1=least, what=what, keys=KEYS, **bars)

    def _bundle(self, parent: Artifact, target: Target, out: Path, context: Context) -> dict[str, Any]:
        from gpusq.engines import BatchProfile, write_bundle
        from gpusq.graph.output_parity import compare_outputs
        from gpusq.stages.layer_files import CARRIED, read_layers
        from gpusq.stages.parity_gate import allowed_agreement, allowed_error
        from gpusq.stages.rtx_facts import rtx_line, rtx_summary

        fp16, (images, expected) = parent.read("model.fp16.onnx"), _samples(parent.read(SAMPLES))
        profile = BatchProfile(1, min(8, self.max_batch), self.max_batch)
        checks = self._rtx_checks(fp16, profile.shapes(images.shape[1:]), target, context)
        own, description = parent.read_json("export.json").get("parity_self"), parent.read_json("model.json")
        answers = compare_outputs(description, expected, expected).n  # images, or the boxes on them
        context.progress(self.name, 0, None, f"bundle for {target.name}")
        write_bundle(
            out,
            target=target.model_dump(mode="json"),
            fp16_onnx=fp16,
            fp32_onnx=parent.read("model.fp32.onnx"),
            pixel_values=images,
            logits=expected.pop("logits", None),
            more_outputs=expected,
            task=description["task"],
            profile=profile,
            rtx_checks=checks,
            tolerance=allowed_error(self.tolerance, parent.read_json("export.json")["parity_fp16"]),
            agreement=allowed_agreement(self.agreement, own, answers),
            extra={name: parent.read(name) for name in CARRIED} | self.box_limits(description["task"], own),
        )
        layers = read_layers(parent)
        found = [rtx_summary(c, layers) for c in checks]
        for line in map(rtx_line, found):
            context.progress(self.name, 0, None, line)
        return {"rtx": found}

    def box_limits(self, task: str, own: dict[str, Any] | None) -> dict[str, bytes]:
        """The file with the bars that the device holds a detector's paired boxes to; none for other tasks.

        own: `parity_self` of the export, None where it was not needed.
        """
        from gpusq.engines.bundle import BOX_LIMITS, json_bytes

        if task != "detection":
            return {}
        return {BOX_LIMITS: json_bytes(self._bars(own))}

    def _bars(self, own: dict[str, Any] | None) -> dict[str, Any]:
        from gpusq.stages.parity_gate import box_bars

        return box_bars(self.agreement, self.box_iou, self.score_difference, self.faint_agreement, own)

    def _rtx_checks(self, onnx: bytes, shapes: Any, target: Target, context: Context) -> tuple[RtxCheck, ...]:
        """Build the FP16 graph with TensorRT-RTX for the target's stand-in compute capabilities."""
        import tempfile
        from importlib.util import find_spec

        from gpusq.engines import tensorrt_rtx

        if self.rtx_check == "off" or (self.rtx_check == "auto" and find_spec("tensorrt_rtx") is None):
            context.progress(self.name, 0, None, "TensorRT-RTX check not run")
            return ()
        with tempfile.TemporaryDirectory(prefix="gpusq-rtx-") as scratch:
            path = Path(scratch) / "model.onnx"
            path.write_bytes(onnx)
            context.progress(self.name, 0, None, f"TensorRT-RTX check for {', '.join(target.rtx_capability)}")
            found = tensorrt_rtx.check_build(path, _capabilities(target), {"pixel_values": shapes})
        for check in found:
            if not check.ok:
                raise EngineError(
                    f"build: TensorRT-RTX must parse and build the FP16 graph (compute capability {check.capability})",
                    got="; ".join(check.errors[:3]),
                    do="see the operator named; export with another opset or policy",
                )
        return found


def _capabilities(target: Target) -> tuple[str, ...]:
    """("sm80", ...) of a target file as ("8.0", ...)."""
    return tuple(f"{name[2:-1]}.{name[-1]}" for name in target.rtx_capability)


def _samples(content: bytes) -> tuple[Any, dict[str, Any]]:
    """(images [n, C, H, W], expected outputs by name)."""
    from safetensors.numpy import load

    tensors = load(content)
    return tensors.pop("pixel_values"), tensors
