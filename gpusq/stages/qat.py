"""Qat: a sparse (or dense) model becomes an INT8 one, its mask held; zero epochs is post-training quantization."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from gpusq.errors import UsageError
from gpusq.stages.fine_tuning import Distilled
from gpusq.stages.intake import MODEL_LIBRARIES
from gpusq.stages.stage import Context, parameter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from gpusq.artifacts import Artifact
    from gpusq.stages.model_files import ModelState

CALIBRATION = "qat: calibration"
CALIBRATION_BATCH = 32
BITS = 8


@dataclass(frozen=True)
class Qat(Distilled):
    """Symmetric INT8: weights per output channel, activations per tensor; calibrated, then distilled."""

    name: ClassVar[str] = "qat"
    takes: ClassVar[tuple[str, ...]] = ("sparse", "dense")
    libraries: ClassVar[tuple[str, ...]] = (*MODEL_LIBRARIES, "accelerate")

    learning_rate: float = parameter(1e-5, "highest learning rate of AdamW (warm-up, then cosine)")
    policy: Literal["inputs", "sparse-epilogue", "attention", "sparse-epilogue+attention"] = parameter(
        "inputs", "where Q/DQ pairs go"
    )
    calibrator: Literal["max", "percentile", "mse", "modelopt"] = parameter(
        "max", "how activation ranges are set; max clips nothing (pretrained ViTs hold a few large values that matter)"
    )
    calibration: str | None = parameter(None, "calibration manifest (default: a draw from the training images)")
    calibration_images: int = parameter(256, "images of that draw, where no manifest is given")
    learn_scales: bool = parameter(True, "train the scales too (LSQ)")
    scale_rate: float = parameter(10.0, "learning rate of the scales' logarithm, over that of the weights")
    factor: Literal["inverse", "proportional", "uniform"] = parameter(
        "inverse", "weight of each block's feature loss from its loss while pruning"
    )
    keep_float: tuple[str, ...] = parameter((), "layers (names or shell patterns) not to quantize")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.calibration_images < 1:
            raise UsageError("qat: calibration_images must be at least 1", do="raise it")

    def gives(self, parent: Artifact | None) -> str:
        return "quantized"

    def uses(self) -> tuple[str, ...]:
        return (*self.libraries, "nvidia-modelopt") if self.calibrator == "modelopt" else self.libraries

    def inputs(self, parent: Artifact | None, context: Context) -> dict[str, str]:
        from gpusq.recipe_files import sha256_of

        found = {"train": context.images(self.name).train.fingerprint()}
        return found | ({"calibration": sha256_of(Path(self.calibration))} if self.calibration else {})

    def key_params(self) -> dict[str, Any]:
        return super().key_params() | {"calibration": bool(self.calibration)}  # its content counts, not its place

    def requires(self, parent: Artifact | None, context: Context) -> None:
        super().requires(parent, context)
        self._indices(context)
        if self.calibrator == "modelopt":
            from gpusq.quantization import observer

            observer("modelopt")

    def run(self, parent: Artifact | None, out: Path, context: Context) -> dict[str, Any]:
        from gpusq.quantization import seal_scales
        from gpusq.stages.model_files import open_model, save_model
        from gpusq.stages.quantizing import qat_notes
        from gpusq.workload import coverage

        if parent is None:
            raise UsageError("qat needs a model artifact", do="run `gpusq prune` first")
        state = open_model(parent)
        self._quantize(state, context)
        notes = qat_notes(self, state)
        for note in notes:
            context.progress(self.name, 0, None, note)
        if self.epochs:
            self._train(state, open_model(parent), context)
        seal_scales(state.module)
        save_model(state, out)
        found = coverage(state.workload, state.layers)
        share = round(found.int8, 6)
        return {"int8_share_of_gemm_macs": share, "quantizers": len(state.quantizers), "notes": notes}

    def ensures(self, parent: Artifact | None, out: Path, context: Context) -> None:
        """2:4 still holds on the weights and on their integers; scales are finite FP16 numbers."""
        from gpusq.stages.quantized_checks import check_quantized

        check_quantized(out)

    def _quantize(self, state: ModelState, context: Context) -> None:
        """Place the quantizers in `state` and calibrate them."""
        import torch

        from gpusq.models import attention_modules
        from gpusq.quantization import calibrate, insert, place, shared_inputs
        from gpusq.stages.model_files import device_of_run
        from gpusq.stages.quantizing import quantized_layers, skipped_layers

        skip = skipped_layers(state, self.keep_float)
        attention = attention_modules(state.module) if "attention" in self.policy else ()
        names = [layer.name for layer in state.layers if layer.name not in skip]
        same = shared_inputs(state.module, names, torch.zeros(1, *state.workload.input_shape))
        state.quantizers = place(self.policy, state.layers, attention, tuple(skip), BITS, same)
        state.layers = quantized_layers(state.layers, skip)
        insert(state.module, state.quantizers)
        module = state.module.to(device_of_run()).eval()
        calibrate(module, self._batches(state, context), self.calibrator)
        module.cpu()

    def _train(self, state: ModelState, teacher: ModelState, context: Context) -> None:
        from gpusq.distillation import weight_factor
        from gpusq.quantization import set_mode

        set_mode(state.module, "learn", learn_scales=self.learn_scales)
        factors = weight_factor(state.prune_loss, self.factor)
        self.distil(state, teacher, factors, context, self.scale_rate)

    def _indices(self, context: Context) -> list[int]:
        """Training images to calibrate with. Raises CalibrationManifestError for a manifest that does not fit."""
        from gpusq.data import load_manifest
        from gpusq.stages.images import draw

        train = context.images(self.name).train
        if self.calibration:
            return list(load_manifest(Path(self.calibration), train))
        return draw(len(train), self.calibration_images, self.seed)

    def _batches(self, state: ModelState, context: Context) -> Iterator[Tensor]:
        import torch

        from gpusq.stages.images import batches_of
        from gpusq.stages.model_files import device_of_run

        indices = self._indices(context)
        images = context.images(self.name).train
        for done, batch in batches_of(
            images, state.loaded.description, indices, CALIBRATION_BATCH, context, CALIBRATION
        ):
            context.progress(CALIBRATION, done, len(indices), self.calibrator)
            yield torch.from_numpy(batch.pixel_values).to(device_of_run())
