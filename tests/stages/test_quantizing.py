"""Why layers stay in floating point: each with the reason that holds for it."""

from __future__ import annotations

from gpusq.models import gemm_layers, load_model, trace_workload
from gpusq.models.layers import CONSTANT_REASON
from gpusq.stages.model_files import ModelState
from gpusq.stages.quantizing import quantized_layers, skipped_layers


def test_layers_of_a_detector_stay_in_float_for_reasons_of_their_own() -> None:
    model = load_model("new:conditional-detr-mini")
    workload = trace_workload(model.module, model.description.input_shape)
    state = ModelState(model, gemm_layers(model.module, model.keep_dense), workload)
    skipped = skipped_layers(state, ())
    assert set(skipped.values()) == {
        "class head kept in floating point by default",
        "last box layer kept in floating point by default",
        CONSTANT_REASON,
    }
    assert skipped["model.class_labels_classifier"].startswith("class head")
    assert {x.name for x in quantized_layers(state.layers, skipped) if not x.int8} == set(skipped)
