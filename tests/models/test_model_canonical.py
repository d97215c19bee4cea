"""The canonical form computes what the original computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from gpusq.errors import UnsupportedModelError
from gpusq.models import LoadedModel, PatchLinear, UnpackedAttention, attention_modules, canonicalise
from gpusq.models.canonical import packed_layers
from gpusq.models.huggingface import seeded
from tests.models.model_samples import images, logits

L, S, B = 5, 7, 3


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_family_in_canonical_form_equals_the_library_s_own_eager_model(loaded: LoadedModel) -> None:
    config = transformers.AutoConfig.for_model(**loaded.description.config)
    with seeded(3):
        original = getattr(transformers, loaded.description.architecture)._from_config(
            config, attn_implementation="eager"
        )
    x = images(loaded)
    torch.testing.assert_close(logits(loaded.module, x), logits(original.eval(), x), rtol=0, atol=1e-5)


def test_family_has_no_convolution_left_and_points_on_each_attention(loaded: LoadedModel) -> None:
    assert not [m for m in loaded.module.modules() if isinstance(m, nn.Conv2d)]
    assert len(attention_modules(loaded.module)) == len(loaded.blocks)


def test_batched_equals_single(loaded: LoadedModel) -> None:
    x = images(loaded)
    single = torch.cat([logits(loaded.module, row.unsqueeze(0)) for row in x])
    torch.testing.assert_close(logits(loaded.module, x), single, rtol=0, atol=1e-5)


def test_family_exports_with_any_batch_and_without_isnan_or_where(loaded: LoadedModel) -> None:
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(loaded.module, (images(loaded, 2),), dynamic_shapes=({0: batch},))
    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not [op for op in operators if "isnan" in op or "where" in op or "scaled_dot_product" in op]
    x = images(loaded, 5)
    torch.testing.assert_close(program.module()(x), logits(loaded.module, x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kernel", "size"), [((4, 4), (8, 12)), ((2, 4), (9, 14)), ((4, 1), (4, 3))])
def test_patch_linear_equals_the_convolution(kernel: tuple[int, int], size: tuple[int, int], bias: bool) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 8, kernel, stride=kernel, bias=bias)
    x = noise(2, 3, *size)
    patch = canonicalise(conv)
    assert isinstance(patch, PatchLinear)
    torch.testing.assert_close(patch(x), conv(x), rtol=0, atol=1e-5)
    assert patch.weight is patch.linear.weight
    assert (patch.bias is None) is not bias


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 2, stride=2, groups=2),
        nn.Conv2d(4, 4, 2, stride=2, padding=1),
        nn.Conv2d(4, 4, 2, stride=2, dilation=2),
        nn.Conv2d(4, 4, (2, 4), stride=(4, 2)),
    ],
)
def test_true_convolutions_stay(conv: nn.Conv2d) -> None:
    assert canonicalise(nn.Sequential(conv))[0] is conv


def attention(batch_first: bool, **options: object) -> nn.MultiheadAttention:
    torch.manual_seed(1)
    packed = nn.MultiheadAttention(16, 4, batch_first=batch_first, **options)  # type: ignore[arg-type]
    for bias in (packed.in_proj_bias, packed.out_proj.bias):  # zero in a fresh module, which would hide a mistake
        if bias is not None:
            nn.init.normal_(bias)
    return packed.eval()


def padding() -> Tensor:
    mask = torch.zeros(B, S, dtype=torch.bool)
    mask[0, 4:] = True
    mask[2, :2] = True
    return mask


MASKS: dict[str, Callable[[], dict[str, Tensor]]] = {
    "none": dict,
    "padding": lambda: {"key_padding_mask": padding()},
    "padding float": lambda: {"key_padding_mask": padding().float() * -3.0},
    "bool": lambda: {"attn_mask": torch.ones(L, S, dtype=torch.bool).triu(4)},
    "float per head": lambda: {"attn_mask": noise(B * 4, L, S, seed=2)},
    "both": lambda: {"key_padding_mask": padding(), "attn_mask": torch.ones(L, S, dtype=torch.bool).triu(5)},
}
SIZES = {"same": {}, "no bias": {"bias": False}, "kdim, vdim": {"kdim": 12, "vdim": 20}}


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("mask", MASKS)
def test_unpacked_attention_equals_the_packed_one(batch_first: bool, sizes: str, mask: str) -> None:
    packed = attention(batch_first, **SIZES[sizes])
    k, v = SIZES[sizes].get("kdim", 16), SIZES[sizes].get("vdim", 16)
    inputs = [noise(B, L, 16), noise(B, S, k, seed=1), noise(B, S, v, seed=2)]
    inputs = inputs if batch_first else [x.transpose(0, 1) for x in inputs]
    options = MASKS[mask]()
    output, weights = packed(*inputs, **options)
    own_output, own_weights = UnpackedAttention(packed)(*inputs, **options)
    torch.testing.assert_close(own_output, output, rtol=0, atol=1e-5)
    torch.testing.assert_close(own_weights, weights, rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch_first", [True, False])
def test_unpacked_attention_without_batch_and_with_weights_per_head(batch_first: bool) -> None:
    packed = attention(batch_first)
    x = noise(L, 16)
    output, weights = packed(x, x, x, average_attn_weights=False)
    own_output, own_weights = UnpackedAttention(packed)(x, x, x, average_attn_weights=False)
    torch.testing.assert_close(own_output, output, rtol=0, atol=1e-5)
    torch.testing.assert_close(own_weights, weights, rtol=0, atol=1e-5)
    assert UnpackedAttention(packed)(x, x, x, need_weights=False)[1] is None


def test_unpacked_attention_has_the_same_gradients() -> None:
    packed = attention(True)
    unpacked, x = UnpackedAttention(packed), noise(B, L, 16)
    packed(x, x, x)[0].square().sum().backward()
    unpacked(x, x, x)[0].square().sum().backward()
    own = torch.cat([unpacked.q_proj.weight.grad, unpacked.k_proj.weight.grad, unpacked.v_proj.weight.grad])
    torch.testing.assert_close(own, packed.in_proj_weight.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}])
def test_attention_with_extra_keys_is_refused(options: dict[str, bool]) -> None:
    with pytest.raises(UnsupportedModelError, match="bias_k"):
        canonicalise(attention(True, **options))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("needed", [True, False])
@pytest.mark.parametrize("mask", ["padding", "float padding", "rows", "both"])
def test_rows_that_may_look_nowhere_give_what_torch_gives(mask: str, needed: bool, batch_first: bool) -> None:
    packed = attention(batch_first)
    inputs = [noise(B, L, 16), noise(B, S, 16, seed=1), noise(B, S, 16, seed=2)]
    inputs = inputs if batch_first else [x.transpose(0, 1) for x in inputs]
    padded, rows = torch.zeros(B, S, dtype=torch.bool), torch.zeros(L, S, dtype=torch.bool)
    padded[1], rows[2] = True, True
    floats = torch.zeros(B, S).masked_fill(padded, float("-inf"))
    options = {
        "padding": {"key_padding_mask": padded},
        "float padding": {"key_padding_mask": floats},
        "rows": {"attn_mask": rows},
        "both": {"key_padding_mask": padded, "attn_mask": rows},
    }[mask]
    expected = packed(*inputs, need_weights=needed, **options)[0]
    assert bool(expected.isnan().any()) is needed
    actual = UnpackedAttention(packed)(*inputs, need_weights=needed, **options)[0]
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5, equal_nan=True)


class NormedAttention(nn.MultiheadAttention):
    """Queries of length one."""

    def forward(self, query: Tensor, *args: Any, **options: Any) -> Any:
        return super().forward(4 * nn.functional.normalize(query, dim=-1), *args, **options)


class NamedAttention(nn.MultiheadAttention):
    """torch's own under another name."""


class CentredConv(nn.Conv2d):
    """Weights less their mean."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


class HalvedConv(nn.Conv2d):
    """torch's forward with another step in it."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, weight / 2, bias)


def doubled(module: nn.Module, kind: str) -> nn.Module:
    """A module that a hook, or an attribute of its own, makes give or take twice as much."""
    if kind == "hook":
        module.register_forward_hook(lambda part, args, out: (2 * out[0], *out[1:]) if len(args) > 1 else 2 * out)
    elif kind == "pre-hook":
        module.register_forward_pre_hook(lambda part, args: (2 * args[0], *args[1:]))
    else:
        module.forward = lambda x, *more: type(module).forward(module, 2 * x, *more)  # type: ignore[method-assign]
    return module


OTHERS: dict[str, Callable[[], nn.Module]] = {
    "attention of another class": lambda: NormedAttention(16, 4, batch_first=True),
    "convolution of another class": lambda: CentredConv(3, 8, 4, stride=4),
    "another inner step": lambda: HalvedConv(3, 8, 4, stride=4),
    **{f"attention, {k}": lambda k=k: doubled(attention(True), k) for k in ("hook", "pre-hook", "own forward")},  # type: ignore[misc]
    **{
        f"convolution, {k}": lambda k=k: doubled(nn.Conv2d(3, 8, 4, stride=4), k)  # type: ignore[misc]
        for k in ("hook", "pre-hook", "own forward")
    },
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_computes_something_else_stays_as_it_is(name: str) -> None:
    torch.manual_seed(0)
    module = OTHERS[name]().eval()
    x = noise(B, L, 16) if isinstance(module, nn.MultiheadAttention) else noise(B, 3, 8, 8)
    inputs = (x, x, x) if isinstance(module, nn.MultiheadAttention) else (x,)
    expected = module(*inputs)
    held = canonicalise(nn.ModuleDict({"part": module}))
    assert held["part"] is module
    found = canonicalise(module)(*inputs)
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=0)
    assert bool(packed_layers(held)) is isinstance(module, nn.MultiheadAttention)


def test_a_class_of_another_name_with_torch_s_own_forward_is_unpacked() -> None:
    torch.manual_seed(0)
    packed, x = NamedAttention(16, 4, batch_first=True).eval(), noise(B, L, 16)
    own = canonicalise(packed)
    assert isinstance(own, UnpackedAttention)
    torch.testing.assert_close(own(x, x, x)[0], packed(x, x, x)[0], rtol=0, atol=1e-5)


def test_causal_hint_without_a_mask_is_refused() -> None:
    x = noise(B, L, 16)
    with pytest.raises(UnsupportedModelError, match="attn_mask"):
        UnpackedAttention(attention(True))(x, x, x, is_causal=True)


@pytest.mark.parametrize("masked", [True, False])
def test_torch_s_encoder_computes_the_same_after_unpacking(masked: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, activation="gelu")
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    x, mask = noise(B, S, 16), padding() if masked else None
    with torch.no_grad():
        expected = encoder(x, src_key_padding_mask=mask)
        actual = canonicalise(encoder)(x, src_key_padding_mask=mask)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    assert sum(isinstance(m, UnpackedAttention) for m in encoder.modules()) == 2


def test_torch_s_decoder_computes_the_same_after_unpacking() -> None:
    torch.manual_seed(0)
    decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 4, 32, batch_first=True), 2).eval()
    x, memory = noise(B, L, 16), noise(B, S, 16, seed=1)
    causal = nn.Transformer.generate_square_subsequent_mask(L)
    expected = decoder(x, memory, tgt_mask=causal)
    actual = canonicalise(decoder)(x, memory, tgt_mask=causal)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_module_in_two_places_stays_one_module() -> None:
    shared = nn.Conv2d(3, 3, 2, stride=2)
    pair = canonicalise(nn.ModuleDict({"first": shared, "inner": nn.Sequential(shared)}))
    assert pair["first"] is pair["inner"][0]
    assert isinstance(pair["first"], PatchLinear)
