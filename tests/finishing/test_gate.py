"""The gate of each task: what agrees passes, what does not is refused with its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpusq.engines.bundle import BatchProfile, Bundle
from gpusq.errors import NonFiniteError, ParityError, UsageError
from gpusq.finishing.gate import check_gate, gate_of


def bundle(task: str, **changes: Any) -> Bundle:
    given: dict[str, Any] = {"files": {}, "task": task} | changes
    return Bundle(Path("b"), {}, BatchProfile(1, 1, 1), 0.05, "pixel_values", (3, 4, 4), **given)


LOGITS = np.eye(4, 5, dtype=np.float32) * 10


def test_equal_logits_pass_and_a_hair_more_is_judged_by_the_tolerance() -> None:
    judge = gate_of("classification")
    same = judge(bundle("classification"), {"logits": LOGITS}, {"logits": LOGITS})
    assert same.passed
    assert same.figures == {"relative_error": 0.0, "top1_agreement": 1.0}
    near = judge(bundle("classification"), {"logits": LOGITS}, {"logits": LOGITS + 0.4})
    assert near.passed
    far = judge(bundle("classification"), {"logits": LOGITS}, {"logits": LOGITS + 0.6})
    assert not far.passed
    check_gate(near, "it")
    with pytest.raises(ParityError, match=r"relative_error 0\.06"):
        check_gate(far, "it")


def test_the_same_size_of_error_with_other_answers_is_refused() -> None:
    expected = np.float32([[1.0, 0.99], [0.0, 10.0]])
    found = np.float32([[0.99, 1.0], [0.0, 10.0]])
    gate = gate_of("classification")(bundle("classification"), {"logits": expected}, {"logits": found})
    assert (gate.passed, gate.figures["top1_agreement"]) == (False, 0.5)
    assert gate_of("classification")(
        bundle("classification", agreement=0.5), {"logits": expected}, {"logits": found}
    ).passed


def test_detectors_are_compared_by_their_boxes_not_by_their_order() -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((2, 6, 4)).astype(np.float32) * 3
    centres = rng.uniform(0.2, 0.8, (2, 6, 2))
    boxes = np.concatenate([centres, np.full((2, 6, 2), 0.2)], axis=2).astype(np.float32)
    turned = np.array([3, 1, 0, 5, 4, 2])
    judge, whole = gate_of("detection"), {"logits": logits, "boxes": boxes}
    described = bundle("detection", files={"model.json": b'{"activation": "sigmoid"}'})
    assert judge(described, whole, {"logits": logits[:, turned], "boxes": boxes[:, turned]}).passed
    for change in ([1, 1, 1.3, 1], [1, 1, 1.2, 1]):
        wide = judge(described, whole, {"logits": logits, "boxes": boxes * np.float32(change)})
        assert not wide.passed
        assert wide.figures["mean_iou"] < wide.limits["mean_iou"] == 0.85
    assert wide.n == 2
    bars = {"model.json": b'{"activation": "sigmoid"}', "gate.json": b'{"mean_iou": 0.75, "score": null}'}
    wide_enough = {"logits": logits, "boxes": boxes * np.float32([1, 1, 1.19, 1])}  # an overlap of 0.84
    assert not judge(described, whole, wide_enough).passed
    own = judge(bundle("detection", files=bars), whole, wide_enough)
    assert own.passed
    assert "score_difference" not in own.limits
    moved = np.clip(boxes + np.float32([0.3, 0, 0, 0]), 0, 1)
    assert not judge(described, whole, {"logits": logits, "boxes": moved}).passed


def test_any_other_head_is_compared_by_its_values() -> None:
    maps = {"masks": np.random.default_rng(0).standard_normal((3, 2, 4, 4)).astype(np.float32)}
    judge = gate_of("tensors")
    assert judge(bundle("tensors"), maps, {"masks": maps["masks"] * 1.001}).passed
    assert not judge(bundle("tensors"), maps, {"masks": -maps["masks"]}).passed


@pytest.mark.parametrize("task", ["classification", "tensors"])
def test_nan_and_missing_outputs_are_refused(task: str) -> None:
    with pytest.raises(NonFiniteError):
        gate_of(task)(bundle(task), {"logits": LOGITS}, {"logits": LOGITS * np.nan})
    with pytest.raises(ParityError):
        gate_of(task)(bundle(task), {"logits": LOGITS}, {"scores": LOGITS})
    with pytest.raises(ParityError):
        gate_of(task)(bundle(task), {"logits": LOGITS}, {"logits": LOGITS[:, :4]})


def test_an_unknown_task_has_no_gate() -> None:
    with pytest.raises(UsageError, match="astrology"):
        gate_of("astrology")
