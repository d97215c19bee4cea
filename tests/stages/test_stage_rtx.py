"""The check of GPU bundles with the real TensorRT-RTX, where it is installed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gpusq.graph.naming import layer_of
from gpusq.stages.stage import run_stage
from tests.chain import Chain


@pytest.mark.slow
def test_the_tensorrt_check_is_real(chain: Chain, tmp_path: Path) -> None:
    """TensorRT-RTX parses, types and builds the FP16 graph; its dump names the INT8 GEMMs and the fused attention."""
    pytest.importorskip("tensorrt_rtx")
    stage = replace(chain.recipe.build, target="agx-orin", rtx_check="required")
    made = run_stage(stage, chain.artifact("export"), chain.context(chain.copy(tmp_path / "store"))).artifact
    quantized = {x["name"] for x in made.read_json("layers.json") if not x["why_float"]}
    assert len(quantized) == 13
    for summary in made.manifest.facts["rtx"]:
        dump = made.read_json(f"rtx-sm{summary['capability'].replace('.', '')}.json")
        assert (dump["ok"], dump["errors"]) == (True, [])
        assert {layer_of(node) for node in dump["int8_gemms"]} == quantized
        assert dump["fused_attention"] == summary["fused_attention"] == 2
        assert summary["int8_layers"] == summary["quantized_layers"] == 13
    assert {s["capability"] for s in made.manifest.facts["rtx"]} == {"8.0", "8.6"}
