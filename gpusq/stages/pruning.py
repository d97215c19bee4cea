"""The work of Prune on tensors: which layers, their input statistics, masks and updated weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, cast

import torch
from torch import Tensor, nn

from gpusq.errors import NonFiniteError, UsageError
from gpusq.models import check_divisible, prunable
from gpusq.sparsity import InputStatistics, Score, from_gemm_matrix, gemm_inputs, gemm_matrix, prune_matrix
from gpusq.workload import Layer

N, M = 2, 4
BY_REQUEST = "kept dense by request (keep_dense)"


def choose_layers(
    layers: tuple[Layer, ...], module: nn.Module, keep: tuple[str, ...], also: tuple[str, ...]
) -> tuple[Layer, ...]:
    """The layers with `why_dense` settled: empty for those to prune.

    keep, also: names or shell patterns; `also` prunes what is kept dense by default, such as the final head.
    Raises UsageError for a pattern that names no layer, PatternError for an asked layer that 2:4 does not fit.
    """
    for pattern in (*keep, *also):
        if not any(fnmatchcase(layer.name, pattern) for layer in layers):
            raise UsageError(f"prune: no layer is called {pattern!r}", do=f"layers: {_some(layers)}")
    return tuple(_chosen(layer, module, keep, also) for layer in layers)


def _chosen(layer: Layer, module: nn.Module, keep: tuple[str, ...], also: tuple[str, ...]) -> Layer:
    if any(fnmatchcase(layer.name, p) for p in keep):
        return replace(layer, why_dense=BY_REQUEST)
    if any(fnmatchcase(layer.name, p) for p in also):
        check_divisible(layer.name, module.get_submodule(layer.name), M)
        return layer.pruned()
    return layer.pruned() if prunable(layer) else layer


def _some(layers: tuple[Layer, ...], limit: int = 8) -> str:
    names = [layer.name for layer in layers]
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def input_statistics(
    module: nn.Module, layers: list[Layer], batches: Iterator[Tensor], hessian: bool, device: torch.device
) -> dict[str, InputStatistics]:
    """Statistics of the GEMM inputs of `layers` over all batches [B, C, H, W] of the unpruned model."""
    found = {layer.name: InputStatistics(layer.k, hessian=hessian, device=device) for layer in layers}
    with listening(module, found), torch.no_grad():
        for batch in batches:
            module(batch.to(device))
    return found


@contextmanager
def listening(module: nn.Module, found: dict[str, InputStatistics]) -> Iterator[None]:
    """Add the inputs of the named layers to their statistics while the block runs."""
    handles = [module.get_submodule(n).register_forward_pre_hook(_listener(n, s)) for n, s in found.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _listener(name: str, statistics: InputStatistics) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def listen(layer: nn.Module, args: tuple[Any, ...]) -> None:
        try:
            statistics.add(gemm_inputs(layer, args[0]))
        except NonFiniteError as error:
            raise NonFiniteError(f"prune: {name}: {error.what}", got=error.got, do=error.do) from error

    return listen


def prune_layer(layer: nn.Module, score: Score, statistics: InputStatistics | None, groups: int) -> Tensor:
    """Prune the weight of a Linear or Conv2d in place; returns the mask as a GEMM matrix [out, k]."""
    weight = cast(nn.Linear, layer).weight
    pruned, mask = prune_matrix(gemm_matrix(weight.detach(), groups), score, statistics, N, M)
    with torch.no_grad():
        weight.copy_(from_gemm_matrix(pruned, weight.shape))
    return mask
