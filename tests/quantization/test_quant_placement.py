"""Placement policies: which quantizers go where, for every model family."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from gpusq.errors import UsageError
from gpusq.models import LoadedModel, attention_modules, gemm_layers, load_model
from gpusq.models.attention import UnpackedAttention
from gpusq.quantization import POLICIES, QuantizerSpec, feeds_attention, place, shared_inputs
from gpusq.workload import Layer

FAMILIES = ("vit", "deit", "swin", "dinov2")


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    return load_model(f"new:{request.param}-test", seed=1)


def layers_of(loaded: LoadedModel) -> tuple[Layer, ...]:
    """All layers, sparse but for the ones kept dense."""
    layers = gemm_layers(loaded.module, loaded.keep_dense)
    return tuple(x if x.name in loaded.keep_dense else x.pruned() for x in layers)


def roles(specs: tuple[QuantizerSpec, ...], role: str) -> set[str]:
    return {spec.layer for spec in specs if spec.role == role}


def test_exactly_q_k_and_v_feed_attention(loaded: LoadedModel) -> None:
    feeding = {x.name for x in layers_of(loaded) if feeds_attention(x.name)}
    attention = attention_modules(loaded.module)
    assert len(attention) >= 2
    assert feeding == {f"{name}.{part}_proj" for name in attention for part in "qkv"}


def test_unpacked_attention_names_its_projections() -> None:
    names = [n for n, m in UnpackedAttention(nn.MultiheadAttention(8, 2)).named_modules() if isinstance(m, nn.Linear)]
    assert {n: feeds_attention(f"block.0.{n}") for n in names} == {
        "q_proj": True,
        "k_proj": True,
        "v_proj": True,
        "out_proj": False,
    }


@pytest.mark.parametrize(
    ("name", "feeds"),
    [
        ("blocks.0.attn.qkv", True),
        ("attention.query", True),
        ("attention.key", True),
        ("attention.value", True),
        ("attn.to_q", True),
        ("attn.to_kv", True),
        ("attn.q_lin", True),
        ("h.0.query_key_value", True),
        ("blocks.0.attn.proj", False),
        ("attention.output.dense", False),
        ("mlp.fc1", False),
        ("mlp.value_head", False),
        ("qkv.mlp", False),
        ("quality", False),
        ("k_norm", False),
    ],
)
def test_names_that_feed_attention(name: str, feeds: bool) -> None:
    assert feeds_attention(name) is feeds


def test_inputs_policy_covers_each_layer_but_the_skipped(loaded: LoadedModel) -> None:
    layers, skip = layers_of(loaded), tuple(loaded.keep_dense)
    specs = place("inputs", layers, skip=skip)
    names = {x.name for x in layers} - set(skip)
    assert skip
    assert roles(specs, "weight") == roles(specs, "input") == names
    assert {spec.role for spec in specs} == {"weight", "input"}
    assert all((spec.axis == 0) == (spec.role == "weight") for spec in specs)
    assert len(set(specs)) == len(specs) == 2 * len(names)


def test_sparse_epilogue_adds_outputs_but_not_into_attention(loaded: LoadedModel) -> None:
    layers, skip = layers_of(loaded), tuple(loaded.keep_dense)
    dense = next(x.name for x in layers if x.name.endswith("fc2"))
    layers = tuple(replace(x, sparse=False) if x.name == dense else x for x in layers)
    plain, more = place("inputs", layers, skip=skip), place("sparse-epilogue", layers, skip=skip)
    outputs = roles(more, "output")
    assert set(more) - set(plain) == {spec for spec in more if spec.role == "output"}
    assert outputs == {x.name for x in layers if x.sparse and not x.name.endswith(("q_proj", "k_proj", "v_proj"))}
    assert dense not in outputs
    assert any(name.endswith("o_proj") for name in outputs)


def test_attention_policy_adds_the_four_operands(loaded: LoadedModel) -> None:
    layers, owners = layers_of(loaded), attention_modules(loaded.module)
    more = set(place("attention", layers, owners)) - set(place("inputs", layers))
    assert more == {QuantizerSpec(owner, role) for owner in owners for role in ("q", "k", "v", "p")}  # type: ignore[arg-type]


def test_combined_policy_is_the_union(loaded: LoadedModel) -> None:
    layers, owners = layers_of(loaded), attention_modules(loaded.module)
    both = set(place("sparse-epilogue+attention", layers, owners))
    assert both == set(place("sparse-epilogue", layers)) | set(place("attention", layers, owners))


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_is_a_pure_function(policy: str, loaded: LoadedModel) -> None:
    layers, owners = layers_of(loaded), attention_modules(loaded.module)
    assert place(policy, layers, owners) == place(policy, list(layers), list(owners))


def test_shared_inputs_finds_q_k_and_v_and_nothing_else(loaded: LoadedModel) -> None:
    names = [x.name for x in layers_of(loaded)]
    found = shared_inputs(loaded.module, names, torch.zeros(1, *loaded.description.input_shape))
    expected = {f"{n}.{part}_proj": f"{n}.q_proj" for n in attention_modules(loaded.module) for part in "kv"}
    assert found == expected


def test_shared_inputs_of_a_user_model_with_self_and_cross_attention() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mine = UnpackedAttention(nn.MultiheadAttention(8, 2, batch_first=True))
            self.cross = UnpackedAttention(nn.MultiheadAttention(8, 2, batch_first=True))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.mine(x, x, x)[0]
            memory = y * 2
            out: torch.Tensor = self.cross(y, memory, memory)[0]
            return out

    module = Two()
    names = [n for n, m in module.named_modules() if isinstance(m, nn.Linear)]
    found = shared_inputs(module, names, torch.randn(2, 5, 8))
    assert found == {"mine.k_proj": "mine.q_proj", "mine.v_proj": "mine.q_proj", "cross.v_proj": "cross.k_proj"}
    assert not any(m._forward_pre_hooks for m in module.modules())


def test_sharing_is_written_into_the_specs_unless_the_leader_is_skipped() -> None:
    layers = (Layer("a.q_proj", "linear", 8, 8), Layer("a.k_proj", "linear", 8, 8))
    same = {"a.k_proj": "a.q_proj"}
    specs = place("inputs", layers, same_input=same)
    assert [s.shares for s in specs if s.role == "input"] == [None, "a.q_proj"]
    alone = place("inputs", layers, skip=("a.q_proj",), same_input=same)
    assert [(s.layer, s.shares) for s in alone if s.role == "input"] == [("a.k_proj", None)]


def test_bits_reach_every_spec() -> None:
    layers = (Layer("fc", "linear", 8, 8, sparse=True),)
    assert {spec.bits for spec in place("sparse-epilogue+attention", layers, ["a"], bits=4)} == {4}


@pytest.mark.parametrize("policy", ["", "outputs", "Inputs", "attention+sparse-epilogue"])
def test_an_unknown_policy_is_refused(policy: str) -> None:
    with pytest.raises(UsageError, match="a policy is one of inputs"):
        place(policy, ())


@pytest.mark.parametrize("policy", ["attention", "sparse-epilogue+attention"])
def test_attention_without_points_is_refused(policy: str) -> None:
    with pytest.raises(UsageError, match="use policy inputs"):
        place(policy, (Layer("fc", "linear", 8, 8),))
