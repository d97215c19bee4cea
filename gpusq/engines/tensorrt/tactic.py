"""What the name of a kernel says: 2:4 or dense, and the precision that it multiplies in.

Names were read from public layer dumps and from the kernel list of TensorRT-RTX 1.7.1, which names "sm80_xmma_gemm_",
"sm80_xmma_sparse_gemm_" and "sm80_xmma_fprop_sparse_conv_" kernels followed by <A><C>_<B><accumulator>_<scale>, such as
"i8i8_i8i32_f32". In that list the sparse INT8 GEMMs of sm_80 and sm_86 write INT8 only ("i8i8"); those of sm_90 also
write FP16 and FP32 ("i8f16", "i8f32").
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

Precision = Literal["int8", "fp8", "fp16", "bf16", "tf32", "fp32", "unknown"]

_HIDDEN = ("", "__myelin_CASK_STUB")
"""TensorRT-RTX chooses the kernel on the device, so its plan carries a stub."""
_SPARSE = re.compile(r"sparse|sptensor|spmma", re.IGNORECASE)
_XMMA = re.compile(r"_([a-z0-9]+?)_(i8|f16|bf16|f32|tf32|e4m3)(i32|f16|f32|bf16)_(?:f32|f16|bf16)(?:_|$)")
_BY_B: dict[str, Precision] = {
    "i8": "int8",
    "f16": "fp16",
    "bf16": "bf16",
    "f32": "fp32",
    "tf32": "tf32",
    "e4m3": "fp8",
}
_WORDS: tuple[tuple[re.Pattern[str], Precision], ...] = (
    (re.compile(r"int8|i8816|i16832|imma", re.IGNORECASE), "int8"),
    (re.compile(r"tf32", re.IGNORECASE), "tf32"),
    (re.compile(r"h16816|h884|h1688|f16f16|fp16|hmma|_s16816|_s1688gemm_f16", re.IGNORECASE), "fp16"),
    (re.compile(r"sgemm|scudnn|_f32f32_|fp32", re.IGNORECASE), "fp32"),
)
_BY_TYPE: tuple[tuple[str, Precision], ...] = (
    ("Int8", "int8"),
    ("FP8", "fp8"),
    ("BFloat16", "bf16"),
    ("Half", "fp16"),
    ("Float", "fp32"),
)


def is_sparse_tactic(tactic: str) -> bool | None:
    """True for a 2:4 kernel, False for a dense one, None where the name is hidden or of a generated kernel.

    "HasSparseWeights" is no proof: it says that the weights have the pattern (NVIDIA/TensorRT#4694).
    """
    if tactic in _HIDDEN or tactic.startswith(("__myl_", "0x")):
        return None
    return bool(_SPARSE.search(tactic))


def precision_of_tactic(tactic: str) -> Precision | None:
    """The multiplicands' precision, None where the name does not say it."""
    if match := _XMMA.search(tactic):
        return _BY_B[match[2]]
    return next((precision for pattern, precision in _WORDS if pattern.search(tactic)), None)


def precision_of_operands(inputs: Iterable[str], weights: Iterable[str]) -> Precision:
    """By datatypes: of the activations that go in and, where shown, of the constants it multiplies with.

    INT8 needs both: INT8 weights beside FP16 activations are widened before the product. Scales and biases stand
    beside the multiplicands in a higher precision, so the lowest type counts.
    """
    given, constants = set(inputs) - {""}, set(weights) - {""}
    if "Int8" in given and constants and "Int8" not in constants:
        given -= {"Int8"} if len(given) > 1 else set()
    return _lowest(given or constants)


def _lowest(datatypes: set[str]) -> Precision:
    return next((precision for name, precision in _BY_TYPE if name in datatypes), "unknown")
