"""Intake: a trained model from a source becomes a dense artifact, checked and in canonical form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from gpusq.stages.stage import Context, Stage, parameter

if TYPE_CHECKING:
    from gpusq.artifacts import Artifact

MODEL_LIBRARIES = ("torch", "transformers", "numpy", "pillow")


@dataclass(frozen=True)
class Intake(Stage):
    """Read a model, put it in canonical form (patch embedding as a GEMM, packed attention unpacked), seal it."""

    name: ClassVar[str] = "intake"
    libraries: ClassVar[tuple[str, ...]] = MODEL_LIBRARIES

    model: str = parameter("", "hf:DIR, new:NAME, file.py:function or timm:NAME", key=False)
    classes: int | None = parameter(None, "number of classes of a new head")
    seed: int = parameter(0, "seed of fresh weights")

    def gives(self, parent: Artifact | None) -> str:
        return "dense"

    def uses(self) -> tuple[str, ...]:
        return (*self.libraries, "timm") if self.model.startswith("timm:") else self.libraries

    def inputs(self, parent: Artifact | None, context: Context) -> dict[str, str]:
        from gpusq.models import source_fingerprint

        return {"model": source_fingerprint(self.model)}

    def run(self, parent: Artifact | None, out: Path, context: Context) -> dict[str, Any]:
        from gpusq.models import load_model
        from gpusq.stages.model_files import save_model

        context.progress(self.name, 0, None, f"loading {self.model}")
        loaded = load_model(self.model, classes=self.classes, seed=self.seed, asked=self._asked(context))
        state = dense_state(loaded, self.model)
        save_model(state, out)
        return model_facts(state)

    def _asked(self, context: Context) -> tuple[str, ...]:
        """Names of the images' classes, where the number of classes is theirs."""
        names = context.data.train.classes if context.data is not None else ()
        return names if len(names) == self.classes else ()

    def ensures(self, parent: Artifact | None, out: Path, context: Context) -> None:
        """Finite weights in the file that was written, and a head that fits the images of the run."""
        check_dense(out, context)


def model_facts(state: Any) -> dict[str, Any]:
    """For the manifest of a dense artifact: parameters, work, and tensors of the head that its source did not hold."""
    fresh = {"fresh_head": list(state.loaded.fresh)} if state.loaded.fresh else {}
    return {"parameters": state.workload.parameters, "macs": state.workload.macs, **fresh}


def check_dense(out: Path, context: Context) -> None:
    """Raise NonFiniteError or ClassMismatchError unless a written dense model is finite and fits the run's images."""
    import json

    from safetensors.torch import load

    from gpusq.data import class_check
    from gpusq.models import check_finite

    check_finite(load((out / "weights.safetensors").read_bytes()))
    if context.data is not None:
        classes = json.loads((out / "model.json").read_text(encoding="utf-8"))["classes"]
        class_check(context.data.train, tuple(classes))


def dense_state(loaded: Any, spec: str = "") -> Any:
    """Check, trace and list the layers of a freshly loaded model. Raises NonFiniteError, UnsupportedModelError.

    Steps that depend on the image's values are refused here, since the export would refuse them after all training.
    spec: what the model was loaded from, for the name of its file.
    """
    from gpusq.models import check_finite, gemm_layers, plain_tensors, trace_workload
    from gpusq.stages.control_flow import check_control_flow
    from gpusq.stages.model_files import ModelState

    check_finite(plain_tensors(loaded.module))
    file_name = Path(spec.rpartition(":")[0]).name if loaded.description.source == "file" else ""
    check_control_flow(loaded.module, loaded.description.input_shape, file_name)
    workload = trace_workload(loaded.module, loaded.description.input_shape)
    return ModelState(loaded, gemm_layers(loaded.module, loaded.keep_dense), workload)
