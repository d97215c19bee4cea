"""Train: a fresh model learns labelled images, so that there is something to compress. Not a training framework."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from gpusq.errors import UsageError
from gpusq.stages.fine_tuning import FineTuned
from gpusq.stages.intake import MODEL_LIBRARIES, check_dense, dense_state, model_facts
from gpusq.stages.stage import Context, parameter

if TYPE_CHECKING:
    from gpusq.artifacts import Artifact


@dataclass(frozen=True)
class Train(FineTuned):
    """Cross entropy on the labels, or matched boxes for a detector. Gives a dense artifact, like Intake."""

    name: ClassVar[str] = "train"
    libraries: ClassVar[tuple[str, ...]] = (*MODEL_LIBRARIES, "accelerate")

    epochs: float = parameter(5.0, "passes over the training images")
    learning_rate: float = parameter(1e-3, "highest learning rate of AdamW (warm-up, then cosine)")
    weight_decay: float = parameter(0.02, "weight decay; none on biases, norms and scales")
    freeze: tuple[str, ...] = parameter((), "parameters (names or shell patterns) that keep their values")
    model: str = parameter("", "model to start from: new:NAME, hf:DIR, file.py:function, timm:NAME", key=False)

    def gives(self, parent: Artifact | None) -> str:
        return "dense"

    def inputs(self, parent: Artifact | None, context: Context) -> dict[str, str]:
        from gpusq.models import source_fingerprint

        return {"model": source_fingerprint(self.model), "train": context.images(self.name).train.fingerprint()}

    def requires(self, parent: Artifact | None, context: Context) -> None:
        from gpusq.stages.images import check_taught

        check_taught(context.images(self.name).train, self.name)

    def run(self, parent: Artifact | None, out: Path, context: Context) -> dict[str, Any]:
        from gpusq.distillation import supervised_loss
        from gpusq.models import load_model
        from gpusq.stages.images import check_labels
        from gpusq.stages.model_files import save_model
        from gpusq.training import fit

        train = context.images(self.name).train
        loaded = load_model(self.model, classes=len(train.classes), seed=self.seed, asked=train.classes)
        if loaded.description.task == "tensors":
            raise UsageError(
                "train needs a classifier or a detector", got=f"{self.model}: other outputs", do="use intake"
            )
        loaded.description = with_class_names(loaded.description, train.classes)
        check_labels(train, loaded.description.model_dump(mode="json"))
        if loaded.fresh:
            context.progress(self.name, 0, None, f"a fresh head for {len(train.classes)} classes: {loaded.fresh[0]}")
        state = dense_state(loaded, self.model)
        frozen = freeze(loaded.module, self.freeze)
        if frozen:
            note = f"{frozen} of {state.workload.parameters} parameters keep their values"
            context.progress(self.name, 0, None, note)

        about = loaded.description

        def loss_of(model: Any, batch: Any) -> Any:
            loss, parts = supervised_loss(about.task, model(batch.images), batch.truth, about.activation)
            return loss, {name: part.detach() for name, part in parts.items()}

        fit(
            loaded.module,
            loss_of,
            self.batches(train, loaded.description, context),
            len(train),
            self.settings(len(train)),
            checkpoints=context.checkpoints,
            report=self.reporter(context),
        )
        loaded.module.requires_grad_(True)
        save_model(state, out)
        return model_facts(state)

    def ensures(self, parent: Artifact | None, out: Path, context: Context) -> None:
        """Finite weights, and a head that fits the images."""
        check_dense(out, context)


def with_class_names(description: Any, classes: tuple[str, ...]) -> Any:
    """The description with the images' class names where its own are mere numbers, as those of fresh heads are."""
    numbers = tuple(str(i) for i in range(len(classes)))
    return description.model_copy(update={"classes": classes}) if description.classes == numbers else description


def freeze(module: Any, patterns: tuple[str, ...]) -> int:
    """Stop the named parameters from being trained; returns how many values they hold.

    Raises UsageError for a pattern that names no parameter.
    """
    from fnmatch import fnmatchcase

    named = dict(module.named_parameters())
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in named):
            raise UsageError(f"train: no parameter is called {pattern!r}", do=f"names: {', '.join([*named][:6])} ...")
    chosen = [p for name, p in named.items() if any(fnmatchcase(name, pattern) for pattern in patterns)]
    for parameter_ in chosen:
        parameter_.requires_grad_(False)
    return sum(p.numel() for p in chosen)
