"""A float model artifact becomes an engine through torch-tensorrt, for graphs that TensorRT's ONNX parser cannot take.

Needs torch on the device. The model goes to the builder in FP16 with float32 images and outputs, as the ONNX files of
bundles do; it is compared with the outputs that its export stored, measured and sealed like any other engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpusq.engines.bundle import INPUT, SAMPLES, BatchProfile, Bundle
from gpusq.engines.compatibility import FROM_MODELS
from gpusq.errors import StageOrderError, UnsupportedModelError, UsageError
from gpusq.finishing.building import built_for
from gpusq.finishing.engine_files import CARRIED, Built
from gpusq.finishing.failing import Attempt, leaving_a_receipt
from gpusq.finishing.flow import Finished, complete
from gpusq.finishing.opened import FinishOptions, Opened, check_files
from gpusq.finishing.sealing import check_out
from gpusq.machine import MachineOf, open_machine

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from gpusq.artifacts import Artifact, Store
    from gpusq.engines.tensorrt import PlanOptions
    from gpusq.stages import Build

FLOAT_MODELS = ("dense", "sparse")


def finish_model(
    artifact: Artifact, store: Store, build: Build, options: FinishOptions, machine_of: MachineOf = open_machine
) -> Finished:
    """Build a dense or sparse model for `build.target` on that device. build: also max_batch, tolerance and agreement.

    Raises StageOrderError for another artifact, UsageError where its export is not in the store or for options that
    torch-tensorrt does not take, MissingExtraError, TamperedArtifactError, and what `finish` raises for an engine.
    """
    from gpusq.engines.tensorrt import PlanOptions
    from gpusq.engines.tensorrt.torch_tensorrt import OUTPUT, build_exported, check_installed

    _check(artifact, options)
    bundle = _as_bundle(artifact, _export_of(artifact, store), build)
    check_out(options.out, [artifact.path])
    check_files(options, [options.out])
    check_installed()
    machine = machine_of("tensorrt")
    purpose = built_for(bundle, machine.builder, machine.trt, machine.device)
    opened = Opened("model", artifact, bundle, options.out)
    shapes = bundle.profile.shapes(bundle.input_shape)
    asked = PlanOptions(profiles=({INPUT: shapes},), workspace_mib=options.workspace_mib)
    names = tuple(artifact.read_json("model.json")["outputs"])
    attempt = Attempt((opened,), (purpose,), machine)
    with leaving_a_receipt(attempt, options):
        options.progress("build model", 0, None, "torch.export")
        program = exported_half(artifact, asked)
        options.progress("build model", 0, None, FROM_MODELS)
        plan = build_exported(program, asked)
        attempt.plans.append(Built(opened, purpose, plan, {OUTPUT.format(i): name for i, name in enumerate(names)}))
        return complete(attempt, options)


def _check(artifact: Artifact, options: FinishOptions) -> None:
    if artifact.kind == "quantized":
        raise StageOrderError(
            f"{FROM_MODELS} builds float models: it has no converter for this project's quantizers",
            got=f"the quantized model {artifact.digest[:12]}",
            do="build its sparse parent (FP16) this way, or keep the layers that TensorRT refuses in float "
            "(gpusq qat --keep-float LAYER) and build the bundle with --builder tensorrt",
        )
    if artifact.kind not in FLOAT_MODELS:
        raise StageOrderError(
            f"{FROM_MODELS} builds model artifacts: {', '.join(FLOAT_MODELS)}",
            got=artifact.kind,
            do="name the model that it was made from (gpusq log), or leave --builder out",
        )
    if options.timing_cache is not None:
        raise UsageError(f"{FROM_MODELS} has a timing cache of its own", got="--timing-cache", do="leave it out")


def _export_of(artifact: Artifact, store: Store) -> Artifact:
    """The ONNX artifact of the model: its samples are real images with the outputs of PyTorch."""
    digest = artifact.digest
    found = [a for a in store.artifacts() if a.kind == "onnx" and digest in [p.digest for p in a.manifest.parents]]
    if not found:
        raise UsageError(
            "an engine is compared with the outputs that `gpusq export` stores beside real images",
            got=f"no export of {artifact.kind}-{digest[:12]} in {store.root}",
            do=f"run: gpusq export {artifact.kind}-{digest[:12]} --data IMAGES",
        )
    return found[-1]


def _as_bundle(artifact: Artifact, export: Artifact, build: Build) -> Bundle:
    """What a bundle of this model would say of it, every file checked against its seal; without ONNX."""
    from gpusq.stages.layer_files import read_workload
    from gpusq.targets import load_target

    target = load_target(build.target)
    if not target.is_gpu:
        raise UsageError(f"{FROM_MODELS} builds for a GPU", got=f"--target {target.name}", do="give --target a100")
    task, own = artifact.read_json("model.json")["task"], export.read_json("export.json").get("parity_self")
    files = {SAMPLES: export.read(SAMPLES), **{name: artifact.read(name) for name in CARRIED}}
    return Bundle(
        artifact.path,
        target.model_dump(mode="json"),
        BatchProfile(1, min(8, build.max_batch), build.max_batch),
        build.tolerance,
        INPUT,
        read_workload(artifact).input_shape,
        files | build.box_limits(task, own),
        task,
        build.agreement,
    )


def exported_half(artifact: Artifact, options: PlanOptions) -> ExportedProgram:
    """The model in FP16 as an exported program: pixel_values [batch, C, H, W] float32 -> its outputs, float32.

    Raises UnsupportedModelError with torch.export's own reason.
    """
    import torch

    from gpusq.graph.tracing import eval_mode, quiet, symbolic_len
    from gpusq.stages.model_files import device_of_run, open_model

    low, best, high = options.profiles[0][INPUT]
    device = device_of_run()
    model = open_model(artifact).module.half().to(device)
    example = torch.zeros(max(best[0], 2), *best[1:], device=device)  # a dynamic batch of 1 would be a constant
    batch = {0: torch.export.Dim("batch", min=low[0], max=high[0])} if high[0] > low[0] else None
    with eval_mode(model), quiet(), symbolic_len(model), torch.no_grad():
        try:
            return torch.export.export(_in_float32(model), (example[: high[0]],), dynamic_shapes=(batch,))
        except Exception as error:
            raise UnsupportedModelError(
                "torch.export must trace the model in FP16",
                got=f"{type(error).__name__}: {' '.join(str(error).split())[:400]}",
                do="make the forward free of float32 constants and of branches on data",
            ) from error


def _in_float32(model: Any) -> Any:
    """The FP16 module behind float32 images and outputs."""
    import torch

    class InFloat32(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
            found = self.model(pixel_values.half())
            return tuple(x.float() for x in (found if isinstance(found, tuple | list) else (found,)))

    return InFloat32().eval()
