"""The predictor: order, bounds and refusals by property; published engines within the interval."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpusq.errors import UsageError
from gpusq.latency import Prediction, encoder_layers, encoder_workload, predict
from gpusq.targets import load_target, target_names
from gpusq.workload import Layer, Op, Workload

VIT_B = encoder_workload(12, 768, 12, 3072, 197, 768, 196)
NAMES = [name for name in target_names() if load_target(name).name == name]


def vit_b(target: str, batch: int, *, sparse: bool = False, int8: bool = False, base: str = "fp16") -> Prediction:
    layers = encoder_layers(VIT_B, sparse=sparse, int8=int8)
    return predict(VIT_B, layers, load_target(target), batch, base)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(NAMES), st.integers(1, 300), st.booleans(), st.booleans())
def test_interval_shares_and_sums(name: str, batch: int, sparse: bool, int8: bool) -> None:
    got = vit_b(name, batch, sparse=sparse, int8=int8)
    assert 0 < got.low_ms < got.latency_ms < got.high_ms
    assert math.isclose(sum(op.share for op in got.ops), 1.0, rel_tol=1e-9)
    start_us = load_target(name).engine.start_us
    assert math.isclose(sum(op.us for op in got.ops) + start_us, got.latency_ms * 1e3, rel_tol=1e-9)
    assert math.isclose(got.throughput_per_s * got.latency_ms, batch * 1e3)
    assert got.target == name
    assert all(op.low_us < op.us < op.high_us for op in got.ops)
    sparse_fp16_is_fitted = not name.startswith("h100") and name != "h200"
    assert got.scaled == (sparse and not int8 and not sparse_fp16_is_fitted)


@pytest.mark.parametrize("name", NAMES)
def test_a_larger_batch_takes_longer_and_costs_no_more_an_image_at_scale(name: str) -> None:
    times = [vit_b(name, batch).latency_ms for batch in range(1, 65)]
    assert times == sorted(times)
    assert times[63] / 64 < times[0]


def test_lower_power_modes_are_slower() -> None:
    times = [vit_b(f"agx-orin-64gb@{mode}", 8).latency_ms for mode in ("MAXN", "50W", "30W", "15W")]
    assert times == sorted(set(times))
    assert vit_b("agx-orin-32gb", 8).latency_ms > vit_b("agx-orin-64gb", 8).latency_ms > vit_b("a100", 8).latency_ms


@pytest.mark.parametrize("name", ["a100", "a100-80gb", "agx-orin", "agx-orin-32gb"])
def test_at_large_batch_compression_pays_but_less_than_the_peaks_say(name: str) -> None:
    dense = vit_b(name, 64).latency_ms
    int8 = vit_b(name, 64, int8=True).latency_ms
    both = vit_b(name, 64, int8=True, sparse=True).latency_ms
    assert both < int8 < dense
    assert dense / both < 4.0


def test_a_cpu_gains_from_int8_and_not_from_2_4() -> None:
    assert vit_b("cpu", 4, int8=True).latency_ms < vit_b("cpu", 4).latency_ms
    assert vit_b("cpu", 4, int8=True, sparse=True) == vit_b("cpu", 4, int8=True)
    assert vit_b("cpu", 4, sparse=True) == vit_b("cpu", 4, base="fp32")
    assert vit_b("cpu", 4).precision == "fp32"


def test_precision_names_what_runs() -> None:
    assert vit_b("a100", 1).precision == "fp16"
    assert vit_b("a100", 1, base="fp32").precision == "fp32"
    assert vit_b("a100", 1, base="fp32", sparse=True).precision == "fp16"
    assert vit_b("a100", 1, int8=True).precision == "int8"
    assert vit_b("a100", 8, base="fp32").latency_ms > 3 * vit_b("a100", 8).latency_ms


def test_orin_is_less_certain_than_the_a100() -> None:
    a100, orin = vit_b("a100", 8), vit_b("agx-orin", 8)
    assert orin.high_ms / orin.low_ms > a100.high_ms / a100.low_ms


def test_no_operators_cost_only_the_start() -> None:
    target = load_target("a100")
    got = predict(Workload((3, 8, 8), (), 0), (), target, 4)
    assert got.latency_ms == target.engine.start_us / 1e3
    assert got.ops == ()


@pytest.mark.parametrize("op", [Op("a", "gemm"), Op("a", "bmm"), Op("a", "memory")])
def test_empty_operators_are_launches(op: Op) -> None:
    got = predict(Workload((3, 8, 8), (op,), 0), (), load_target("agx-orin"), 1)
    assert [o.bound for o in got.ops] == ["launch"]
    assert math.isfinite(got.latency_ms)


def test_wrong_batches_and_dtypes_are_refused() -> None:
    with pytest.raises(UsageError, match="batch"):
        vit_b("a100", 0)
    for dtype in ("int8", "bf16", "half"):
        with pytest.raises(UsageError, match="fp16 or fp32"):
            vit_b("a100", 1, base=dtype)
    with pytest.raises(UsageError, match="divisible"):
        encoder_workload(1, 10, 3, 40, 5)


def test_projections_merge_and_scores_stay_on_chip() -> None:
    block = encoder_workload(1, 768, 12, 3072, 197)
    got = predict(block, (), load_target("a100"), 8)
    names = [op.name.rpartition("blocks.0")[2] for op in got.ops]
    assert names == [
        ".norm1",
        ".attention.q_proj",
        ".attention.k_proj",
        ".attention.v_proj",
        ".attention/matmul",
        ".attention.out_proj",
        ".norm2",
        ".mlp.fc1",
        ".mlp.fc2",
    ]
    apart = tuple(Op(f"b.{i}", "gemm", 197, 768, 768, 1, 197 * 768, 197 * 768) for i in range(3))
    merged = sum(op.us for op in got.ops[1:4])
    assert merged < sum(o.us for o in predict(Workload((3, 1, 1), apart, 0), (), load_target("a100"), 8).ops)


def test_projections_in_different_forms_do_not_merge() -> None:
    block = encoder_workload(1, 768, 12, 3072, 197)
    q, k, v = (Layer(f"blocks.0.attention.{name}_proj", "linear", 768, 768) for name in "qkv")
    mixed = predict(block, (q.quantized(), k, v), load_target("a100"), 1)
    assert mixed.ops[2].us == mixed.ops[3].us != mixed.ops[1].us


def test_int8_attention_is_no_slower() -> None:
    layers = encoder_layers(VIT_B, int8=True)
    target = load_target("a100")
    narrow = predict(VIT_B, layers, target, 32, int8_attention=True)
    assert narrow.latency_ms < predict(VIT_B, layers, target, 32).latency_ms


def test_operators_apart_take_longer_than_an_engine() -> None:
    target, layers = load_target("a100"), encoder_layers(VIT_B)
    apart = predict(VIT_B, layers, target, 32, fused=False)
    joined = predict(VIT_B, layers, target, 32)
    assert apart.latency_ms > 1.15 * joined.latency_ms
    assert {op.name for op in apart.ops} == {op.name for op in VIT_B.ops}
    assert len(joined.ops) < len(apart.ops)


def test_a_depthwise_convolution_costs_its_traffic_and_not_a_tile_a_channel() -> None:
    pixels, channels = 56 * 56, 256
    depthwise = Op("dw", "gemm", pixels, 1, 9, channels, pixels * channels, pixels * channels)
    pointwise = Op("pw", "gemm", pixels, channels, channels, 1, pixels * channels, pixels * channels)
    target = load_target("a100")
    times = [predict(Workload((3, 8, 8), (op,), 0), (), target, 32).ops[0] for op in (depthwise, pointwise)]
    assert times[0].bound == "memory"
    assert times[0].us < 2 * times[1].us


def test_a_longer_sequence_is_worse_than_in_proportion() -> None:
    target = load_target("a100")
    short, long = (
        predict(encoder_workload(12, 768, 12, 3072, tokens), (), target, 8).latency_ms for tokens in (1024, 4096)
    )
    assert long > 4.5 * short


def test_weights_that_fit_the_cache_cost_less_than_those_that_do_not() -> None:
    """One block over and over: 12 blocks of fp16 ViT-B pass 170 MB through 40 MiB, one block stays."""
    target = load_target("a100")
    start = target.engine.start_us / 1e3
    one, twelve = (predict(encoder_workload(n, 768, 12, 3072, 16), (), target, 1).latency_ms - start for n in (1, 12))
    assert twelve > 12.2 * one


# TensorRT demoBERT README (TensorRT 10.x, A100-40GB) and AITemplate's ViT example, milliseconds.
PUBLISHED = [
    ((12, 768, 12, 3072, 197, 768, 196), "fp16", 8, 2.20),
    ((12, 768, 12, 3072, 197, 768, 196), "fp16", 32, 6.51),
    ((12, 768, 12, 3072, 197, 768, 196), "fp16", 256, 48.55),
    ((24, 1024, 16, 4096, 128), "fp16", 1, 1.54),
    ((24, 1024, 16, 4096, 128), "fp16", 128, 48.69),
    ((24, 1024, 16, 4096, 128), "int8", 32, 6.95),
    ((24, 1024, 16, 4096, 128), "int8 2:4", 8, 2.45),
    ((24, 1024, 16, 4096, 128), "int8 2:4", 128, 21.69),
]


@pytest.mark.parametrize(("sizes", "form", "batch", "published_ms"), PUBLISHED)
def test_published_engines_lie_in_the_interval(
    sizes: tuple[int, ...], form: str, batch: int, published_ms: float
) -> None:
    workload = encoder_workload(*sizes)
    int8 = form.startswith("int8")
    layers = encoder_layers(workload, int8=int8, sparse=form.endswith("2:4"))
    got = predict(workload, layers, load_target("a100"), batch, int8_attention=int8)
    assert got.low_ms <= published_ms <= got.high_ms
