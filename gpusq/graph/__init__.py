"""ONNX: export, Q/DQ, precision, 2:4 and parity checks, lint against what TensorRT accepts."""

from gpusq.graph.box_parity import BoxParity, Found, found_of, match_detections
from gpusq.graph.checks import check_sparsity, violations_nm
from gpusq.graph.export_onnx import export_onnx
from gpusq.graph.fp16 import to_fp16
from gpusq.graph.lint import Finding, check_lint, lint_tensorrt
from gpusq.graph.model_file import model_bytes, read_model
from gpusq.graph.parity import Parity, check_parity, compare
from gpusq.graph.precision import type_problems
from gpusq.graph.sampler import gather_grid_samples
from gpusq.graph.signature import Signature, check_signature, signature
from gpusq.graph.weights import StoredWeight, stored_weights

__all__ = [
    "BoxParity",
    "Finding",
    "Found",
    "Parity",
    "Signature",
    "StoredWeight",
    "check_lint",
    "check_parity",
    "check_signature",
    "check_sparsity",
    "compare",
    "export_onnx",
    "found_of",
    "gather_grid_samples",
    "lint_tensorrt",
    "match_detections",
    "model_bytes",
    "read_model",
    "signature",
    "stored_weights",
    "to_fp16",
    "type_problems",
    "violations_nm",
]
