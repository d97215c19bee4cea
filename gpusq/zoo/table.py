"""The zoo as a table for people and as JSON for machines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpusq.zoo.agreement import shows
from gpusq.zoo.result import STEPS, FamilyResult

HEAD = (
    "family",
    "model",
    "parameters",
    "steps",
    "2:4",
    "INT8",
    "dense float32: largest error, agreement",
    "dense FP16: agreement",
    "2:4 INT8, float32 file: agreement (PyTorch with itself)",
    "2:4 INT8, FP16 file: agreement (PyTorch with itself)",
    "SM 8.0 build: INT8 GEMMs",
    "seconds",
)
LEGEND = (
    "2:4, INT8: share of the GEMM multiply-adds of one image, attention products included, that are 2:4 sparse and "
    "INT8. Agreement: ONNX Runtime beside PyTorch on the same images (of classifiers: images with the same top-1; of "
    "detectors: boxes paired by class and overlap, whatever their order, and then their mean overlap; of others: "
    "images whose outputs agree within 10 %). Largest error: over the largest value, of detectors query by query; at "
    "most 1e-4 is required of the dense float32 file. Every other file has to agree on 90 % (boxes overlap by 0.85), "
    "or as well (less 10 points) as the PyTorch model agrees with itself when the output of every layer changes by the "
    "rounding of that file: 2^-24 times the root of the number of products in a sum for float32, 2^-11 for FP16 (in "
    "brackets for the INT8 model). Where the model itself does not keep these, rounding decides between nearly equal "
    "answers, a comparison says nothing about the file, and the table says `not shown`. A trained model is held to "
    "Export's own bars. Weights are fresh, but where "
    "the model's cell names passes: detectors that choose their queries by score are trained for that many passes over "
    "240 drawn images, since the scores of fresh ones are all nearly equal; the comparisons are on other images. "
    "Convolutions of RT-DETR, RT-DETRv2 and D-FINE are drawn again first (He et al. 2015), since signals die out in "
    "those that transformers draws. The build is a parse and build of the INT8 FP16 file by TensorRT-RTX for compute "
    "capability 8.0 on a host without a GPU: it was not run. INT8 GEMMs: quantized layers that the plan runs as INT8 "
    "products, of all quantized layers."
)


def to_json(results: Sequence[FamilyResult], conditions: dict[str, Any]) -> dict[str, Any]:
    """Plain data: conditions, counts, and one object for each family."""
    passed = sum(result.passed for result in results)
    return {
        "conditions": conditions,
        "families": len(results),
        "passed": passed,
        "shown": sum(_shown(result) for result in results),
        "results": [result.to_json() for result in results],
    }


def to_markdown(results: Sequence[FamilyResult]) -> str:
    """The table with its legend, and the reasons of those that did not pass."""
    lines = [_line(HEAD), _line(["---"] * len(HEAD)), *(_line(_cells(result)) for result in results)]
    passed, shown = sum(result.passed for result in results), sum(_shown(result) for result in results)
    counts = f"{passed} of {len(results)} families pass every step; of {shown} the parity of every file is shown."
    text = [counts, "", *lines, "", LEGEND, ""]
    failed = [result for result in results if not result.passed]
    if failed:
        text += ["Not passed, and why:", "", *(f"- {result.family}: {_one_line(result.why)}" for result in failed), ""]
    return "\n".join(text)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cells(result: FamilyResult) -> list[str]:
    steps = "all" if result.passed else f"stopped at {STEPS[len(result.done)]}"
    builds = "-" if result.int8_gemms is None else f"{result.int8_gemms} of {result.int8_layers}"
    error = "-" if result.dense is None else f"{result.dense['relative']:.0e}, {_agreement(result.dense)}"
    return [
        result.family,
        f"`{result.model}`" + (f", {result.passes:g} passes" if result.passes else ""),
        f"{result.parameters:,}" if result.parameters else "-",
        steps,
        _share(result.sparse),
        _share(result.int8),
        error,
        _agreement(result.dense_half),
        _beside(result.quantized, result.itself, "float32"),
        _beside(result.half, result.itself, "float16"),
        builds,
        f"{result.seconds:.0f}",
    ]


def _shown(result: FamilyResult) -> bool:
    """Whether it passed, and the comparisons of both INT8 files say something about them."""
    return result.passed and result.itself is not None and all(shows(own) for own in result.itself.values())


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _agreement(parity: dict[str, Any] | None) -> str:
    if parity is None:
        return "-"
    overlap = parity.get("mean_iou")
    return f"{parity['top1']:.1%}" + ("" if overlap is None else f", overlap {overlap:.2f}")


def _beside(parity: dict[str, Any] | None, itself: dict[str, dict[str, float]] | None, file: str) -> str:
    if parity is None or itself is None:
        return _agreement(parity)
    own = f"({itself[file]['top1']:.1%})"
    return f"{_agreement(parity)} {own}" if shows(itself[file]) else f"not shown {own}"


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")
