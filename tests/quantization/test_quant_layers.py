"""Quantizers inside a module, and calibration."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gpusq.errors import EmptyDataError, NonFiniteError, UnsupportedModelError
from gpusq.models import LoadedModel, attention_modules, gemm_layers, load_model
from gpusq.quantization import (
    SMALLEST_SCALE,
    FakeQuantizer,
    QuantConv2d,
    QuantizerSpec,
    QuantLinear,
    calibrate,
    insert,
    load_scales,
    place,
    quantizers,
    scales,
    seal_scales,
    set_mode,
    shared_inputs,
)
from gpusq.quantization.quantizer import LARGEST_SCALE


@pytest.fixture(scope="module", params=["vit", "deit", "swin", "dinov2"])
def dense(request: pytest.FixtureRequest) -> LoadedModel:
    """A model nobody changes."""
    return load_model(f"new:{request.param}-test", seed=2)


def quantized(dense: LoadedModel, policy: str = "sparse-epilogue+attention") -> nn.Module:
    module = copy.deepcopy(dense.module)
    layers = tuple(x.pruned() for x in gemm_layers(module, dense.keep_dense))
    names = [x.name for x in layers if x.name not in dense.keep_dense]
    same = shared_inputs(module, names, torch.zeros(1, *dense.description.input_shape))
    insert(module, place(policy, layers, attention_modules(module), tuple(dense.keep_dense), same_input=same))
    return module


def images_for(dense: LoadedModel, seed: int = 0, count: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *dense.description.input_shape, generator=generator)


class Tiny(nn.Module):
    """A convolution and two Linears."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 2, stride=2)
        self.first = nn.Linear(8, 8)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.first(self.conv(x).flatten(2).mean(dim=2)).relu())
        return out


def tiny(*roles: QuantizerSpec) -> Tiny:
    module = Tiny()
    default = [
        QuantizerSpec(n, r, 0 if r == "weight" else None) for n in ("conv", "first") for r in ("weight", "input")
    ]
    insert(module, roles or default)  # type: ignore[arg-type]
    return module


def test_parameter_names_and_values_stay(dense: LoadedModel) -> None:
    before, after = dense.module.state_dict(), quantized(dense).state_dict()
    added = set(after) - set(before)
    assert set(before) <= set(after)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert added
    assert all(name.endswith(("quantizer.scale", "quantizer.log_gain")) for name in added)


def test_in_mode_off_the_model_is_the_dense_one(dense: LoadedModel) -> None:
    module, x = quantized(dense), images_for(dense)
    set_mode(module, "off")
    with torch.no_grad():
        assert torch.equal(module(x), dense.module(x))


def test_calibrated_model_stays_close_and_is_not_the_dense_one(dense: LoadedModel) -> None:
    module, x = quantized(dense, "inputs"), images_for(dense)
    calibrate(module, [x], "max")
    with torch.no_grad():
        mine, theirs = module(x), dense.module(x)
    assert not torch.equal(mine, theirs)
    assert float((mine - theirs).abs().max()) < 0.1 * float(theirs.abs().max())


def test_q_k_and_v_share_one_input_quantizer(dense: LoadedModel) -> None:
    module = quantized(dense)
    for name in attention_modules(module):
        attention = module.get_submodule(name)
        q, k, v = (attention.get_submodule(f"{part}_proj") for part in "qkv")
        assert q.input_quantizer is k.input_quantizer is v.input_quantizer
        assert len({id(x.weight_quantizer) for x in (q, k, v)}) == 3
        assert attention.get_submodule("quant_points.q").filled
    names = [n for n, _ in quantizers(module)]
    assert len(names) == len(set(names))
    assert not any(n.endswith("k_proj.input_quantizer") for n in names)


def test_scales_round_trip(dense: LoadedModel) -> None:
    module, x = quantized(dense), images_for(dense)
    calibrate(module, [x], "mse")
    seal_scales(module)
    kept, twin = scales(module), quantized(dense)
    load_scales(twin, kept)
    assert kept.keys() == scales(twin).keys()
    with torch.no_grad():
        assert torch.equal(twin(x), module(x))


def test_scales_of_other_quantizers_are_refused() -> None:
    kept = scales(tiny())
    with pytest.raises(UnsupportedModelError, match="match the quantizers"):
        load_scales(tiny(QuantizerSpec("first", "input")), kept)
    kept["first.weight_quantizer"] = torch.ones(5)
    with pytest.raises(UnsupportedModelError, match=r"first\.weight_quantizer"):
        load_scales(tiny(), kept)


@settings(max_examples=80, deadline=None)
@given(st.floats(0, 2.0**99, width=32), st.floats(-9, 9))
def test_sealed_scales_are_normal_fp16_numbers(amax: float, gain: float) -> None:
    quantizer = FakeQuantizer(None, None)
    quantizer.set_range(torch.tensor(amax))
    with torch.no_grad():
        quantizer.log_gain.fill_(gain)
    expected = min(max(float(quantizer.scale * quantizer.log_gain.exp()), SMALLEST_SCALE), LARGEST_SCALE)
    quantizer.seal()
    assert torch.equal(quantizer.scale.half().float(), quantizer.scale)
    assert SMALLEST_SCALE <= float(quantizer.scale) <= LARGEST_SCALE
    assert float(quantizer.scale) == pytest.approx(expected, rel=2**-11)
    assert float(quantizer.log_gain) == 0.0


def test_sealing_leaves_no_mode_but_quantize(dense: LoadedModel) -> None:
    module, x = quantized(dense), images_for(dense)
    calibrate(module, [x], "max")
    set_mode(module, "learn")
    module(x).square().sum().backward()
    with torch.no_grad():
        for _, quantizer in quantizers(module):
            assert quantizer.log_gain.grad is not None
            quantizer.log_gain.add_(0.01)
    seal_scales(module)
    assert {q.mode for _, q in quantizers(module)} == {"quantize"}
    assert all(not q.log_gain.requires_grad and not q.log_gain.any() for _, q in quantizers(module))
    assert all(torch.equal(s.half().float(), s) and bool((s >= SMALLEST_SCALE).all()) for s in scales(module).values())


def test_learn_and_quantize_compute_the_same_numbers(dense: LoadedModel) -> None:
    module, x = quantized(dense), images_for(dense)
    calibrate(module, [x], "max")
    with torch.no_grad():
        expected = module(x)
    set_mode(module, "learn")
    assert torch.equal(module(x).detach(), expected)


def test_a_scale_that_is_not_finite_is_refused() -> None:
    quantizer = FakeQuantizer(None, None)
    with pytest.raises(NonFiniteError, match="finite"):
        quantizer.set_range(torch.tensor(float("inf")))
    with torch.no_grad():
        quantizer.log_gain.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="finite"):
        quantizer.seal()


def test_convolutions_and_outputs_are_quantized() -> None:
    module = tiny(QuantizerSpec("conv", "weight", 0), QuantizerSpec("conv", "output"))
    x = torch.randn(3, 4, 6, 6)
    assert isinstance(module.conv, QuantConv2d)
    assert type(module.first) is nn.Linear
    calibrate(module, [x], "max")
    out = module.conv(x)
    step = module.conv.output_quantizer.scale
    assert module.conv.weight_quantizer.scale.shape == (8,)
    torch.testing.assert_close(out / step, (out / step).round())
    plain = nn.functional.conv2d(x, module.conv.weight, module.conv.bias, stride=2)
    assert float((out - plain).detach().abs().max()) < 0.1


def test_other_layers_are_refused() -> None:
    class Own(nn.Linear):
        """A Linear with a forward of its own."""

    for layer in (nn.LayerNorm(8), nn.Embedding(8, 8), Own(8, 8), nn.ConvTranspose2d(4, 4, 2)):
        module = nn.Sequential(layer)
        with pytest.raises(UnsupportedModelError, match="0 must be a plain"):
            insert(module, [QuantizerSpec("0", "weight", 0)])


def test_attention_points_must_be_points() -> None:
    module = nn.Module()
    module.quant_points = nn.ModuleDict({"q": nn.Identity()})
    outer = nn.Sequential(module, nn.Linear(2, 2))
    with pytest.raises(UnsupportedModelError, match="no attention point q"):
        insert(outer, [QuantizerSpec("0", "q")])


def test_ranges_of_weights_are_per_output_channel() -> None:
    module = tiny()
    with torch.no_grad():
        module.first.weight[2] = 0.0
    calibrate(module, [torch.randn(2, 4, 6, 6)], "max")
    found = module.first.weight_quantizer.scale
    largest = module.first.weight.detach().abs().amax(dim=1) / 127
    assert isinstance(module.first, QuantLinear)
    assert float(found[2]) == SMALLEST_SCALE
    torch.testing.assert_close(found, largest.clamp(min=SMALLEST_SCALE), rtol=2**-11, atol=0)
    assert not module.first.weight_quantizer(module.first.weight)[2].any()


@pytest.mark.parametrize("calibrator", ["max", "percentile", "mse"])
def test_batches_can_be_cut_in_any_way(calibrator: Any) -> None:
    torch.manual_seed(1)
    module, x = tiny(), torch.randn(8, 4, 6, 6)
    calibrate(module, [x], calibrator)
    whole = scales(module)
    calibrate(module, list(x.split(3)), calibrator)
    for name, scale in scales(module).items():
        torch.testing.assert_close(scale, whole[name], rtol=0.02, atol=0)


def test_max_is_the_widest_range_for_every_activation(dense: LoadedModel) -> None:
    module, x, found = quantized(dense), images_for(dense, count=16), {}
    for calibrator in ("max", "percentile", "mse"):
        calibrate(module, [x], calibrator)  # type: ignore[arg-type]
        found[calibrator] = scales(module)
    for name, widest in found["max"].items():
        for other in ("percentile", "mse"):
            assert bool((found[other][name] <= widest * (1 + 2**-10)).all()), name
    assert any(bool((found["mse"][n] < s).any()) for n, s in found["max"].items())


def test_calibration_leaves_no_observer_and_mode_quantize(dense: LoadedModel) -> None:
    module = quantized(dense)
    calibrate(module, [images_for(dense)], "percentile")
    assert all(q.mode == "quantize" and q.observer is None for _, q in quantizers(module))


def test_calibration_sees_float_activations() -> None:
    """Ranges come from the model in floating point: an earlier calibration changes nothing."""
    torch.manual_seed(2)
    module, x = tiny(), torch.randn(8, 4, 6, 6)
    calibrate(module, [x], "mse")
    first = scales(module)
    calibrate(module, [x * 1e-3], "max")
    calibrate(module, [x], "mse")
    assert all(torch.equal(scale, first[name]) for name, scale in scales(module).items())


def test_a_nan_activation_names_its_quantizer() -> None:
    module, x = tiny(), torch.randn(2, 4, 6, 6)
    x[1, 2, 3, 3] = float("nan")
    with pytest.raises(NonFiniteError, match=r"conv\.input_quantizer"):
        calibrate(module, [x], "mse")
    with torch.no_grad():
        module.conv.bias.fill_(float("inf"))  # type: ignore[union-attr]
    with pytest.raises(NonFiniteError, match=r"first\.input_quantizer"):
        calibrate(module, [torch.randn(2, 4, 6, 6)], "max")


def test_a_nan_weight_is_refused() -> None:
    module = tiny()
    with torch.no_grad():
        module.first.weight[0, 0] = float("nan")
    with pytest.raises(NonFiniteError):
        calibrate(module, [torch.randn(2, 4, 6, 6)], "max")


def test_no_images_are_refused() -> None:
    def nothing() -> Iterator[Tensor]:
        yield from ()

    with pytest.raises(EmptyDataError, match="at least one image"):
        calibrate(tiny(), nothing(), "max")


def test_images_of_zeros_give_the_smallest_scale() -> None:
    module = tiny()
    calibrate(module, [torch.zeros(2, 4, 6, 6)], "mse")
    assert float(module.conv.input_quantizer.scale) == SMALLEST_SCALE
    assert bool(torch.isfinite(module(torch.zeros(2, 4, 6, 6))).all())


def test_a_shared_input_quantizer_does_not_depend_on_the_order_of_definition() -> None:
    class Late(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value, self.key, self.query = (torch.nn.Linear(8, 8) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.query(x) + self.key(x) + self.value(x)

    module = Late()
    specs = [
        spec
        for name, leader in (("value", "query"), ("key", "query"), ("query", None))
        for spec in (QuantizerSpec(name, "weight", 0), QuantizerSpec(name, "input", None, 8, leader))
    ]
    insert(module, specs)
    assert isinstance(module.query.input_quantizer, FakeQuantizer)
    assert module.value.input_quantizer is module.query.input_quantizer is module.key.input_quantizer
