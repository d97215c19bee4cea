"""Which layers there are, which stay dense and why, where the blocks are, which tensors are sound."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gpusq.errors import NonFiniteError, PatternError, UnsupportedModelError
from gpusq.models import (
    NOT_PRUNED,
    LoadedModel,
    check_divisible,
    check_finite,
    find_blocks,
    gemm_layers,
    load_model,
    plain_tensors,
    prunable,
)
from gpusq.models.layers import HEAD_REASON, NEVER_RUN_REASON, find_keep_dense
from gpusq.models.probe import probe


class Net(nn.Module):
    """A stem, a depthwise convolution, an odd layer, one that never runs, and two heads that are averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 16, 3, padding=1, groups=2)
        self.odd = nn.Linear(16, 10)
        self.wide = nn.Linear(10, 12)
        self.unused = nn.Linear(12, 12)
        self.head = nn.Linear(12, 5)
        self.distilled = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(self.depthwise(self.stem(x))).mean(dim=(-2, -1))
        x = self.wide(self.odd(x))
        return (self.head(x) + self.distilled(x)) / 2


@pytest.fixture
def net() -> Net:
    return Net().eval()


def test_every_linear_and_convolution_is_listed_with_its_gemm_shape(net: Net) -> None:
    layers = {layer.name: layer for layer in gemm_layers(net, {})}
    assert list(layers) == [n for n, m in net.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    assert (layers["stem"].kind, layers["stem"].out, layers["stem"].k) == ("conv", 8, 27)
    assert (layers["grouped"].groups, layers["grouped"].k) == (2, 36)
    assert (layers["wide"].kind, layers["wide"].out, layers["wide"].k) == ("linear", 12, 10)
    sizes = {n: m.weight.numel() for n, m in net.named_modules() if n in layers}
    assert {n: layer.weights for n, layer in layers.items()} == sizes


def test_each_layer_that_stays_dense_says_why(net: Net) -> None:
    keep_dense = find_keep_dense(net, probe(net, (3, 8, 8)))
    assert keep_dense == {"head": HEAD_REASON, "distilled": HEAD_REASON, "unused": NEVER_RUN_REASON}
    reasons = {layer.name: layer.why_dense for layer in gemm_layers(net, keep_dense)}
    assert reasons["stem"] == "3 input channels, not divisible by 4"
    assert reasons["depthwise"] == "1 input channels in each of 8 groups, not divisible by 4"
    assert reasons["wide"] == "in_features=10 is not divisible by 4"
    assert reasons["head"] == HEAD_REASON
    assert reasons["odd"] == reasons["grouped"] == NOT_PRUNED
    assert [layer.name for layer in gemm_layers(net, keep_dense) if prunable(layer)] == ["grouped", "odd"]


def test_head_under_a_mean_over_places_is_found() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.mix(x)).mean(dim=(1, 2))

    module = Pooled()
    assert find_keep_dense(module, probe(module, (4, 4, 8))) == {"head": HEAD_REASON}


def test_family_keeps_only_its_head_dense(loaded: LoadedModel) -> None:
    assert loaded.keep_dense == {"model.classifier": HEAD_REASON}
    dense = [layer.name for layer in gemm_layers(loaded.module, loaded.keep_dense) if not prunable(layer)]
    assert dense == ["model.classifier"]


def test_blocks_of_a_family_are_its_transformer_layers(loaded: LoadedModel) -> None:
    kinds = {type(loaded.module.get_submodule(name)).__name__ for name in loaded.blocks}
    assert len(kinds) == 1
    assert kinds.pop().endswith("Layer")
    assert len(loaded.blocks) == (4 if loaded.description.family == "swin" else 2)


def test_blocks_of_a_user_s_module() -> None:
    def block() -> nn.Module:
        return nn.ModuleDict({"norm": nn.LayerNorm(4), "mlp": nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4))})

    net = nn.ModuleDict({"layers": nn.Sequential(block(), block(), block()), "head": nn.Linear(4, 2)})
    assert find_blocks(net) == ("layers.0", "layers.1", "layers.2")
    assert find_blocks(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))) == ()


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Linear(770, 8), r"fc has in_features=770, not divisible by 4; add it to keep_dense"),
        (nn.Conv2d(3, 8, 4), r"fc has input channels per group=3, not divisible by 4"),
        (nn.Conv2d(8, 8, 3, groups=8), r"fc has input channels per group=1, not divisible by 4"),
        (nn.LayerNorm(8), "Linear or Conv2d"),
    ],
)
def test_layer_that_cannot_be_pruned_is_refused_by_name(layer: nn.Module, message: str) -> None:
    with pytest.raises(PatternError, match=message):
        check_divisible("fc", layer)


@pytest.mark.parametrize("layer", [nn.Linear(768, 3), nn.Conv2d(4, 3, 3), nn.Conv2d(8, 8, 3, groups=2)])
def test_layer_that_can_be_pruned_is_let_through(layer: nn.Module) -> None:
    check_divisible("fc", layer)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_value_that_is_not_finite_is_named_with_its_index(bad: float) -> None:
    tensors = {"good": torch.ones(3), "count": torch.tensor(7), "bad": torch.zeros(2, 3)}
    check_finite(tensors)
    tensors["bad"][1, 2] = bad
    with pytest.raises(NonFiniteError, match=r"bad holds .* at index \[1, 2\]"):
        check_finite(tensors)


def test_large_finite_values_are_no_error() -> None:
    check_finite({"large": torch.full((4,), 3e38), "half": torch.full((9,), 60000.0, dtype=torch.float16)})


def test_plain_tensors_share_no_memory() -> None:
    net = nn.ModuleDict({"first": nn.Linear(4, 4), "second": nn.Linear(4, 4)})
    net["second"].weight = net["first"].weight
    tensors = plain_tensors(net)
    assert set(tensors) == set(net.state_dict())
    assert len({t.data_ptr() for t in tensors.values()}) == len(tensors)
    tensors["first.weight"].zero_()
    assert bool(net["first"].weight.any())


def test_tensors_of_any_layout_come_out_contiguous() -> None:
    net = nn.Linear(4, 3)
    net.weight = nn.Parameter(torch.randn(4, 3).t())
    assert plain_tensors(net)["weight"].is_contiguous()
    assert torch.equal(plain_tensors(net)["weight"], net.weight)


def test_probe_leaves_training_flags_and_hooks_as_they_were() -> None:
    module = load_model("new:vit-test").module
    module.train()
    next(iter(module.children())).eval()
    flags = [m.training for m in module.modules()]
    probe(module, (3, 32, 32))
    assert [m.training for m in module.modules()] == flags
    assert not any(m._forward_hooks for m in module.modules())


# ---- shared weights ----


def test_layers_that_share_a_weight_are_listed_each() -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8))
    net[2].weight = net[0].weight
    assert [layer.name for layer in gemm_layers(net, {})] == ["0", "2"]


def test_a_layer_in_two_places_is_refused_with_what_to_write_instead() -> None:
    layer = nn.Linear(8, 8)
    block = nn.Sequential(nn.Linear(8, 8), nn.GELU())
    for net, first, second in (
        (nn.Sequential(layer, nn.GELU(), layer), "0", "2"),
        (nn.Sequential(block, block), "0.0", "1.0"),
    ):
        with pytest.raises(UnsupportedModelError, match=rf"{first} and {second} are the same module.*of its own"):
            gemm_layers(net, {})
    assert len(gemm_layers(nn.Sequential(nn.GELU(), layer, nn.GELU()), {})) == 1
