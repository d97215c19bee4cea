"""Size and work by formula: the paper's ratios are exact where they must be."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpusq.errors import PatternError, UnsupportedModelError
from gpusq.reports.numbers import bits_per_group, compute_of, coverage_of, size_of, stored_bits
from gpusq.workload import Layer, Op, Workload, coverage
from tests.reports.sample import detector, vit_layers, vit_workload

dims = st.integers(1, 512)
layers_strategy = st.lists(st.tuples(dims, dims), min_size=1, max_size=6)


def model(shapes: list[tuple[int, int]], sparse: bool, int8: bool, rest: int = 0) -> tuple[Workload, tuple[Layer, ...]]:
    """Linear layers [out, 8 k] on 5 tokens; `rest` parameters in no layer."""
    layers, ops = [], []
    for i, (out, k) in enumerate(shapes):
        layer = Layer(f"l{i}", "linear", out, 8 * k)
        layer = layer.pruned() if sparse else layer
        layers.append(layer.quantized() if int8 else layer)
        ops.append(Op(f"l{i}", "gemm", 5, out, 8 * k))
    parameters = sum(layer.weights for layer in layers) + rest
    return Workload((3, 8, 8), tuple(ops), parameters), tuple(layers)


@given(layers_strategy)
def test_all_int8_sparse_is_exactly_the_papers_ratio(shapes: list[tuple[int, int]]) -> None:
    workload, layers = model(shapes, sparse=True, int8=True)
    size = size_of(workload, layers)
    assert size.ratio == 6.4
    assert size.bytes == workload.parameters * 5 // 8
    work = compute_of(workload, layers)
    assert work.macs * 2 == work.macs_dense
    assert work.bops_dense_fp32 == 32 * work.bops
    assert work.paper_flops_ratio == pytest.approx(32)


@given(layers_strategy)
def test_all_int4_sparse_in_pairs(shapes: list[tuple[int, int]]) -> None:
    workload, layers = model(shapes, sparse=True, int8=True)
    assert size_of(workload, layers, int_bits=4).ratio == 12.8
    work = compute_of(workload, layers, int_bits=4)
    assert work.bops_dense_fp32 == 128 * work.bops
    assert work.paper_flops_ratio == pytest.approx(64)


@given(layers_strategy, st.integers(0, 10_000))
def test_dense_fp32_is_the_reference(shapes: list[tuple[int, int]], rest: int) -> None:
    workload, layers = model(shapes, sparse=False, int8=False, rest=rest)
    size, work = size_of(workload, layers, "fp32"), compute_of(workload, layers, "fp32")
    assert (size.ratio, size.bytes) == (1.0, size.bytes_dense_fp32)
    assert (work.macs, work.bops, work.paper_flops_ratio) == (work.macs_dense, work.bops_dense_fp32, 1.0)


@given(layers_strategy, st.integers(1, 10_000))
def test_a_dense_remainder_only_costs(shapes: list[tuple[int, int]], rest: int) -> None:
    workload, layers = model(shapes, sparse=True, int8=True, rest=rest)
    assert 2 < size_of(workload, layers, "fp16").ratio < 6.4
    assert size_of(workload, layers, "fp32").ratio < size_of(workload, layers, "fp16").ratio


@pytest.mark.parametrize(("bits", "saving"), [(16, 0.4375), (8, 0.375), (4, 0.375)])
def test_saving_includes_the_index(bits: int, saving: float) -> None:
    group, stored = bits_per_group(bits, sparse=True)
    assert 1 - stored / (group * bits) == saving
    assert bits_per_group(bits, sparse=False) == (1, bits)


def test_sparse_needs_whole_groups() -> None:
    layer = Layer("fc", "linear", 8, 6).pruned()
    with pytest.raises(PatternError, match=r"fc .*k=6"):
        stored_bits(layer)
    assert stored_bits(Layer("fc", "linear", 8, 6)) == 48 * 16


def test_more_weights_than_parameters_is_refused() -> None:
    workload, layers = model([(4, 4)], sparse=False, int8=False, rest=-1)
    with pytest.raises(UnsupportedModelError, match="more weights"):
        size_of(workload, layers)


def test_attention_products_count_in_macs_but_not_in_the_papers_convention() -> None:
    workload, layers = model([(8, 4)], sparse=True, int8=True)
    attention = Op("qk", "bmm", 5, 5, 8)
    more = Workload(workload.input_shape, (*workload.ops, attention), workload.parameters)
    work = compute_of(more, layers)
    assert work.macs == compute_of(workload, layers).macs + attention.macs
    assert work.paper_flops_ratio == compute_of(workload, layers).paper_flops_ratio
    assert work.bops - compute_of(workload, layers).bops == attention.macs * 16 * 16


def test_an_empty_model_has_no_ratio_to_win() -> None:
    empty = Workload((3, 8, 8), (), 0)
    assert size_of(empty, ()).ratio == 1
    assert compute_of(empty, ()).paper_flops_ratio == 1


def test_a_small_vit_comes_near_the_papers_figures() -> None:
    workload, layers = vit_workload(), vit_layers(sparse=True, int8=True)
    assert size_of(workload, layers).ratio == pytest.approx(6.08, abs=0.01)
    assert compute_of(workload, layers).paper_flops_ratio == pytest.approx(32, abs=0.1)


def test_coverage_is_that_of_the_workload() -> None:
    workload, layers = vit_workload(), vit_layers(sparse=True, int8=False)
    found = coverage_of(workload, layers)
    assert found.int8 == 0
    assert found.sparse + sum(gap.share for gap in found.dense) == pytest.approx(1)
    assert {gap.name for gap in found.dense} == {"classifier", "attention products"}


widths = st.lists(st.integers(1, 64).map(lambda w: 8 * w), min_size=1, max_size=3).map(tuple)


@given(widths, st.booleans(), st.booleans(), st.booleans())
def test_the_transformer_part_is_a_part(convolutions: tuple[int, ...], sparse: bool, int8: bool, covered: bool) -> None:
    found = coverage_of(*detector(sparse, int8, convolutions, covered))
    part = found.transformer
    assert part is not None
    assert 0 < part.share < 1
    for inside, whole in ((part.sparse, found.sparse), (part.int8, found.int8)):
        assert 0 <= inside <= 1
        assert covered or inside >= whole
        assert inside * part.share <= whole + 1e-9


def test_the_transformer_part_is_as_covered_as_the_transformer_alone() -> None:
    workload, layers = detector(sparse=True, int8=True)
    alone = coverage(vit_workload(), vit_layers(sparse=True, int8=True))
    part = coverage_of(workload, layers).transformer
    assert part is not None
    assert (part.sparse, part.int8) == pytest.approx((alone.sparse, alone.int8))
    assert part.share == pytest.approx(vit_workload().macs / workload.macs)
    assert 0.9 < part.sparse < 1  # attention products are part of it


def test_without_convolutions_there_is_no_part_to_tell() -> None:
    assert coverage_of(vit_workload(), vit_layers(sparse=True, int8=True)).transformer is None
    assert coverage_of(Workload((3, 8, 8), (), 0), ()).transformer is None


def test_a_convolution_that_tiles_the_image_is_the_patch_embedding() -> None:
    first, *rest = vit_layers(sparse=True, int8=True)
    tiles = (replace(first, kind="conv"), *rest)
    assert coverage_of(vit_workload(), tiles).transformer is None
    behind, layers = detector(sparse=True, int8=True)
    inner = tuple(replace(x, kind="conv") if x.name == first.name else x for x in layers)
    part, plain = coverage_of(behind, inner).transformer, coverage_of(behind, layers).transformer
    assert part is not None
    assert plain is not None
    assert part.share < plain.share  # not the first layer: it takes features, not the image


def test_a_convolutional_classifier_has_no_transformer() -> None:
    ops = (Op("conv", "gemm", 64, 16, 27), Op("fc", "gemm", 1, 10, 16))
    layers = (Layer("conv", "conv", 16, 27), Layer("fc", "linear", 10, 16).pruned())
    assert coverage_of(Workload((3, 8, 8), ops, 592), layers).transformer is None
