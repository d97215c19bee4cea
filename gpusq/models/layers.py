"""Which layers a module has, which of them may be pruned, and where its blocks are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from torch import nn

from gpusq.errors import PatternError, UnsupportedModelError
from gpusq.models.probe import GemmRun, Probe
from gpusq.workload import Layer

NOT_PRUNED = "not pruned"
HEAD_REASON = "final head kept dense by default"
NEVER_RUN_REASON = "its forward is never called in a pass"
CLASS_HEAD_REASON = "class head kept dense by default"
BOX_HEAD_REASON = "last box layer kept dense by default"
UNUSED_REASON = "used in training only: no output depends on it"
PACKED_REASON = "packed attention kept dense by default: its class has a forward of its own, or it has hooks"
OWN_FORWARD_REASON = "layer kept dense by default: it has a forward of its own, so what it multiplies is not its weight"
CONSTANT_REASON = "does not depend on the image: an engine computes it once"
BOX_HEADS = ("bbox", "box_head", "box_embed")
"""Parts of the names under which detectors keep the layers that give boxes."""


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


def find_detector_dense(module: nn.Module, probe: Probe, blocks: Sequence[str]) -> dict[str, str]:
    """The class heads and last box layers of a detector, kept dense by default, with reasons.

    Every class head and box head counts, also those of the encoder and of inner decoder layers: they select queries
    and refine boxes, and their few outputs fit no sparse tile. Box heads are told by their names, and the layers that
    give the boxes themselves by what one pass showed.
    """
    heads: dict[str, str] = {}  # part of the model -> its last layer
    for name, run in _outer_runs(module, probe, blocks):
        if not isinstance(run.layer, nn.Linear):
            continue
        if any(part in name.lower() for part in BOX_HEADS):
            heads[name.rpartition(".")[0]] = name
        elif run.shape[-1] == probe.logits.shape[-1] and run.layer not in probe.box_layers:
            heads[name] = name
    boxes = {n: BOX_HEAD_REASON for n, m in module.named_modules() if m in probe.box_layers}
    return boxes | {name: CLASS_HEAD_REASON if part == name else BOX_HEAD_REASON for part, name in heads.items()}


def find_own_forward(module: nn.Module) -> dict[str, str]:
    """The Linears and convolutions that compute something else than torch's, kept dense by default, with reasons.

    Zeros in the weight of one that normalises it first are no zeros in the product.
    """
    kinds = ((nn.Linear, ("forward",)), (nn.Conv2d, ("forward", "_conv_forward")))
    found = [
        n for n, m in module.named_modules() for k, steps in kinds if isinstance(m, k) and not _is_own(m, k, steps)
    ]
    return dict.fromkeys(found, OWN_FORWARD_REASON)


def _is_own(layer: nn.Module, kind: type[nn.Module], steps: Sequence[str]) -> bool:
    """Whether a layer takes these steps as torch's own class does."""
    return all(getattr(type(layer), s) is getattr(kind, s) and s not in vars(layer) for s in steps)


def find_output_dense(module: nn.Module, probe: Probe, blocks: Sequence[str]) -> dict[str, str]:
    """The layers outside the blocks that give an output of a model of task "tensors" themselves."""
    shapes = {tuple(x.shape) for x in probe.outputs}
    return {name: HEAD_REASON for name, run in _outer_runs(module, probe, blocks) if run.shape in shapes}


def find_idle(module: nn.Module, probe: Probe, live: Collection[str], constant: Collection[str]) -> dict[str, str]:
    """Layers without work on an image, with reasons: never run, no output depends on them, or always the same.

    live: layers that an output depends on; constant: those of them that do not depend on the image.
    """
    ran = {id(run.layer) for run in probe.runs}
    idle: dict[str, str] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and (name not in live or name in constant):
            unused = UNUSED_REASON if id(layer) in ran else NEVER_RUN_REASON
            idle[name] = CONSTANT_REASON if name in constant else unused
    return idle


def _outer_runs(module: nn.Module, probe: Probe, blocks: Sequence[str]) -> list[tuple[str, GemmRun]]:
    """The calls of layers outside the blocks, in order, with names."""
    names = {id(m): n for n, m in module.named_modules()}
    inside = tuple(f"{block}." for block in blocks)
    found = [(names[id(run.layer)], run) for run in probe.runs]
    return [(name, run) for name, run in found if not name.startswith(inside)]


def find_attention_blocks(module: nn.Module) -> tuple[str, ...]:
    """Names of the transformer blocks of a model with several transformers (backbone, encoder, decoder), in order.

    A block is a member of a ModuleList or Sequential of any length that holds an attention and a normalisation and no
    smaller such member; heads for boxes have neither.
    """
    return _innermost(module, _is_attention_block)


def _innermost(module: nn.Module, fits: Callable[[nn.Module], bool]) -> tuple[str, ...]:
    """Names of the members of lists that fit and hold no smaller such member."""
    members = {id(m) for part in module.modules() for m in _members(part) if fits(m)}
    blocks = [(n, m) for n, m in module.named_modules() if id(m) in members]
    return tuple(n for n, m in blocks if not any(id(p) in members for p in m.modules() if p is not m))


def _is_pooling_block(module: nn.Module) -> bool:
    """A block that mixes its places without weights and has 1 x 1 convolutions for its feed-forward part."""
    parts = list(module.modules())
    return any(isinstance(m, nn.GroupNorm) for m in parts) and any(isinstance(m, nn.Conv2d) for m in parts)


def _is_attention_block(module: nn.Module) -> bool:
    attention = any("Attention" in type(m).__name__ for m in module.modules())
    norm = any("Norm" in type(m).__name__ for m in module.modules())
    return attention and norm and not type(module).__name__.endswith("Attention")


def find_blocks(module: nn.Module) -> tuple[str, ...]:
    """Names of the repeated transformer blocks, in order; Swin's over all its stages. Empty where nothing repeats.

    A block class is one that fills a ModuleList or Sequential of at least two members with nothing else and contains
    a Linear without being one. Blocks are the members of such classes, in lists of any length, that contain no others.
    Where there are none, members with a group norm and convolutions are blocks (PoolFormer has no Linear).
    """
    kinds = {kind for part in module.modules() if (kind := _repeated_kind(part)) is not None}
    members = {id(m) for part in module.modules() for m in _members(part) if type(m) in kinds}
    blocks = [(n, m) for n, m in module.named_modules() if id(m) in members]
    outer = {type(m) for _, m in blocks if any(id(p) in members for p in m.modules() if p is not m)}
    return tuple(n for n, m in blocks if type(m) not in outer) or _innermost(module, _is_pooling_block)


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
