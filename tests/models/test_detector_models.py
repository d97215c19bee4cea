"""Every family of detectors: the same function as the library's, its description, its blocks, what stays dense."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gpusq.errors import UnsupportedModelError
from gpusq.models import (
    ModelDescription,
    attention_modules,
    check_finite,
    gemm_layers,
    load_model,
    plain_tensors,
    prunable,
    rebuild,
    trace_workload,
)
from gpusq.models.layers import BOX_HEAD_REASON, CLASS_HEAD_REASON, CONSTANT_REASON
from tests.models.detector_samples import FAMILIES, FROM_TRANSFORMERS, loaded, original, pictures

EACH = pytest.mark.parametrize("name", FAMILIES)
BLOCKS = {"rt-detr-mini": 3, "rt-detr-v2-mini": 3, "d-fine-mini": 3, "yolos-mini": 2, "lw-detr-mini": 6}
ROUNDING = {"d-fine-mini": 2e-3}
"""Largest difference of logits that rounding may make; fresh D-FINE magnifies it, in the library's own module too."""
BLOCKS |= {"rf-detr-mini": 6, "vit-detr-mini": 6}
AUXILIARY = {"detr-mini": 1, "conditional-detr-mini": 1, "deformable-detr-mini": 1, "lw-detr-mini": 1}
"""Pairs of logits and boxes beside the last: of the decoder's earlier blocks, of the encoder where it chooses places,
and of D-FINE's first boxes. YOLOS has no decoder and gives none."""
AUXILIARY |= {"rf-detr-mini": 1, "rt-detr-mini": 2, "rt-detr-v2-mini": 2, "d-fine-mini": 3, "vit-detr-mini": 2}
AUXILIARY |= {"yolos-mini": 0}


@pytest.mark.parametrize("name", FROM_TRANSFORMERS)
def test_canonical_detector_computes_what_the_library_does(name: str) -> None:
    model = loaded(name)
    x = pictures(model)
    with torch.no_grad():
        expected, (logits, boxes) = original(name)(x), model.module(x)
    torch.testing.assert_close(logits, expected.logits, rtol=0, atol=ROUNDING.get(name, 2e-5))
    torch.testing.assert_close(boxes, expected.pred_boxes, rtol=0, atol=ROUNDING.get(name, 1e-5))


@EACH
def test_a_batch_gives_what_its_images_give_alone(name: str) -> None:
    model = loaded(name)
    x = pictures(model)
    with torch.no_grad():
        together, alone = model.module(x), [model.module(x[i : i + 1]) for i in range(len(x))]
    for index in range(2):
        single = torch.cat([a[index] for a in alone])
        torch.testing.assert_close(together[index], single, rtol=0, atol=ROUNDING.get(name, 2e-5))


@EACH
def test_description_tells_the_form_of_the_outputs(name: str) -> None:
    model = loaded(name)
    description = model.description
    with torch.no_grad():
        logits, boxes = model.module(pictures(model, 2))
    wide = len(description.classes) + (description.activation == "softmax")
    assert (description.task, description.outputs) == ("detection", ("logits", "boxes"))
    assert logits.shape == (2, description.queries, wide)
    assert boxes.shape == (2, description.queries, 4)
    assert description.activation == ("softmax" if name in ("detr-mini", "yolos-mini") else "sigmoid")


@EACH
def test_rebuilt_detector_is_bit_equal(name: str) -> None:
    model = loaded(name)
    twin = rebuild(
        ModelDescription.model_validate_json(model.description.model_dump_json()), plain_tensors(model.module), {}
    )
    x = pictures(model, 2)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(model.module(x), twin.module(x), strict=True))
    assert (twin.blocks, twin.keep_dense, twin.description) == (model.blocks, model.keep_dense, model.description)


@EACH
def test_blocks_are_the_transformer_blocks_and_heads_stay_dense(name: str) -> None:
    model = loaded(name)
    assert len(model.blocks) == BLOCKS.get(name, 4)
    assert all(
        any("norm" in type(m).__name__.lower() for m in model.module.get_submodule(b).modules()) for b in model.blocks
    )
    reasons = set(model.keep_dense.values())
    assert {CLASS_HEAD_REASON, BOX_HEAD_REASON} <= reasons
    for layer, reason in model.keep_dense.items():
        if reason == CLASS_HEAD_REASON:
            width = model.module.get_submodule(layer).out_features
            assert width in (len(model.description.classes), len(model.description.classes) + 1)


@EACH
def test_layers_of_the_blocks_can_be_pruned_and_their_attention_quantized(name: str) -> None:
    model = loaded(name)
    layers = gemm_layers(model.module, model.keep_dense)
    kept = {x.name for x in layers if not prunable(x)}
    free = {n for n, reason in model.keep_dense.items() if reason == CONSTANT_REASON}
    inside = {x.name for x in layers if x.name.startswith(tuple(f"{b}." for b in model.blocks))}
    assert inside - kept
    assert not (inside & kept) - free - set(model.keep_dense)
    assert len(attention_modules(model.module)) >= 2


@EACH
def test_every_layer_that_works_is_traced_and_no_other(name: str) -> None:
    model = loaded(name)
    workload = trace_workload(model.module, model.description.input_shape)
    traced = {op.name for op in workload.ops if op.kind == "gemm"}
    layers = {x.name for x in gemm_layers(model.module, model.keep_dense)}
    assert traced <= layers
    idle = {n for n, reason in model.keep_dense.items() if "no output" in reason or "never called" in reason}
    assert layers - traced == idle
    assert workload.macs > 0


@EACH
def test_training_mode_gives_auxiliary_outputs_and_gradients_to_every_block(name: str) -> None:
    model = rebuild(loaded(name).description, plain_tensors(loaded(name).module), {})
    module = model.module.train()
    logits, boxes, auxiliary = module(pictures(model, 2))
    assert len(auxiliary) == AUXILIARY[name]
    assert all(a.shape[0] == 2 and b.shape[-1] == 4 for a, b, *_ in auxiliary)
    total = logits.square().sum() + boxes.sum() + sum(a.square().sum() + b.sum() for a, b, *_ in auxiliary)
    total.backward()
    for block in model.blocks:
        grads = [p.grad for p in module.get_submodule(block).parameters()]
        assert any(g is not None and bool(g.any()) for g in grads), block


@pytest.mark.parametrize("name", FROM_TRANSFORMERS)
def test_fresh_queries_find_different_things_in_different_images(name: str) -> None:
    model = loaded(name)
    with torch.no_grad():
        logits, boxes = model.module(pictures(model, 4))
    assert float(boxes.std(dim=0).mean()) > 1e-3
    assert all(len(set(image.amax(-1).tolist())) == model.description.queries for image in logits)


@pytest.mark.parametrize("name", ["rt-detr-mini", "rt-detr-v2-mini", "d-fine-mini", "lw-detr-mini", "rf-detr-mini"])
def test_places_that_queries_are_selected_from_have_scores_without_ties(name: str) -> None:
    model = loaded(name)
    seen = []
    layer = next(n for n in model.keep_dense if "enc_score_head" in n or "enc_out_class_embed" in n)
    handle = model.module.get_submodule(layer).register_forward_hook(lambda m, a, output: seen.append(output))
    with torch.no_grad():
        model.module(pictures(model, 1))
    handle.remove()
    scores = seen[0].amax(-1)[0]
    # Border places that no anchor fits are cleared and share one score; the queries come from the others.
    best = scores.topk(model.description.queries + 1).values.tolist()
    assert len(set(best)) == len(best)


def test_options_of_presets() -> None:
    description = load_model("new:detr-mini?size=64&queries=7&classes=5").description
    assert (description.input_shape, description.queries, len(description.classes)) == ((3, 64, 64), 7, 5)
    with pytest.raises(UnsupportedModelError, match="multiple of 32"):
        load_model("new:detr-mini?size=50")
    with pytest.raises(UnsupportedModelError, match="size, queries"):
        load_model("new:detr-mini?depth=3")


def saved(name: str, folder: Path) -> None:
    original(name).save_pretrained(folder)  # type: ignore[operator]
    size = loaded(name).description.input_shape[1]
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"height": size, "width": size}}))


@pytest.mark.parametrize("name", ["detr-mini", "rt-detr-mini", "deformable-detr-mini"])
def test_directory_of_a_detector_gives_the_same_function(name: str, tmp_path: Path) -> None:
    saved(name, tmp_path)
    model = load_model(f"hf:{tmp_path}")
    check_finite(plain_tensors(model.module))
    x = pictures(model, 2)
    with torch.no_grad():
        expected, found = loaded(name).module(x), model.module(x)
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=2e-5)
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=1e-5)
    assert model.description.task == "detection"


def test_directory_of_a_detector_takes_a_fresh_head_and_a_size(tmp_path: Path) -> None:
    saved("detr-mini", tmp_path)
    model = load_model(f"hf:{tmp_path}?size=64", classes=2)
    assert model.description.input_shape == (3, 64, 64)
    with torch.no_grad():
        assert model.module(pictures(model, 1))[0].shape == (1, 12, 3)


def test_images_of_another_size_are_refused_where_positions_are_stored() -> None:
    model = loaded("detr-mini")
    with pytest.raises(UnsupportedModelError, match="4x4"):
        model.module(torch.zeros(1, 3, 64, 64))


def test_rebuild_refuses_a_class_that_is_no_detector() -> None:
    description = loaded("detr-mini").description.model_copy(update={"architecture": "DetrModel"})
    with pytest.raises(UnsupportedModelError, match="DetrModel"):
        rebuild(description, plain_tensors(loaded("detr-mini").module), {})


def test_description_of_before_detectors_is_a_classifier() -> None:
    data = load_model("new:vit-test").description.model_dump()
    for key in ("task", "outputs", "activation", "queries"):
        del data[key]
    old = ModelDescription.model_validate(data)
    assert (old.task, old.outputs) == ("classification", ("logits",))
