"""What became of one family, in plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

STEPS = ("intake", "prune", "quantize", "export", "build")
"""build: TensorRT-RTX parses the strongly typed FP16 file and builds it for compute capability 8.0."""


@dataclass
class FamilyResult:
    """Filled step by step. done: the steps that passed. why: the refusal that stopped it, empty where none did.

    parameters: of the dense model. sparse, int8: shares (0 to 1) of the GEMM multiply-adds. dense, dense_half,
    quantized, half: parity of ONNX Runtime with PyTorch (`gpusq.graph.Parity` as data) of the dense float32 and FP16
    files and of those of the 2:4 INT8 model. itself: that PyTorch model beside itself, for the arithmetic of each file
    (`gpusq.zoo.agreement`). passes: of training, 0 for fresh weights. compared: what the agreements count. int8_gemms:
    quantized layers that the built engine runs as INT8 GEMMs, of int8_layers.
    """

    family: str
    model: str
    done: list[str] = field(default_factory=list)
    why: str = ""
    task: str = ""
    input_shape: tuple[int, ...] = ()
    parameters: int = 0
    sparse: float | None = None
    int8: float | None = None
    compared: str = ""
    dense: dict[str, Any] | None = None
    dense_half: dict[str, Any] | None = None
    quantized: dict[str, Any] | None = None
    half: dict[str, Any] | None = None
    itself: dict[str, dict[str, float]] | None = None
    int8_gemms: int | None = None
    int8_layers: int | None = None
    fused_attention: int | None = None
    seconds: float = 0.0
    passes: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether every step was passed."""
        return tuple(self.done) == STEPS

    def to_json(self) -> dict[str, Any]:
        """Plain data, with `passed`."""
        return asdict(self) | {"passed": self.passed}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> FamilyResult:
        """Read what `to_json` wrote."""
        given = {key: value for key, value in data.items() if key != "passed"}
        return cls(**given | {"input_shape": tuple(data["input_shape"])})
