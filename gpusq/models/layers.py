"""Which layers a module has, which of them may be pruned, and where its blocks are."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from gpusq.errors import PatternError, UnsupportedModelError
from gpusq.models.probe import Probe
from gpusq.workload import Layer

NOT_PRUNED = "not pruned"
HEAD_REASON = "final head kept dense by default"
NEVER_RUN_REASON = "its forward is never called in a pass"


def gemm_layers(module: nn.Module, keep_dense: Mapping[str, str]) -> tuple[Layer, ...]:
    """Every nn.Linear and nn.Conv2d (subclasses too) of `module` in its order, none sparse, none INT8.

    keep_dense: layer name -> reason. `why_dense` is NOT_PRUNED where the layer may be pruned, else the reason. Layers
    that share a weight are listed each. Raises UnsupportedModelError where one layer stands in two places.
    """
    _check_one_place(module)
    found = ((n, m) for n, m in module.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d)))
    return tuple(_layer(name, layer, keep_dense.get(name)) for name, layer in found)


def _check_one_place(module: nn.Module) -> None:
    """Quantizers and exported weights go by the place of a layer, so each place needs a layer of its own."""
    places: dict[int, str] = {}
    for name, part in module.named_modules(remove_duplicate=False):
        if not isinstance(part, (nn.Linear, nn.Conv2d)):
            continue
        first = places.setdefault(id(part), name)
        if first != name:
            raise UnsupportedModelError(
                "each Linear or Conv2d of a model stands in one place",
                got=f"{first} and {name} are the same module",
                do=f"make {name} a layer of its own; it may share the parameter: "
                f"model.{name}.weight = model.{first}.weight",
            )


def prunable(layer: Layer) -> bool:
    """Whether nothing speaks against pruning the layer (or it is pruned already)."""
    return layer.sparse or layer.why_dense == NOT_PRUNED


def check_divisible(name: str, module: nn.Module, m: int = 4) -> None:
    """Raise PatternError where the n:m pattern does not fit a Linear or Conv2d that was asked to be pruned."""
    if isinstance(module, nn.Conv2d):
        what, width = "input channels per group", module.in_channels // module.groups
    elif isinstance(module, nn.Linear):
        what, width = "in_features", module.in_features
    else:
        raise PatternError(f"{name} is a Linear or Conv2d", got=type(module).__name__, do="prune another layer")
    if width % m:
        raise PatternError(f"{name} has {what}={width}, not divisible by {m}", do="add it to keep_dense")


def find_keep_dense(module: nn.Module, probe: Probe) -> dict[str, str]:
    """The layers kept dense by default, with reasons: the final head, and layers that never run."""
    names = {id(m): n for n, m in module.named_modules()}
    ran = {id(run.layer) for run in probe.runs}
    layers = (m for m in module.modules() if isinstance(m, (nn.Linear, nn.Conv2d)))
    idle = {names[id(m)]: NEVER_RUN_REASON for m in layers if id(m) not in ran}
    return {names[id(m)]: HEAD_REASON for m in _heads(probe)} | idle


def find_blocks(module: nn.Module) -> tuple[str, ...]:
    """Names of the repeated transformer blocks, in order; Swin's over all its stages. Empty where nothing repeats.

    A block class is one that fills a ModuleList or Sequential of at least two members with nothing else and contains
    a Linear without being one. Blocks are the members of such classes, in lists of any length, that contain no others.
    """
    kinds = {kind for part in module.modules() if (kind := _repeated_kind(part)) is not None}
    members = {id(m) for part in module.modules() for m in _members(part) if type(m) in kinds}
    blocks = [(n, m) for n, m in module.named_modules() if id(m) in members]
    outer = {type(m) for _, m in blocks if any(id(p) in members for p in m.modules() if p is not m)}
    return tuple(n for n, m in blocks if type(m) not in outer)


def _members(part: nn.Module) -> list[nn.Module]:
    return list(part.children()) if isinstance(part, (nn.ModuleList, nn.Sequential)) else []


def _repeated_kind(part: nn.Module) -> type[nn.Module] | None:
    members = _members(part)
    if len(members) < 2 or len({type(m) for m in members}) != 1 or isinstance(members[0], (nn.Linear, nn.Conv2d)):
        return None
    return type(members[0]) if all(_has_linear(m) for m in members) else None


def _has_linear(module: nn.Module) -> bool:
    return any(isinstance(m, nn.Linear) for m in module.modules())


def _heads(probe: Probe) -> list[nn.Module]:
    """Trailing Linears that give [1, classes] themselves; else the last one as wide as the logits; else the last."""
    shape, runs = tuple(probe.logits.shape), list(probe.runs)
    trailing = 0
    while trailing < len(runs) and runs[-1 - trailing].shape == shape:
        trailing += 1
    if trailing:
        return [run.layer for run in runs[len(runs) - trailing :]]
    wide = [run.layer for run in runs if shape[-1] in (*run.shape[-1:], *run.shape[1:2])]
    return wide[-1:] or [run.layer for run in runs[-1:]]


def _layer(name: str, layer: nn.Linear | nn.Conv2d, reason: str | None) -> Layer:
    if isinstance(layer, nn.Linear):
        misfit = f"in_features={layer.in_features} is not divisible by 4" if layer.in_features % 4 else None
        return Layer(name, "linear", layer.out_features, layer.in_features, why_dense=reason or misfit or NOT_PRUNED)
    channels = layer.in_channels // layer.groups
    k = channels * layer.kernel_size[0] * layer.kernel_size[1]
    misfit = None
    if channels % 4:
        kind = "input channels" if layer.groups == 1 else f"input channels in each of {layer.groups} groups"
        misfit = f"{channels} {kind}, not divisible by 4"
    return Layer(name, "conv", layer.out_channels, k, layer.groups, why_dense=reason or misfit or NOT_PRUNED)
