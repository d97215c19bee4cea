"""What became of each pruned layer. "Eligible" is not "chosen": the proof of a sparse kernel is its name."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from gpusq.engines.receipts.model import PrunedLayer, ReceiptLayer, State
from gpusq.engines.tensorrt.engine_layer import EngineLayer
from gpusq.engines.tensorrt.log import LogFacts
from gpusq.engines.tensorrt.plan import BuiltPlan
from gpusq.engines.tensorrt.refusals import layer_of
from gpusq.workload import Layer


def runs_sparse(layer: EngineLayer, sources: Sequence[str], pruned: Collection[str], log: LogFacts) -> bool | None:
    """Whether a layer with these sources runs a 2:4 kernel; None where nothing shows it."""
    if layer.sparse_tactic is not None:
        return layer.sparse_tactic
    candidates = [name for name in sources if name in pruned]
    if not candidates or log.chosen == 0:
        return False
    if any(_named(name, log.chosen_names) for name in candidates):
        return True
    return False if log.chosen and len(log.chosen_names) >= log.chosen else None


def pruned_layers(
    layers: Sequence[Layer],
    engine: Sequence[EngineLayer],
    rows: Sequence[ReceiptLayer],
    log: LogFacts,
    built: BuiltPlan,
) -> tuple[PrunedLayer, ...]:
    """The state of every sparse layer of `layers`. rows: the receipt's rows of `engine`, in the same order."""
    homes = {name: pair for pair in zip(engine, rows, strict=True) for name in pair[1].sources}
    found: list[PrunedLayer] = []
    for name in (layer.name for layer in layers if layer.sparse):
        layer, row = homes.get(name, (None, None))
        state, reason = _state(name, layer, row, log, built)
        found.append(
            PrunedLayer(
                name=name,
                state=state,
                reason=reason,
                engine_layer=row.name if row else None,
                precision=row.precision if row else "unknown",
                us=row.us if row else None,
            )
        )
    return tuple(found)


def _state(
    name: str, layer: EngineLayer | None, row: ReceiptLayer | None, log: LogFacts, built: BuiltPlan
) -> tuple[State, str]:
    if not built.sparse:
        return "not eligible", "the build did not allow sparse kernels"
    if layer is None or row is None:
        return "unknown", "no layer of the engine names its node"
    if row.sparse:
        return "chosen", f"kernel {layer.tactic}" if layer.sparse_tactic else "in the build log's list of sparse layers"
    dense = "" if row.sparse is None else _why_dense(layer, log)
    eligible = _eligible(name, layer, log)
    if eligible is None:
        return "unknown", _undecided(dense, built)
    if not eligible:
        return "not eligible", "the builder found no 2:4 pattern or no sparse kernel for it"
    return ("lost on time", dense) if dense else ("eligible", "counted as eligible, but its kernel is not shown")


def _why_dense(layer: EngineLayer, log: LogFacts) -> str:
    """How it shows that the layer runs dense."""
    if layer.sparse_tactic is False:
        return f"dense kernel {layer.tactic}" + _epilogue(layer)
    if log.chosen == 0:
        return "the build log says that no sparse kernel was chosen" + _epilogue(layer)
    return "not in the build log's list of sparse layers" + _epilogue(layer)


def _epilogue(layer: EngineLayer) -> str:
    if layer.precision == "int8" and layer.outputs and not layer.writes_int8:
        return "; INT8 in but not INT8 out, for which compute capability 8.x may have no sparse kernel"
    return ""


def _eligible(name: str, layer: EngineLayer, log: LogFacts) -> bool | None:
    """Whether the builder counted it; None where neither log nor inspector says."""
    if layer.sparse_weights or _named(name, log.eligible_names):
        return True
    if log.eligible is not None and len(log.eligible_names) >= log.eligible:
        return False  # all of them are listed, and it is not among them
    return None if layer.sparse_weights is None else False


def _undecided(dense: str, built: BuiltPlan) -> str:
    if dense:
        return f"{dense}; whether it was eligible is not shown"
    if built.library == "tensorrt_rtx":
        return "TensorRT-RTX chooses the kernel on the device and shows no sparsity ahead of time"
    return "neither the log nor the inspector shows it"


def _named(name: str, listed: Sequence[str]) -> bool:
    """Whether a list of engine layers names a node of the model's layer; fused names join nodes with "+".

    Myelin writes dots of node names as underscores and appends "_myl...".
    """
    wanted = {name, name.replace(".", "_")}
    parts = (part.strip() for entry in listed for part in entry.split("+"))
    return any(layer_of(part) in wanted for part in parts)
