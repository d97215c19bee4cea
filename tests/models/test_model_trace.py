"""The workload of a forward pass: known totals, names of modules, no work counted twice."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from gpusq.errors import UnsupportedModelError
from gpusq.models import LoadedModel, canonicalise, gemm_layers, load_model, trace_workload, unreached_attention
from gpusq.workload import Op, coverage
from tests.models.model_samples import images


def ops_of(module: nn.Module, *shape: int) -> list[Op]:
    return list(trace_workload(module, shape).ops)  # type: ignore[arg-type]


class Functional(nn.Module):
    """Computes with a function of its first operand and a parameter."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8, 8))
        self.register_buffer("table", torch.ones(8, 8))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self)  # type: ignore[operator,no-any-return]


def test_macs_equal_those_that_torch_counts(loaded: LoadedModel) -> None:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        loaded.module(images(loaded, 1))
    assert trace_workload(loaded.module, loaded.description.input_shape).macs == counter.get_total_flops() // 2


def test_names_join_with_the_layers_and_cover_everything(loaded: LoadedModel) -> None:
    workload = trace_workload(loaded.module, loaded.description.input_shape)
    layers = gemm_layers(loaded.module, loaded.keep_dense)
    assert {op.name for op in workload.ops if op.kind == "gemm"} == {layer.name for layer in layers}
    assert workload.parameters == sum(p.numel() for p in loaded.module.parameters())
    shares = coverage(workload, tuple(layer.pruned() for layer in layers))
    attention = sum(op.macs for op in workload.ops if op.kind == "bmm") / workload.macs
    assert shares.sparse == pytest.approx(1 - attention)
    assert attention > 0


def test_each_attention_product_belongs_to_a_module_with_points(loaded: LoadedModel) -> None:
    workload = trace_workload(loaded.module, loaded.description.input_shape)
    products = [op for op in workload.ops if op.kind == "bmm"]
    assert len(products) == 2 * len(loaded.blocks)
    assert unreached_attention(loaded.module, workload) == ()


def test_block_of_a_vit_moves_what_it_should() -> None:
    loaded = load_model("new:vit-test")
    workload = trace_workload(loaded.module, (3, 32, 32))
    block = [op for op in workload.ops if op.name.startswith("model.vit.layers.1") and op.kind == "memory"]
    tokens, hidden = 17, 32
    moved = {(op.name.rpartition("/")[2], op.write) for op in block}
    assert ("native_layer_norm", tokens * hidden) in moved
    assert ("_softmax", 2 * tokens * tokens) in moved
    assert ("gelu", tokens * 4 * hidden) in moved
    adds = [op for op in block if op.name == "model.vit.layers.1/add"]
    assert [(op.read, op.write) for op in adds] == [(2 * tokens * hidden, tokens * hidden)] * 2
    assert not [op for op in block if "view" in op.name or "transpose" in op.name]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "gmacs"), [("vit-base", 17.58), ("deit-small", 4.61), ("deit-tiny", 1.26), ("swin-tiny", 4.5)]
)
def test_known_totals_at_224(name: str, gmacs: float) -> None:
    loaded = load_model(f"new:{name}")
    assert trace_workload(loaded.module, (3, 224, 224)).macs / 1e9 == pytest.approx(gmacs, rel=0.01)


def test_convolution_is_counted_as_its_gemm() -> None:
    net = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=2))
    (op,) = ops_of(net, 8, 10, 10)
    assert (op.name, op.kind, op.m, op.n, op.k, op.count) == ("0", "gemm", 25, 8, 36, 2)
    assert (op.read, op.write) == (800, 400)


def test_layer_called_twice_is_two_operators() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.fc(x))

    assert [op.name for op in ops_of(Twice(), 1, 4, 8)] == ["fc", "fc"]


@pytest.mark.parametrize(
    "product", [torch.matmul, lambda x, w: F.linear(x, w), lambda x, w: torch.addmm(x[0, 0], x[0, 0], w)]
)
def test_product_with_a_bare_parameter_is_a_gemm_and_not_a_bmm(product: object) -> None:
    (op,) = [op for op in ops_of(Functional(lambda x, s: product(x, s.weight)), 1, 4, 8) if op.macs]  # type: ignore[operator]
    assert (op.kind, op.m, op.n, op.k) == ("gemm", 4, 8, 8)


def test_product_of_two_activations_is_a_bmm() -> None:
    (op,) = [op for op in ops_of(Functional(lambda x, s: x @ x.transpose(-2, -1)), 2, 4, 8) if op.macs]
    assert (op.kind, op.m, op.n, op.k, op.count) == ("bmm", 4, 4, 8, 2)


def test_fused_attention_is_two_products_and_a_softmax() -> None:
    net = Functional(lambda x, s: F.scaled_dot_product_attention(x, x, x))
    workload = trace_workload(net, (2, 4, 8))
    assert [(op.kind, op.m, op.n, op.k, op.count) for op in workload.ops if op.kind == "bmm"] == [
        ("bmm", 4, 4, 8, 2),
        ("bmm", 4, 8, 4, 2),
    ]
    assert [op.write for op in workload.ops if "softmax" in op.name] == [32]
    assert unreached_attention(net, workload) == ("",)


def test_what_does_not_depend_on_the_image_is_free() -> None:
    assert ops_of(Functional(lambda x, s: s.weight @ s.table + torch.arange(8.0)), 1, 8, 8) == []
    (op,) = ops_of(Functional(lambda x, s: x + (s.weight @ s.table)), 1, 8, 8)
    assert (op.name, op.read, op.write) == ("/add", 128, 64)


def test_views_are_free_and_writes_in_place_are_not() -> None:
    assert ops_of(Functional(lambda x, s: x.flatten(0, 1).transpose(1, 2).unsqueeze(0)[..., :3]), 1, 8, 8) == []
    (op,) = ops_of(Functional(lambda x, s: F.relu(x, inplace=True)), 1, 8, 8)
    assert (op.kind, op.write) == ("memory", 64)


def test_unpacked_attention_is_reached() -> None:
    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = x.flatten(1, 2)
            return self.attention(x, x, x, need_weights=False)[0]

    net = canonicalise(Attend().eval())
    workload = trace_workload(net, (2, 2, 8))
    gemms = [op.name for op in workload.ops if op.kind == "gemm"]
    assert gemms == [f"attention.{p}_proj" for p in ("q", "k", "v", "out")]
    assert unreached_attention(net, workload) == ()


def test_tracing_leaves_no_hooks_and_no_gradients() -> None:
    module = load_model("new:vit-test").module
    trace_workload(module, (3, 32, 32))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
    assert all(p.grad is None for p in module.parameters())


def test_model_that_fails_on_its_input_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="shape"):
        trace_workload(nn.Linear(8, 8), (1, 4, 9))


def test_a_shared_weight_is_a_parameter_of_each_layer() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 12), nn.GELU(), nn.Linear(12, 12))
    net[3].weight = net[1].weight
    workload = trace_workload(net, (3, 2, 2))
    assert workload.parameters == 2 * (12 * 12 + 12)
    assert workload.parameters - sum(layer.weights for layer in gemm_layers(net, {})) == 2 * 12
