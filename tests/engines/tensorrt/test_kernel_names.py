"""The names of kernels, read from the real library: thousands of them, and what they say of sparse INT8."""

from __future__ import annotations

import importlib.util
import mmap
import re
from pathlib import Path

import pytest

from gpusq.engines.tensorrt.tactic import is_sparse_tactic, precision_of_tactic

NAME = re.compile(rb"sm\d\d_xmma_[a-z0-9_]{20,}")
GEMM = re.compile(r"sm(\d\d)_xmma_sparse_gemm_(i8)(i8|f16|f32|bf16)_i8i32_f32_")


@pytest.fixture(scope="module")
def names() -> set[str]:
    spec = importlib.util.find_spec("tensorrt_rtx_libs")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs the rtx extra: pip install 'gpusq[rtx]'")
    (library,) = Path(next(iter(spec.submodule_search_locations))).glob("libtensorrt_rtx.so.*")
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return {match.group().decode() for match in NAME.finditer(content)}


def test_every_name_tells_its_precision_and_its_sparsity(names: set[str]) -> None:
    products = {name for name in names if re.search("gemm|conv|fprop", name) and "tilesize" in name}
    assert len(products) > 1000
    assert {name for name in products if precision_of_tactic(name) is None} == set()
    assert {name for name in products if is_sparse_tactic(name) is None} == set()
    assert {is_sparse_tactic(name) for name in products} == {True, False}
    for name in products:
        if "_i8i8_i8i32_" in name:
            assert precision_of_tactic(name) == "int8"
        assert is_sparse_tactic(name) is ("sparse" in name)


def test_sparse_int8_products_of_ampere_write_int8_and_nothing_else(names: set[str]) -> None:
    """Why output quantizers matter there, and not on compute capability 9.0 (see `tactic`)."""
    written: dict[str, set[str]] = {}
    for name in names:
        if match := GEMM.match(name):
            written.setdefault(match[1], set()).add(match[3])
    assert written["80"] == written["86"] == {"i8"}
    assert written["90"] >= {"i8", "f16", "f32"}
