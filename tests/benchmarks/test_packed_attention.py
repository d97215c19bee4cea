"""The packed-attention comparison's own counting: groups of four, weights looked up in a file, lines of the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from benchmarks import packed_attention_modelopt as script

SMALL = ("= 256, 8, 512, 100, 2, 128", "= 16, 2, 32, 5, 2, 32")
LAYERS = 2


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[nn.Module, tuple[int, ...]]:
    """The compared module, 16 wide, in place of the whole one."""
    source = script.MODEL.read_text(encoding="utf-8")
    assert SMALL[0] in source
    (tmp_path / "model.py").write_text(source.replace(*SMALL), encoding="utf-8")
    monkeypatch.setattr(script, "MODEL", tmp_path / "model.py")
    return script.packed_model()


def piece(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(8, 12)).astype(np.float32)


def test_a_group_counts_where_more_than_two_of_four_are_there() -> None:
    matrix = np.array([[1, 1, 0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 1, 1, 1, 1]], np.float32)
    assert script._entry(matrix, False) == {"violating_groups": 2, "groups": 4, "int8": False}
    assert script._entry(matrix.T.copy().reshape(2, 8), True)["int8"] is True


@pytest.mark.parametrize("place", [0, 1, 2, None], ids=["queries", "keys", "values", "alone"])
@pytest.mark.parametrize("turned", [False, True])
def test_a_weight_is_found_alone_or_as_a_third_turned_or_not(place: int | None, turned: bool) -> None:
    parts = [piece(7), piece(8), piece(9)]
    whole = parts[place] if place is not None else piece(1)
    held = np.concatenate(parts) if place is not None else whole
    held = held.T if turned else held
    assert script._holds(held, whole)
    changed = whole.copy()
    changed[3, 5] += 1e-3
    assert not script._holds(held, changed)


def test_a_weight_that_begins_elsewhere_or_is_cut_is_not_found() -> None:
    weight = piece()
    assert not script._holds(np.roll(np.concatenate([weight, piece(1), piece(2)]), 2, axis=0), weight)
    assert not script._holds(weight[:4], weight)
    assert not script._holds(np.concatenate([weight, weight]), weight)


def test_constants_of_a_file_are_initializers_and_constant_nodes_of_two_dimensions() -> None:
    a, b = piece(1), piece(2)
    nodes = [
        helper.make_node("Constant", [], ["b"], value=numpy_helper.from_array(b)),
        helper.make_node("QuantizeLinear", ["a", "scale"], ["q"]),
    ]
    stored = [numpy_helper.from_array(a, "a"), numpy_helper.from_array(np.float32(0.1), "scale")]
    output = helper.make_tensor_value_info("q", TensorProto.UINT8, [8, 12])
    proto = helper.make_model(helper.make_graph(nodes, "g", [], [output], stored))
    found = script._constants(proto)
    assert {name: array.tolist() for name, array in found.items()} == {"a": a.tolist(), "b": b.tolist()}
    assert script._quantized_names(proto) == {"a"}


def test_both_tools_begin_with_the_same_weights(small: tuple[nn.Module, tuple[int, ...]]) -> None:
    from gpusq.models import load_model

    module, shape = small
    unpacked = load_model(f"{script.MODEL}:build").module
    with torch.no_grad():
        for parameter in unpacked.parameters():
            parameter.add_(1.0)
        script._same_weights(module, unpacked)
        (pixels,) = script.images(shape)[:1]
        for ours, theirs in zip(unpacked(pixels), module(pixels), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_what_was_pruned_is_counted_as_such_and_what_was_not_is_not(
    small: tuple[nn.Module, tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpusq.stages import pruning

    module, _ = small
    found = script.by_gpusq(*small)
    assert len(found) == len(script.PARTS) * len(script._attentions(module)) == 3 * 3 * LAYERS
    assert not any(entry["violating_groups"] for entry in found.values())
    own, keys = pruning.prune_layer, module.get_parameter("encoder.0.self_attn.in_proj_weight").detach().chunk(3)[1]

    def all_but_one(layer: nn.Module, *rest: Any) -> None:
        if not torch.equal(layer.get_parameter("weight"), keys):
            own(layer, *rest)

    monkeypatch.setattr(pruning, "prune_layer", all_but_one)
    broken = {name: entry for name, entry in script.by_gpusq(*small).items() if entry["violating_groups"]}
    assert broken == {"encoder.0.self_attn.k": {"violating_groups": 64, "groups": 64, "int8": True}}


def test_the_page_has_a_line_for_each_attention_and_tool() -> None:
    sparse, dense = {"violating_groups": 0, "int8": True}, {"violating_groups": 3, "int8": False}
    ours = {f"a.{part}": sparse for part in script.PARTS}
    content = {"command": "x", "how": "y", "attentions": ["a"], "gpusq": ours}
    page = script.markdown(content | {"nvidia-modelopt": ours | {"a.k": dense}})
    assert "| a | gpusq | yes, yes, yes | yes, yes, yes |" in page
    assert "| a | nvidia-modelopt | yes, no, yes | yes, no, yes |" in page
