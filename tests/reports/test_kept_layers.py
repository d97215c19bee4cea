"""What a sensitivity result cannot tell stands in words beside the verdict."""

from __future__ import annotations

from typing import Any

from gpusq.reports.kept_layers import choice_cautions


def result(**changes: Any) -> dict[str, Any]:
    """The fields of a sensitivity.json that matter here."""
    return {"metric": "AP", "dense": 0.4, "max_drop": 0.5, "resolution": 0.1} | changes


def test_nothing_is_said_where_the_drop_was_judged_as_asked() -> None:
    assert choice_cautions(result()) == []


def test_a_limit_that_was_raised_names_both_figures() -> None:
    (told,) = choice_cautions(result(resolution=6.67))
    assert "at most 6.67 points, not the 0.5 asked for" in told
    assert "the boxes that judged" in told
    assert "the images that judged" in choice_cautions(result(resolution=6.67, metric="top1"))[0]


def test_a_dense_model_that_finds_nothing_can_lose_nothing() -> None:
    (told,) = choice_cautions(result(dense=0.0003))
    assert "the dense model's AP is 0.03 %" in told
    assert "train it first, and no block can show a loss" in told
    assert choice_cautions(result(dense=0.05)) == choice_cautions(result(dense=0.05, max_drop=100.0)) == []
