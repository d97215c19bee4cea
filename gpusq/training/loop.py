"""The training loop: one process or many, the mask held at every step, resumed where it was killed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gpusq.errors import NonFiniteError, SparsityCheckError, UsageError
from gpusq.training.checkpoint import Checkpoints
from gpusq.training.order import batch_indices, share_of

LOOK_EVERY = 10  # steps between reading the loss back (a read waits for a GPU)


@dataclass(frozen=True)
class Batch:
    """Images [B, C, H, W] float32; labels [B] int64 of classification; targets of detection, one pair for each image:
    classes [n] int64 and boxes [n, 4] float32 (cx, cy, w, h in 0..1), crowds left out. None where there are none."""

    images: Tensor
    labels: Tensor | None
    targets: tuple[tuple[Tensor, Tensor], ...] | None = None

    @property
    def truth(self) -> Tensor | tuple[tuple[Tensor, Tensor], ...] | None:
        """What the images are known to show: labels, targets, or None."""
        return self.labels if self.targets is None else self.targets


@dataclass(frozen=True)
class Settings:
    """steps: optimizer steps. warmup: share of the steps with a rising rate; then cosine down to 0.

    batch_size: of all processes together. scale_rate: multiplies the learning rate of quantizer scales.
    clip: largest norm of the gradient, 0 for none. checkpoint_every: steps, 0 for never.
    """

    steps: int
    batch_size: int = 64
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    warmup: float = 0.1
    clip: float = 1.0
    scale_rate: float = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0
    checkpoint_every: int = 200

    def rate(self, step: int) -> float:
        """Learning rate of a step (from 0)."""
        rising = max(1, round(self.steps * self.warmup)) if self.warmup > 0 else 0
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        done = (step - rising) / max(1, self.steps - rising)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


LossOf = Callable[[nn.Module, Batch], tuple[Tensor, Mapping[str, Tensor]]]
BatchOf = Callable[[list[int], int], Batch]
Report = Callable[[int, int, Mapping[str, float]], None]


def fit(
    model: nn.Module,
    loss_of: LossOf,
    batch_of: BatchOf,
    images: int,
    settings: Settings,
    *,
    masks: Mapping[str, Tensor] | None = None,
    checkpoints: Path | None = None,
    report: Report | None = None,
) -> None:
    """Train `model` in place for `settings.steps` steps.

    loss_of(model, batch) -> (mean loss of the batch, parts); the model it gets is the distributed wrapper where there
    are several processes. batch_of(indices, step) loads images of a data set with `images` images. masks: layer ->
    bool tensor shaped as its weight; held at every step and checked at the end. checkpoints: directory of this run.
    Raises NonFiniteError for a loss that is not finite, SparsityCheckError where a mask was broken, UsageError for a
    batch that does not split evenly.
    """
    accelerator = _accelerator(settings.precision)
    model.to(accelerator.device).train()
    held = {n: m.to(accelerator.device) for n, m in (masks or {}).items()}
    optimizer = _optimizer(model, settings)
    kept = Checkpoints(checkpoints, _identity(settings, images, accelerator)) if checkpoints else None
    start = kept.restore(model, optimizer) if kept else 0
    wrapped = accelerator.prepare_model(model)
    apply_masks(model, held)
    for step in range(start, settings.steps):
        parts = _step(step, accelerator, wrapped, model, optimizer, loss_of, batch_of, images, settings, held)
        apply_masks(model, held)
        due = kept is not None and _due(step + 1, settings)
        _look(step + 1, settings, parts, report, due)
        if kept is not None and due:
            _keep(step + 1, kept, accelerator, model, optimizer)
    check_masks(model, held)
    accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)  # else its forward stays in bf16
    model.eval()
    model.to("cpu")


def _step(
    step: int,
    accelerator: Any,
    wrapped: nn.Module,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of: LossOf,
    batch_of: BatchOf,
    images: int,
    settings: Settings,
    held: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """One optimizer step on this process's share of the global batch."""
    _reseed(settings.seed, step, accelerator.process_index)
    indices = batch_indices(step, images, settings.batch_size, settings.seed)
    mine = share_of(indices, accelerator.process_index, accelerator.num_processes)
    batch = _to(batch_of(mine, step), accelerator.device)
    for group in optimizer.param_groups:
        group["lr"] = settings.rate(step) * group["rate"]
    optimizer.zero_grad(set_to_none=True)
    loss, parts = loss_of(wrapped, batch)
    accelerator.backward(loss)
    mask_gradients(model, held)
    if settings.clip > 0:
        torch.nn.utils.clip_grad_norm_((p for p in model.parameters() if p.grad is not None), settings.clip)
    optimizer.step()
    return {"loss": loss.detach(), **parts}


def _reseed(seed: int, step: int, rank: int) -> None:
    """Random numbers of a step are a function of (seed, step, process), so a resume needs no generator state."""
    torch.manual_seed(((seed * 1_000_003 + step) * 4096 + rank) % 2**63)


def _due(done: int, settings: Settings) -> bool:
    """Whether a checkpoint is due after `done` steps."""
    every = settings.checkpoint_every
    return bool(every) and done % every == 0 and done != settings.steps


def _look(done: int, settings: Settings, parts: Mapping[str, Tensor], report: Report | None, must: bool) -> None:
    """Read the loss back now and then, and before every checkpoint; refuse to go on from one that is not finite."""
    if done % LOOK_EVERY and done != settings.steps and not must:
        return
    values = {name: float(value) for name, value in parts.items()}
    if not math.isfinite(values["loss"]):
        raise NonFiniteError(
            f"training: the loss is not finite at step {done}",
            got=", ".join(f"{n}={v:.4g}" for n, v in values.items()),
            do="lower learning_rate, or use precision fp32",
        )
    if report is not None:
        report(done, settings.steps, values)


def _keep(done: int, kept: Checkpoints, accelerator: Any, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    if accelerator.is_main_process:
        kept.save(done, model, optimizer)
    accelerator.wait_for_everyone()


def mask_gradients(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Drop the gradients of masked weights, so that they count in no norm and no moment."""
    for name, mask in masks.items():
        grad = model.get_parameter(f"{name}.weight").grad
        if grad is not None:
            grad.mul_(mask)


def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set every masked weight to zero."""
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(f"{name}.weight").mul_(mask)


def check_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Raise SparsityCheckError where a masked weight is not zero."""
    for name, mask in masks.items():
        broken = int((model.get_parameter(f"{name}.weight").detach()[~mask] != 0).sum())
        if broken:
            raise SparsityCheckError(f"training: the mask of {name} must hold", got=f"{broken} non-zero weights")


def _optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """AdamW; no decay on norms, biases and scales, whose learning rate has its own factor."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    scales: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if name.endswith("quantizer.log_gain"):
            if parameter.requires_grad:
                scales.append(parameter)
        elif parameter.requires_grad:
            (decayed if parameter.dim() > 1 else plain).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": settings.weight_decay, "rate": 1.0},
        {"params": plain, "weight_decay": 0.0, "rate": 1.0},
        {"params": scales, "weight_decay": 0.0, "rate": settings.scale_rate},
    ]
    groups = [g for g in groups if g["params"]]
    if not groups:
        raise UsageError("training needs trainable parameters", got="none", do="unfreeze the model")
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)


def _accelerator(precision: str) -> Any:
    """A fresh Accelerator that keeps the process group of an earlier one in this process."""
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    kwargs = DistributedDataParallelKwargs(find_unused_parameters=True)
    mixed = "bf16" if precision == "bf16" else "no"
    return Accelerator(cpu=not torch.cuda.is_available(), mixed_precision=mixed, kwargs_handlers=[kwargs])


def _identity(settings: Settings, images: int, accelerator: Any) -> dict[str, Any]:
    """What two runs must share for one to go on from the other's checkpoint with equal bits."""
    same = {k: v for k, v in asdict(settings).items() if k != "checkpoint_every"}
    place = {"device": accelerator.device.type, "processes": accelerator.num_processes}
    return {**same, **place, "images": images, "threads": torch.get_num_threads(), "torch": torch.__version__}


def _to(batch: Batch, device: torch.device) -> Batch:
    labels = None if batch.labels is None else batch.labels.to(device, non_blocking=True)
    targets = None if batch.targets is None else tuple((c.to(device), b.to(device)) for c, b in batch.targets)
    return Batch(batch.images.to(device, non_blocking=True), labels, targets)
