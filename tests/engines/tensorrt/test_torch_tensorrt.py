"""The second builder at its boundary: what it hands over, and what it refuses. torch-tensorrt is a stand-in here."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from gpusq.engines.tensorrt import PlanOptions
from gpusq.engines.tensorrt.torch_tensorrt import CONVERT, build_exported
from gpusq.errors import BuildMemoryError, EngineError, MissingExtraError, UsageError
from gpusq.quantization.fake_quantize import fake_quantize
from tests.engines.tensorrt.test_build_on_a_device import stand_in

SHAPES = {"x": ((1, 8), (2, 8), (4, 8))}
OPTIONS = PlanOptions((SHAPES,), workspace_mib=5)


@pytest.fixture(scope="module")
def program() -> Any:
    batch = torch.export.Dim("batch", min=1, max=4)
    return torch.export.export(nn.Linear(8, 4).eval(), (torch.zeros(2, 8),), dynamic_shapes=({0: batch},))


def install(monkeypatch: pytest.MonkeyPatch, convert: Callable[..., bytes] | None) -> None:
    module, dynamo = types.ModuleType("torch_tensorrt"), types.ModuleType("torch_tensorrt.dynamo")
    module.__version__ = "2.13.0"  # type: ignore[attr-defined]
    module.Input = lambda **shapes: shapes  # type: ignore[attr-defined]
    if convert is not None:
        setattr(dynamo, CONVERT, convert)
    monkeypatch.setitem(sys.modules, "torch_tensorrt", module)
    monkeypatch.setitem(sys.modules, "torch_tensorrt.dynamo", dynamo)
    monkeypatch.setitem(sys.modules, "tensorrt", stand_in())  # type: ignore[arg-type]


def test_absent_it_is_a_missing_extra(program: Any) -> None:
    if importlib.util.find_spec("torch_tensorrt") is not None:
        pytest.skip("torch-tensorrt is installed here")
    with pytest.raises(MissingExtraError, match=r"\.\[torch-tensorrt\]"):
        build_exported(program, OPTIONS)


def test_it_gets_the_program_its_shapes_and_settings(monkeypatch: pytest.MonkeyPatch, program: Any) -> None:
    seen: dict[str, Any] = {}

    def convert(exported: Any, *, arg_inputs: Any, **settings: Any) -> bytes:
        seen.update(settings, program=exported, inputs=arg_inputs)
        return b"plan"

    install(monkeypatch, convert)
    built = build_exported(program, OPTIONS)
    assert seen.pop("program") is program
    assert seen.pop("inputs") == [{"min_shape": (1, 8), "opt_shape": (2, 8), "max_shape": (4, 8)}]
    assert seen == {"sparse_weights": True, "require_full_compilation": True, "workspace_size": 5 << 20}
    assert (built.plan, built.library, built.version) == (b"plan", "tensorrt", "10.3.0.30 (torch-tensorrt 2.13.0)")
    assert built.inspector_json is not None


def test_an_older_version_is_told_to_keep_the_types(monkeypatch: pytest.MonkeyPatch, program: Any) -> None:
    seen: dict[str, Any] = {}

    def convert(exported: Any, *, arg_inputs: Any, use_explicit_typing: bool = False, **settings: Any) -> bytes:
        seen["typed"] = use_explicit_typing
        return b"plan"

    install(monkeypatch, convert)
    build_exported(program, OPTIONS)
    assert seen == {"typed": True}


@pytest.mark.parametrize(
    ("message", "kind"), [("std::bad_alloc", BuildMemoryError), ("no converter for aten.foo", EngineError)]
)
def test_its_refusal_is_ours(
    monkeypatch: pytest.MonkeyPatch, program: Any, message: str, kind: type[EngineError]
) -> None:
    def convert(exported: Any, **settings: Any) -> bytes:
        raise RuntimeError(message)

    install(monkeypatch, convert)
    with pytest.raises(kind, match=message):
        build_exported(program, OPTIONS)


def test_a_version_without_the_entry_point(monkeypatch: pytest.MonkeyPatch, program: Any) -> None:
    install(monkeypatch, None)
    with pytest.raises(EngineError, match="upgrade"):
        build_exported(program, OPTIONS)


@pytest.mark.parametrize(
    "options",
    [PlanOptions(), PlanOptions((SHAPES, SHAPES)), PlanOptions((SHAPES,), compute_capabilities=("8.0",))],
)
def test_options_that_it_does_not_take(program: Any, options: PlanOptions) -> None:
    with pytest.raises(UsageError):
        build_exported(program, options)


def test_a_quantized_program_is_refused() -> None:
    class Quantized(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return fake_quantize(x, torch.tensor(0.1), -1, -127, 127)

    quantized = torch.export.export(Quantized(), (torch.zeros(2, 8),))
    with pytest.raises(EngineError, match=r"1 quantizers \(gpusq\.fake_quantize"):
        build_exported(quantized, OPTIONS)
