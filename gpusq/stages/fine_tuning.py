"""Training parameters that Train, Prune and Qat share, and fine-tuning under distillation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from gpusq.errors import UsageError
from gpusq.stages.stage import Context, Stage, parameter

if TYPE_CHECKING:
    from gpusq.data import ImageSet
    from gpusq.models import ModelDescription
    from gpusq.stages.model_files import ModelState
    from gpusq.training import Batch, Settings

LOSS_IMAGES = 256
"""Training images on which Prune records each block's feature loss."""
LOSS_BATCH = 32


@dataclass(frozen=True)
class FineTuned(Stage):
    """A stage that trains. `epochs` may be a fraction; 0 trains nothing."""

    distributed: ClassVar[bool] = True

    epochs: float = parameter(1.0, "passes over the training images; 0 for none, 0.25 for a quarter")
    batch_size: int = parameter(64, "images of one optimizer step, over all processes together")
    learning_rate: float = parameter(2e-5, "highest learning rate of AdamW (warm-up, then cosine)")
    weight_decay: float = parameter(0.0, "weight decay; none on biases, norms and scales")
    warmup: float = parameter(0.1, "share of the steps with a rising learning rate")
    clip: float = parameter(1.0, "largest norm of the gradient, 0 for none")
    precision: Literal["fp32", "bf16"] = parameter("fp32", "arithmetic of training; bf16 is for GPUs")
    augment: bool = parameter(False, "random horizontal flips and shifts of up to an eighth (detection: flips, crops)")
    vertical_flips: bool = parameter(False, "with augment, detection: also upside down, as suits images from above")
    least_crop: float = parameter(
        0.6, "with augment, detection: least side of a crop over the image's; 1 crops nothing"
    )
    seed: int = parameter(0, "seed of data order, augmentation and draws")
    checkpoint_every: int = parameter(200, "steps between checkpoints, 0 for none", key=False)

    def __post_init__(self) -> None:
        for name in ("epochs", "learning_rate", "weight_decay", "warmup", "clip", "checkpoint_every", "seed"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UsageError(f"{self.name}: {name} must be finite and at least 0", got=str(getattr(self, name)))
        if not 0 < self.least_crop <= 1:
            raise UsageError(f"{self.name}: least_crop must be above 0 and at most 1", got=str(self.least_crop))
        if self.batch_size < 1:
            raise UsageError(f"{self.name}: batch_size must be at least 1", got=str(self.batch_size))

    def settings(self, images: int, scale_rate: float = 1.0) -> Settings:
        """The loop's settings for a set of `images` images."""
        from gpusq.training import Settings, steps_in

        batch = min(self.batch_size, images)
        return Settings(
            steps=steps_in(self.epochs, images, batch),
            batch_size=batch,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup=self.warmup,
            clip=self.clip,
            scale_rate=scale_rate,
            precision=self.precision,
            seed=self.seed,
            checkpoint_every=self.checkpoint_every,
        )

    def batches(
        self, images: ImageSet, description: ModelDescription, context: Context | None = None
    ) -> Callable[[list[int], int], Batch]:
        """(indices, step) -> a training batch. context: told with the last batch which images this process skipped."""
        from gpusq.data import BoxAugmentation
        from gpusq.stages.images import loader_of, report_skipped, training_batch

        loader = loader_of(images, description.model_dump(mode="json"))
        last = self.settings(len(images)).steps - 1
        boxes = BoxAugmentation(vertical=self.vertical_flips, least_side=self.least_crop)

        def batch_of(indices: list[int], step: int) -> Batch:
            batch = training_batch(loader, indices, self.seed + step if self.augment else None, boxes)
            if context is not None and step == last:
                report_skipped(loader, context, f"{self.name}: training images", len(images))
            return batch

        return batch_of

    def reporter(self, context: Context) -> Callable[[int, int, Mapping[str, float]], None]:
        """A listener of the loop that reports to the context's progress."""

        def report(done: int, total: int, values: Mapping[str, float]) -> None:
            context.progress(f"{self.name}: training", done, total, " ".join(f"{n} {v:.4g}" for n, v in values.items()))

        return report


@dataclass(frozen=True)
class Distilled(FineTuned):
    """A stage that trains under a teacher. The defaults of the loss weights are GPUSQ-ViT's."""

    alpha: float = parameter(1.0, "weight of the hard loss (labels)")
    beta: float = parameter(10.0, "weight of the soft loss (teacher's logits)")
    gamma: float = parameter(5.0, "weight of the feature loss (teacher's block outputs)")
    temperature: float = parameter(1.0, "temperature of the soft loss")
    supervised: bool = parameter(True, "use labels; else the teacher's predictions stand for them")
    feature_blocks: Literal["later", "all"] = parameter(
        "later", "blocks whose outputs are compared: the later half, or all"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("alpha", "beta", "gamma"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UsageError(f"{self.name}: {name} must be finite and at least 0", got=str(getattr(self, name)))
        if not 0 < self.temperature < float("inf"):
            raise UsageError(f"{self.name}: temperature must be above 0", got=str(self.temperature))

    def blocks_of(self, state: ModelState) -> tuple[str, ...]:
        """The blocks whose outputs are compared."""
        blocks = state.loaded.blocks
        return blocks if self.feature_blocks == "all" else blocks[len(blocks) // 2 :]

    def requires(self, parent: Any, context: Context) -> None:
        """Labels of the model's own classes, also where nothing is trained and the images are for statistics alone.

        supervised = False asks for none. Raises ClassMismatchError, UsageError.
        """
        from gpusq.stages.images import check_labels, check_taught

        if not self.supervised or (context.data is None and not self.epochs):
            return
        train, about = context.images(self.name).train, parent.read_json("model.json")
        check_labels(train, about)
        if self.epochs and about.get("task") != "tensors":
            check_taught(train, self.name)

    def objective(self, state: ModelState, teacher: ModelState, factors: Mapping[str, float]) -> Any:
        """The loss of one batch, teacher on the device of the run."""
        from gpusq.distillation import Weights, objective_of
        from gpusq.stages.model_files import device_of_run

        weights = Weights(self.alpha, self.beta, self.gamma, self.temperature)
        about, blocks = state.loaded.description, self.blocks_of(state)
        module = teacher.module.to(device_of_run()).requires_grad_(False)
        return objective_of(
            about.task, state.module, module, blocks, weights, factors, self.supervised, about.activation
        )

    def distil(
        self,
        state: ModelState,
        teacher: ModelState,
        factors: Mapping[str, float],
        context: Context,
        scale_rate: float = 1.0,
    ) -> None:
        """Train `state` in place under the teacher, the masks held."""
        from gpusq.training import fit

        train = context.images(self.name).train
        with ExitStack() as stack:
            objective = stack.enter_context(self.objective(state, teacher, factors))
            fit(
                state.module,
                lambda model, batch: objective.loss(model, batch.images, batch.truth),
                self.batches(train, state.loaded.description, context),
                len(train),
                self.settings(len(train), scale_rate),
                masks=state.weight_masks(),
                checkpoints=context.checkpoints,
                report=self.reporter(context),
            )

    def block_losses(self, state: ModelState, teacher: ModelState, context: Context) -> dict[str, float]:
        """Feature loss of each compared block on LOSS_IMAGES training images, after training."""
        import torch

        from gpusq.stages.images import batches_of, draw
        from gpusq.stages.model_files import device_of_run

        train = context.images(self.name).train
        indices = draw(len(train), LOSS_IMAGES, self.seed)
        module = state.module.to(device_of_run()).eval()
        sums: dict[str, float] = {}
        seen = 0
        with self.objective(state, teacher, {}) as objective:
            what = f"{self.name}: block losses"
            for _, batch in batches_of(train, state.loaded.description, indices, LOSS_BATCH, context, what):
                images = torch.from_numpy(batch.pixel_values).to(device_of_run())
                for name, value in objective.block_means(module, images).items():
                    sums[name] = sums.get(name, 0.0) + float(value) * len(batch.ids)
                seen += len(batch.ids)
        state.module.cpu()
        return {name: total / seen for name, total in sums.items()}
