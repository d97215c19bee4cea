"""The agreement that may be asked of a quantized model whose own rounding is a cliff."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gpusq.stages.parity_gate import (
    FLOOR,
    FLOOR_IOU,
    allowed_agreement,
    allowed_error,
    box_bars,
    misses,
    relaxed_note,
    self_parity,
)

SHARES = st.floats(0.0, 1.0)


def test_nothing_measured_leaves_what_was_asked() -> None:
    assert allowed_agreement(0.995, None, 2000) == 0.995


@given(asked=SHARES, own=SHARES, n=st.integers(1, 5000))
def test_never_above_what_was_asked_and_never_below_the_floor(asked: float, own: float, n: int) -> None:
    allowed = allowed_agreement(asked, {"top1": own}, n)
    assert min(asked, FLOOR) <= allowed <= asked


@given(asked=SHARES, n=st.integers(1, 5000))
def test_a_model_that_agrees_with_itself_throughout_excuses_nothing(asked: float, n: int) -> None:
    assert allowed_agreement(asked, {"top1": 1.0}, n) == asked


@given(own=SHARES, better=SHARES, n=st.integers(10, 5000))
def test_a_steadier_model_must_agree_more(own: float, better: float, n: int) -> None:
    low, high = sorted((own, better))
    assert allowed_agreement(1.0, {"top1": low}, 10**9) <= allowed_agreement(1.0, {"top1": high}, 10**9)


def test_more_images_leave_less_room() -> None:
    few, many = (allowed_agreement(1.0, {"top1": 0.97}, n) for n in (50, 5000))
    assert FLOOR < few < many < 0.97


@given(asked=SHARES, own=SHARES)
def test_a_device_may_err_as_the_fp16_file_does_here_and_half_as_much_again(asked: float, own: float) -> None:
    allowed = allowed_error(asked, {"relative": 1.0, "relative_found": own})
    assert asked <= allowed <= max(asked, 0.2)
    assert allowed >= min(0.2, 1.5 * own)
    assert allowed_error(asked, {"relative": own, "relative_found": None}) == allowed


@given(iou=SHARES, score=SHARES, own_iou=SHARES, own_score=SHARES)
def test_boxes_are_excused_by_the_models_own_within_bounds(
    iou: float, score: float, own_iou: float, own_score: float
) -> None:
    bars = box_bars(0.9, iou, score, 0.75, {"mean_iou": own_iou, "score": own_score})
    assert min(iou, FLOOR_IOU) <= bars["mean_iou"] <= iou
    assert score <= bars["score"] <= max(score, 0.1)
    assert box_bars(0.9, iou, score, 0.75, None) == {"mean_iou": iou, "score": score, "faint": 0.75}
    assert box_bars(0.0, iou, score, 0.75, None) == {"mean_iou": 0.0, "score": None, "faint": 0.0}


def test_loose_boxes_and_shifted_scores_are_misses() -> None:
    bars = box_bars(0.9, 0.9, 0.05, 0.75, None)
    good = {"top1": 0.95, "mean_iou": 0.95, "score": 0.01, "faint": 0.8}
    assert not misses(good, 0.9, bars)
    assert not misses({"top1": 0.95}, 0.9, bars)
    for change in ({"top1": 0.85}, {"mean_iou": 0.85}, {"score": 0.06}, {"faint": 0.7}):
        assert misses(good | change, 0.9, bars)


def test_the_note_speaks_of_boxes_for_a_detector_and_of_images_for_others() -> None:
    images = {"top1": 0.97, "n": 150}
    boxes = images | {"mean_iou": 0.87}
    same = {"parity_fp32": boxes, "parity_fp16": boxes, "parity_self": boxes}
    assert "97.0% of 150 boxes (mean overlap 0.87)" in relaxed_note(same)
    half = {"top1": 0.9, "n": 16}
    note = relaxed_note({"parity_fp32": images, "parity_fp16": half, "parity_self": images})
    assert "97.0% of 150 images in float32" in note
    assert "90.0% of 16 images in FP16" in note
    assert "box" not in note
    assert relaxed_note({"parity_fp32": images, "parity_fp16": half, "parity_self": None}) == ""


def test_self_parity_sees_a_model_that_tips_over_by_a_hair() -> None:
    import torch
    from torch import nn

    from gpusq.models import LoadedModel, ModelDescription

    class Cliff(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            up = (x.flatten(1).mean(dim=1, keepdim=True) > 1.0).float()
            return torch.cat([up, 1 - up], dim=1)

    class State:
        module = Cliff()
        loaded = LoadedModel(
            ModelDescription(
                source="new",
                family="custom",
                config={},
                architecture="Cliff",
                input_shape=(1, 2, 2),
                mean=(0.0,),
                std=(1.0,),
                classes=("up", "down"),
            ),
            module,
            (),
            {},
        )

    images = np.concatenate([np.full((3, 1, 2, 2), 1.0), np.full((5, 1, 2, 2), 0.5)]).astype(np.float32)
    expected = State.module(torch.from_numpy(images)).numpy()
    found = self_parity(State(), images, {"logits": expected})  # type: ignore[arg-type]
    assert found["n"] == 8
    assert found["top1"] == 5 / 8
