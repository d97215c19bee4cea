"""Prune: a dense model becomes a 2:4 sparse one, fine-tuned under distillation with the mask held."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from gpusq.errors import UsageError
from gpusq.stages.fine_tuning import Distilled
from gpusq.stages.intake import MODEL_LIBRARIES
from gpusq.stages.stage import Context, parameter

if TYPE_CHECKING:
    from gpusq.artifacts import Artifact
    from gpusq.stages.model_files import ModelState

STATISTICS = "prune: statistics"


@dataclass(frozen=True)
class Prune(Distilled):
    """2:4 masks (and, for sparsegpt, updated weights), then distillation from the dense model."""

    name: ClassVar[str] = "prune"
    takes: ClassVar[tuple[str, ...]] = ("dense",)
    libraries: ClassVar[tuple[str, ...]] = (*MODEL_LIBRARIES, "accelerate")

    score: Literal["magnitude", "wanda", "sparsegpt"] = parameter(
        "sparsegpt", "what a weight is worth; sparsegpt also updates the kept weights"
    )
    keep_dense: tuple[str, ...] = parameter((), "layers (names or shell patterns) to keep dense")
    also_prune: tuple[str, ...] = parameter(
        (), "layers kept dense by default, such as the final head, to prune all the same"
    )
    calibration_images: int = parameter(256, "training images for the input statistics of wanda and sparsegpt")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.calibration_images < 1:
            raise UsageError("prune: calibration_images must be at least 1", do="raise it")

    def gives(self, parent: Artifact | None) -> str:
        return "sparse"

    def inputs(self, parent: Artifact | None, context: Context) -> dict[str, str]:
        if context.data is None and self.score == "magnitude" and not self.epochs:
            return {}
        return {"train": context.images(self.name).train.fingerprint()}

    def run(self, parent: Artifact | None, out: Path, context: Context) -> dict[str, Any]:
        from gpusq.stages.model_files import open_model, save_model
        from gpusq.workload import coverage

        if parent is None:
            raise UsageError("prune needs a dense model artifact", do="run `gpusq intake` first")
        state = open_model(parent)
        self._mask(state, context)
        teacher = open_model(parent)
        if self.epochs:
            self.distil(state, teacher, {}, context)
        if context.data is not None:
            state.prune_loss = self.block_losses(state, teacher, context)
        save_model(state, out)
        found = coverage(state.workload, state.layers)
        return {
            "sparse_share_of_gemm_macs": round(found.sparse, 6),
            "sparse_layers": sum(x.sparse for x in state.layers),
        }

    def ensures(self, parent: Artifact | None, out: Path, context: Context) -> None:
        """2:4 holds in every layer listed as sparse, in the file that was written."""
        from safetensors.torch import load

        from gpusq.models import check_finite
        from gpusq.stages.model_files import check_masked, layers_in

        weights = load((out / "weights.safetensors").read_bytes())
        check_finite(weights)
        check_masked(weights, layers_in(out))

    def _mask(self, state: ModelState, context: Context) -> None:
        """Prune every chosen layer of `state` in place."""
        from gpusq.stages.model_files import device_of_run
        from gpusq.stages.pruning import choose_layers, input_statistics, prune_layer

        device = device_of_run()
        module = state.module.to(device).eval()
        state.layers = choose_layers(state.layers, module, self.keep_dense, self.also_prune)
        chosen = [layer for layer in state.layers if layer.sparse]
        found = {}
        if self.score != "magnitude":
            batches = self._batches(state, context)
            found = input_statistics(module, chosen, batches, self.score == "sparsegpt", device)
        for index, layer in enumerate(chosen):
            context.progress("prune: masks", index, len(chosen), layer.name)
            mask = prune_layer(module.get_submodule(layer.name), self.score, found.get(layer.name), layer.groups)
            state.masks[layer.name] = mask.cpu()
        context.progress("prune: masks", len(chosen), len(chosen), "done")
        module.cpu()

    def _batches(self, state: ModelState, context: Context) -> Any:
        import torch

        from gpusq.stages.images import batches_of, draw

        train = context.images(self.name).train
        indices = draw(len(train), self.calibration_images, self.seed)
        for done, batch in batches_of(train, state.loaded.description, indices, 32, context, STATISTICS):
            context.progress(STATISTICS, done, len(indices), f"{self.score} inputs")
            yield torch.from_numpy(batch.pixel_values)
