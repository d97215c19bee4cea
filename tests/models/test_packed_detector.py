"""A detector with packed nn.MultiheadAttention, masks and all, from a user's file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gpusq.distillation import detection_loss
from gpusq.errors import UnsupportedModelError
from gpusq.models import (
    LoadedModel,
    attention_modules,
    canonicalise,
    gemm_layers,
    load_model,
    plain_tensors,
    prunable,
    rebuild,
    trace_workload,
)
from gpusq.models.huggingface import seeded
from gpusq.models.user_file import call_function
from gpusq.quantization import calibrate, insert, place
from tests.models.detector_samples import PACKED_SOURCE, pictures
from tests.models.model_samples import write_model


@pytest.fixture
def packed(tmp_path: Path) -> LoadedModel:
    return load_model(write_model(tmp_path / "packed.py", PACKED_SOURCE))


def test_unpacked_detector_computes_the_same_with_both_masks(packed: LoadedModel) -> None:
    with seeded(0):
        module = call_function(PACKED_SOURCE.encode(), "build", {}, pretrained=True)[0].eval()
    x = pictures(packed)
    with torch.no_grad():
        expected = module(x)
        ours = packed.module(x)
        again = canonicalise(module)(x)
    torch.testing.assert_close(ours[0], expected["pred_logits"], rtol=0, atol=1e-5)
    torch.testing.assert_close(ours[1], expected["pred_boxes"], rtol=0, atol=1e-6)
    torch.testing.assert_close(again["pred_logits"], expected["pred_logits"], rtol=0, atol=1e-5)


def test_masks_matter_in_that_comparison(packed: LoadedModel) -> None:
    """Padding hides the last two tokens: what stands there changes nothing."""
    x = pictures(packed, 1)
    changed = x.clone()
    changed[:, :, 24:, 16:] += 1.0  # tokens 14 and 15 of 16
    seen = x.clone()
    seen[:, :, :8, :8] += 1.0
    with torch.no_grad():
        base, hidden, shown = (packed.module(v)[0] for v in (x, changed, seen))
    torch.testing.assert_close(hidden, base, rtol=0, atol=1e-5)
    assert not torch.allclose(shown, base, atol=1e-3)


def test_queries_keys_and_values_are_layers_to_prune_and_quantize(packed: LoadedModel) -> None:
    layers = gemm_layers(packed.module, packed.keep_dense)
    free = {x.name for x in layers if prunable(x)}
    for owner in attention_modules(packed.module):
        constant = "decoder.0.self_attn" in owner or "decoder.0.multihead" in owner  # of queries alone
        for part in ("k_proj", "v_proj", "out_proj", "q_proj"):
            assert f"{owner}.{part}" in free or constant, owner
    assert len(attention_modules(packed.module)) == 6
    assert "model.decoder.1.multihead_attn.v_proj" in free
    assert len(packed.blocks) == 4


def test_quantized_packed_detector_runs_with_scales_on_its_projections(packed: LoadedModel) -> None:
    layers = gemm_layers(packed.module, packed.keep_dense)
    specs = place("inputs", layers, skip=tuple(packed.keep_dense))
    assert {"q_proj", "k_proj", "v_proj"} <= {s.layer.rpartition(".")[2] for s in specs}
    x = pictures(packed, 4)
    with torch.no_grad():
        before = packed.module(x)
        insert(packed.module, specs)
        calibrate(packed.module, [x], "max")
        after = packed.module(x)
    assert not torch.equal(after[0], before[0])
    assert float((after[0] - before[0]).norm() / before[0].norm()) < 0.1


def test_description_and_training_outputs_come_from_the_file(packed: LoadedModel) -> None:
    description = packed.description
    assert (description.task, description.activation, description.queries) == ("detection", "softmax", 6)
    assert description.classes == ("car", "dog", "tree")
    outputs = packed.module.train()(pictures(packed, 2))
    assert len(outputs[2]) == 1
    loss, _ = detection_loss(outputs, [(torch.tensor([1]), torch.rand(1, 4))] * 2, "softmax")
    loss.backward()
    packed.module.eval()


def test_packed_detector_is_rebuilt_bit_equal(packed: LoadedModel) -> None:
    twin = rebuild(packed.description, plain_tensors(packed.module), packed.files)
    x = pictures(packed, 2)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(packed.module(x), twin.module(x), strict=True))


def test_a_detector_that_tells_neither_classes_nor_activation_is_refused(tmp_path: Path) -> None:
    silent = PACKED_SOURCE.replace(', "classes": ["car", "dog", "tree"][:classes]', "")
    with pytest.raises(UnsupportedModelError, match="activation"):
        load_model(write_model(tmp_path / "silent.py", silent))
    told = silent.replace('{"input_shape": (3, 32, 32)}', '{"input_shape": (3, 32, 32), "activation": "sigmoid"}')
    assert len(load_model(write_model(tmp_path / "told.py", told)).description.classes) == 4


CUSTOM = """
import torch
from torch import nn


@torch.library.custom_op("gpusqtest::attend", mutates_args=())
def attend(x: torch.Tensor) -> torch.Tensor:
    return (x @ x.transpose(-1, -2)).softmax(-1) @ x


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 8, stride=8)
        self.head, self.box = nn.Linear(8, 2), nn.Linear(8, 4)

    def forward(self, x):
        x = attend(self.embed(x).flatten(2).transpose(1, 2))
        return self.head(x), self.box(x).sigmoid()


def build():
    return Net(), {"input_shape": (3, 32, 32), "classes": 2}
"""


def test_attention_that_cannot_be_traced_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"gpusqtest::attend.*plain PyTorch"):
        load_model(write_model(tmp_path / "custom.py", CUSTOM))


def test_attention_as_raw_matrices_is_named_in_the_trace(tmp_path: Path, packed: LoadedModel) -> None:
    ops = trace_workload(packed.module, (3, 32, 32)).ops
    owners = {op.name.rpartition("/")[0] for op in ops if op.kind == "bmm"}
    # The first decoder layer's queries look at each other before they have seen the image: the same for every image.
    assert owners == set(attention_modules(packed.module)) - {"model.decoder.0.self_attn"}
