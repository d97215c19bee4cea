"""Build: an ONNX artifact becomes an engine for this CPU, or a bundle that an NVIDIA device finishes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from gpusq.errors import ParityError, UsageError
from gpusq.stages.stage import Context, Stage, parameter

if TYPE_CHECKING:
    from gpusq.artifacts import Artifact
    from gpusq.engines.tensorrt_rtx import RtxCheck
    from gpusq.targets import Target

SAMPLES = "samples.safetensors"


@dataclass(frozen=True)
class Build(Stage):
    """Make what runs on the target. GPU targets also get a real TensorRT-RTX parse and build as a check."""

    name: ClassVar[str] = "build"
    takes: ClassVar[tuple[str, ...]] = ("onnx",)
    libraries: ClassVar[tuple[str, ...]] = ("openvino", "onnxruntime", "tensorrt-rtx-cu13", "numpy")

    target: str = parameter("cpu", "cpu, a100, a100-80gb, agx-orin, agx-orin-32gb, agx-orin@30W, ... (`gpusq targets`)", key=False)
    runtime: Literal["auto", "openvino", "onnxruntime"] = parameter(
        "auto", "CPU runtime; auto builds both and keeps the one that is faster in the same run"
    )
    rtx_check: Literal["auto", "required", "off"] = parameter(
        "auto", "TensorRT-RTX parse-and-build check of bundles; auto runs it where the library is installed"
    )
    max_batch: int = parameter(32, "largest batch of the bundle's optimization profile")
    agreement: float = parameter(0.98, "least share of sample images on which the engine agrees with PyTorch")

    def __post_init__(self) -> None:
        if self.max_batch < 1:
            raise UsageError("build: max_batch must be at least 1", got=str(self.max_batch), do="raise it")

    def gives(self, parent: Artifact | None) -> str:
        return "bundle" if self._target().is_gpu else "engine"

    def target_name(self) -> str | None:
        return self._target().name

    def inputs(self, parent: Artifact | None, context: Context) -> dict[str, str]:
        return {"target facts": self._target().fingerprint}

    def _target(self) -> Target:
        from gpusq.targets import load_target

        return load_target(self.target)

    def run(self, parent: Artifact | None, out: Path, context: Context) -> dict[str, Any]:
        from gpusq.stages.layer_files import carry

        if parent is None:
            raise UsageError("build needs an ONNX artifact", do="run `gpusq export` first")
        target = self._target()
        facts = self._bundle(parent, target, out, context) if target.is_gpu else self._engine(parent, out, context)
        carry(parent, out)
        return facts

    def ensures(self, parent: Artifact | None, out: Path, context: Context) -> None:
        """The engine gives the expected outputs; the bundle reads back whole."""
        if self._target().is_gpu:
            from gpusq.engines.bundle import read_bundle

            read_bundle(out)
        else:
            self._check_engine(out)

    def _engine(self, parent: Artifact, out: Path, context: Context) -> dict[str, Any]:
        from gpusq.engines import cpu_threads
        from gpusq.engines.cpu import choose_cpu
        from gpusq.latency import time_interleaved
        from gpusq.stages.layer_files import write_json

        samples = parent.read(SAMPLES)
        (out / SAMPLES).write_bytes(samples)
        context.progress(self.name, 0, None, f"CPU engine, runtime {self.runtime}")
        choice = choose_cpu(
            parent.read("model.fp32.onnx"),
            out,
            sample=_images(samples)[:1],
            threads=cpu_threads(),
            runtime=self.runtime,
            time_interleaved=time_interleaved,
        )
        write_json(out / "engine.json", {"runtime": choice.runtime, "target": self._target().name})
        context.progress(self.name, 0, None, _choice_note(choice.p50_ms))
        return {"runtime": choice.runtime}

    def _check_engine(self, out: Path) -> None:
        import json

        from safetensors.numpy import load

        from gpusq.engines import cpu_threads, load_engine
        from gpusq.graph.parity import check_parity, compare

        runtime = json.loads((out / "engine.json").read_text(encoding="utf-8"))["runtime"]
        samples = load((out / SAMPLES).read_bytes())
        found = load_engine(out, runtime, cpu_threads()).run(samples["pixel_values"])
        parity = compare(samples["logits"], found)
        check_parity(parity, relative=float("inf"), top1=self.agreement, what=f"build: the {runtime} engine and PyTorch")

    def _bundle(self, parent: Artifact, target: Target, out: Path, context: Context) -> dict[str, Any]:
        from gpusq.engines.bundle import write_bundle

        context.progress(self.name, 0, None, f"bundle for {target.name}")
        files = {n: parent.read(n) for n in ("model.fp16.onnx", "model.fp32.onnx", SAMPLES)}
        shape = _images(files[SAMPLES]).shape[1:]
        profile = {"pixel_values": tuple((b, *shape) for b in (1, min(8, self.max_batch), self.max_batch))}
        checks = self._rtx_checks(files["model.fp16.onnx"], profile, target, out, context)
        write_bundle(out, target=target, files=files, profile=profile, checks=checks)
        return {"rtx": [_summary(c) for c in checks]}

    def _rtx_checks(self, onnx: bytes, profile: Any, target: Target, out: Path, context: Context) -> tuple[RtxCheck, ...]:
        """Build the FP16 graph with TensorRT-RTX for the target's stand-in compute capabilities."""
        from gpusq.engines import tensorrt_rtx

        if self.rtx_check == "off" or (self.rtx_check == "auto" and not tensorrt_rtx.installed()):
            context.progress(self.name, 0, None, "TensorRT-RTX check not run")
            return ()
        scratch = out / ".rtx"
        scratch.mkdir()
        try:
            (scratch / "model.onnx").write_bytes(onnx)
            context.progress(self.name, 0, None, f"TensorRT-RTX check for {', '.join(target.rtx_capability)}")
            found = tensorrt_rtx.check_build(scratch / "model.onnx", target.rtx_capability, profile)
        finally:
            import shutil

            shutil.rmtree(scratch, ignore_errors=True)
        for check in found:
            if not check.ok:
                raise ParityError(
                    f"build: TensorRT-RTX must parse and build the FP16 graph (compute capability {check.capability})",
                    got="; ".join(check.errors[:3]),
                    do="see the operator named; export with another opset or policy",
                )
        return tuple(found)


def _images(samples: bytes) -> Any:
    from safetensors.numpy import load

    return load(samples)["pixel_values"]


def _choice_note(p50_ms: Any) -> str:
    return ", ".join(f"{name} {ms:.2f} ms" for name, ms in p50_ms.items()) or "runtime as asked"


def _summary(check: RtxCheck) -> dict[str, Any]:
    return {
        "capability": check.capability,
        "int8_gemms": len(check.int8_gemms),
        "fused_attention": check.fused_attention,
        "layers": len(check.layers),
    }
