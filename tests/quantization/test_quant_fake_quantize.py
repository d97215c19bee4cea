"""Fake quantization: its algebra, its equality with ONNX, its gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gpusq.quantization import PER_TENSOR, SMALLEST_SCALE, FakeQuantizer, fake_quantize
from gpusq.quantization.fake_quantize import LearnedQuantize, spread

LO, HI = -128, 127
seeds = st.integers(0, 2**31)
powers = st.floats(-12, 6)


def draw(seed: int, *shape: int, spread_of: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * spread_of


def reference(x: np.ndarray[Any, Any], scale: np.ndarray[Any, Any], lo: int, hi: int) -> np.ndarray[Any, Any]:
    """What the operator promises, in NumPy float32; np.rint rounds half to even."""
    return (np.clip(np.rint(x / scale), lo, hi) * scale).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(seeds, powers, st.sampled_from([(-128, 127), (-127, 127), (-8, 7)]))
def test_same_numbers_as_the_reference(seed: int, power: float, bounds: tuple[int, int]) -> None:
    x, scale = draw(seed, 7, 9, spread_of=40 * 2.0**power), torch.tensor(2.0**power)
    expected = reference(x.numpy(), scale.numpy(), *bounds)
    assert np.array_equal(fake_quantize(x, scale, PER_TENSOR, *bounds).numpy(), expected)


@settings(max_examples=60, deadline=None)
@given(seeds, powers)
def test_idempotent_on_sealed_scales(seed: int, power: float) -> None:
    x = draw(seed, 5, 8, spread_of=60 * 2.0**power)
    quantizer = FakeQuantizer(None, None)
    quantizer.set_range(torch.tensor(127 * 2.0**power))
    once = fake_quantize(x, quantizer.scale, PER_TENSOR, LO, HI)
    assert torch.equal(fake_quantize(once, quantizer.scale, PER_TENSOR, LO, HI), once)


@settings(max_examples=60, deadline=None)
@given(seeds, st.floats(1e-4, 1e3))
def test_error_is_at_most_half_a_step_inside_the_range(seed: int, scale: float) -> None:
    x = (torch.rand(64, generator=torch.Generator().manual_seed(seed)) * 255 - 128) * scale
    error = (x - fake_quantize(x, torch.tensor(scale), PER_TENSOR, LO, HI)).abs()
    assert float(error.max()) <= scale * 0.5 * (1 + 1e-4)


@settings(max_examples=30, deadline=None)
@given(seeds, st.floats(1e-4, 1e3))
def test_outside_the_range_it_saturates(seed: int, scale: float) -> None:
    x = draw(seed, 64).sign() * scale * 500
    out = fake_quantize(x, torch.tensor(scale), PER_TENSOR, LO, HI)
    assert torch.equal(out, torch.where(x > 0, HI, LO) * torch.tensor(scale))


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_zeros_stay_zeros(seed: int) -> None:
    x = draw(seed, 6, 16)
    zeros = draw(seed + 1, 6, 16) > 0
    out = fake_quantize(x.masked_fill(zeros, 0.0), torch.rand(6) + 1e-3, 0, -127, 127)
    assert int((out[zeros] != 0).sum()) == 0


def test_ties_go_to_even() -> None:
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, -2.5])
    assert fake_quantize(x, torch.tensor(1.0), PER_TENSOR, LO, HI).tolist() == [0, 2, 2, 0, -2, -2]


@pytest.mark.parametrize("axis", [0, 1, 2, -2])
def test_each_channel_has_its_own_scale(axis: int) -> None:
    x = draw(3, 4, 5, 6)
    scale = torch.rand(x.shape[axis]) + 0.01
    out = fake_quantize(x, scale, axis, LO, HI)
    for channel, (part, s) in enumerate(zip(x.unbind(axis), scale, strict=True)):
        assert torch.equal(out.select(axis, channel), fake_quantize(part, s, PER_TENSOR, LO, HI))


def qdq_session(axis: int | None) -> Any:
    """A session of QuantizeLinear then DequantizeLinear with inputs x, scale and INT8 zero points."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    shape = [] if axis is None else ["channels"]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", "columns"]),
        helper.make_tensor_value_info("scale", TensorProto.FLOAT, shape),
        helper.make_tensor_value_info("zero", TensorProto.INT8, shape),
    ]
    extra = {} if axis is None else {"axis": axis}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], **extra),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], **extra),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", "columns"])]
    graph = helper.make_graph(nodes, "qdq", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_equals_quantize_and_dequantize_of_onnxruntime(axis: int | None) -> None:
    session = qdq_session(axis)
    for seed in range(30):
        x = draw(seed, 12, 33, spread_of=5.0)
        x[0, :8] = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 127.5, -128.5, 1e6])
        scale = torch.tensor(1.0) if axis is None else (torch.rand(x.shape[axis]) * 0.1 + 1e-3).half().float()
        zero = np.zeros(tuple(scale.shape), dtype=np.int8)
        (expected,) = session.run(None, {"x": x.numpy(), "scale": scale.numpy(), "zero": zero})
        ours = fake_quantize(x, scale, PER_TENSOR if axis is None else axis, LO, HI)
        assert np.array_equal(ours.numpy(), expected)


def test_straight_through_inside_and_nothing_outside() -> None:
    x = torch.tensor([-200.0, -128.4, -3.3, 0.0, 5.0, 127.4, 130.0], requires_grad=True)
    fake_quantize(x, torch.tensor(1.0), PER_TENSOR, LO, HI).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 1, 0]


def test_operator_passes_torchs_own_checks() -> None:
    x = draw(0, 3, 4).requires_grad_()
    torch.library.opcheck(
        fake_quantize,
        (x, torch.tensor(0.1), PER_TENSOR, LO, HI),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )


def learned(x: Tensor, scale: Tensor, axis: int, gradient_scale: float = 1.0, lo: int = LO, hi: int = HI) -> Tensor:
    out: Tensor = LearnedQuantize.apply(x, scale, axis, lo, hi, gradient_scale)  # type: ignore[no-untyped-call]
    return out


def reference_gradients(x: Tensor, s: Tensor, grad: Tensor, lo: int, hi: int) -> tuple[Tensor, Tensor]:
    """LSQ as its paper writes it, value by value: (gradient of x, gradient of s before the sum)."""
    ratio = x / s
    rounded = ratio.round()
    inside = (rounded >= lo) & (rounded <= hi)
    of_scale = torch.where(inside, rounded - ratio, rounded.clamp(lo, hi))
    return grad * inside, grad * of_scale


@pytest.mark.parametrize("axis", [PER_TENSOR, 0, 1])
def test_learned_scale_gradient_is_that_of_the_paper(axis: int) -> None:
    x = draw(1, 6, 7, spread_of=60.0).requires_grad_()
    scale = torch.tensor(0.7) if axis == PER_TENSOR else torch.rand(x.shape[axis]) + 0.3
    scale.requires_grad_()
    grad = draw(2, 6, 7)
    out = learned(x, scale, axis, 0.25)
    out.backward(grad)
    of_x, of_s = reference_gradients(x.detach(), spread(scale.detach(), axis, 2), grad, LO, HI)
    summed = of_s.sum() if axis == PER_TENSOR else of_s.sum(dim=1 - axis)
    assert torch.equal(out.detach(), fake_quantize(x.detach(), scale.detach(), axis, LO, HI))
    assert x.grad is not None
    assert scale.grad is not None
    assert scale.grad.shape == scale.shape
    torch.testing.assert_close(x.grad, of_x)
    torch.testing.assert_close(scale.grad, summed * 0.25, rtol=1e-4, atol=1e-4)


def test_learned_gradients_are_those_of_the_surrogate_by_finite_differences() -> None:
    """The surrogate holds each rounding error r = round(x/s) - x/s fixed: s * clamp(x/s + r) with r frozen."""
    x, s, grad = draw(4, 50, spread_of=80.0).double(), 0.9, draw(5, 50).double()
    error = (x / s).round() - x / s

    def surrogate(values: Tensor, scale: float) -> Tensor:
        return (grad * scale * (x_over(values, scale) + error).clamp(LO, HI)).sum()

    def x_over(values: Tensor, scale: float) -> Tensor:
        return values / scale

    step = 1e-6
    by_scale = (surrogate(x, s + step) - surrogate(x, s - step)) / (2 * step)
    scale, values = torch.tensor(s, dtype=torch.float64, requires_grad=True), x.clone().requires_grad_()
    learned(values, scale, PER_TENSOR).backward(grad)
    assert scale.grad is not None
    torch.testing.assert_close(scale.grad, by_scale, rtol=1e-5, atol=1e-5)
    bumped = torch.zeros_like(x)
    bumped[3] = step
    by_value = (surrogate(x + bumped, s) - surrogate(x - bumped, s)) / (2 * step)
    assert values.grad is not None
    torch.testing.assert_close(values.grad[3], by_value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_scale_gradient_does_not_depend_on_how_a_batch_is_split(parts: int) -> None:
    x, grad = draw(6, 8, 5, 6), draw(7, 8, 5, 6)

    def gradient(values: Tensor, upstream: Tensor) -> Tensor:
        quantizer = FakeQuantizer(None, None)
        quantizer.set_range(torch.tensor(1.5))
        quantizer.mode = "learn"
        quantizer.log_gain.requires_grad_(True)
        (quantizer(values) * upstream).flatten(1).sum(dim=1).mean().backward()
        assert quantizer.log_gain.grad is not None
        return quantizer.log_gain.grad

    whole = gradient(x, grad)
    split = torch.stack([gradient(a, b) for a, b in zip(x.chunk(parts), grad.chunk(parts), strict=True)]).mean()
    torch.testing.assert_close(split, whole, rtol=1e-4, atol=1e-6)


def test_learning_changes_the_scale_towards_less_error() -> None:
    x = draw(8, 64, 32)
    quantizer = FakeQuantizer(None, None)
    quantizer.set_range(torch.tensor(40.0))
    quantizer.mode = "learn"
    quantizer.log_gain.requires_grad_(True)
    optimizer = torch.optim.Adam([quantizer.log_gain], lr=0.05)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (quantizer(x) - x).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]


def test_frozen_scale_takes_no_gradient_and_the_same_gradient_reaches_x() -> None:
    found = []
    for learn in (True, False):
        x = draw(9, 4, 8).requires_grad_()
        quantizer = FakeQuantizer(0, 4)
        quantizer.set_range(torch.ones(4))
        quantizer.mode = "learn"
        quantizer.log_gain.requires_grad_(learn)
        quantizer(x).sum().backward()
        assert (quantizer.log_gain.grad is not None) == learn
        found.append(x.grad)
    assert found[0] is not None
    assert found[1] is not None
    assert torch.equal(found[0], found[1])


@pytest.mark.parametrize("grad_mode", [True, False])
def test_eager_quantizer_gives_the_operators_bits(grad_mode: bool) -> None:
    x = draw(10, 9, 16, spread_of=3.0)
    quantizer = FakeQuantizer(0, 9)
    quantizer.set_range(x.abs().amax(dim=1))
    quantizer.mode = "quantize"
    with torch.set_grad_enabled(grad_mode):
        out = quantizer(x)
    assert torch.equal(out.detach(), fake_quantize(x, quantizer.scale, 0, -127, 127))


def test_smallest_scale_is_the_smallest_normal_fp16_number() -> None:
    assert torch.finfo(torch.float16).smallest_normal == SMALLEST_SCALE
