"""Targets: names, power modes, strict files, a source for every fact."""

from __future__ import annotations

import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from gpusq.errors import UnknownTargetError, UsageError
from gpusq.targets import load_target, read_target_file, target_names

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FAMILIES = ("a100", "h100", "agx-orin", "cpu")


def shipped(family: str) -> str:
    return resources.files("gpusq.targets").joinpath(f"{family}.toml").read_text(encoding="utf-8")


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", target_names())
def test_every_listed_name_loads_and_its_own_name_is_a_fixed_point(name: str) -> None:
    target = load_target(name)
    assert load_target(target.name) == target
    assert target.fingerprint == load_target(name).fingerprint


def test_defaults_stand_for_the_documented_variants() -> None:
    assert load_target("a100").name == load_target("A100-40GB").name == "a100-40gb"
    assert load_target("agx-orin") == load_target("agx-orin-64gb@maxn")
    assert load_target("agx-orin").power_mode == "MAXN"
    assert load_target("cpu").compute_capability is None


def test_variants_and_modes_have_different_fingerprints() -> None:
    kept = [n for n in target_names() if load_target(n).name == n]
    assert len({load_target(n).fingerprint for n in kept}) == len(kept)


def test_published_peaks() -> None:
    assert load_target("a100").peak("int8", "2:4") == 1248
    assert load_target("a100-80gb").bandwidth_gbs == 2039
    modes = {m: load_target(f"agx-orin-64gb@{m}").peak("int8", "2:4") for m in ("50W", "30W", "15W")}
    assert modes == pytest.approx({"50W": 109, "30W": 41, "15W": 14}, rel=0.01)
    assert load_target("agx-orin-32gb").peak("int8") == pytest.approx(53.3, rel=0.01)
    assert load_target("a100-80gb-pcie").bandwidth_gbs == 1935
    assert load_target("h100-pcie").peak("fp8", "2:4") == pytest.approx(3026, rel=0.001)
    assert load_target("h200").peak("bf16") == load_target("h100").peak("bf16") == 989
    assert load_target("h200").bandwidth_gbs == 4800


def test_what_a_power_mode_switches_off() -> None:
    modes = {m: load_target(f"agx-orin-64gb@{m}") for m in ("MAXN", "50W", "30W", "15W")}
    assert [t.units for t in modes.values()] == [16, 16, 8, 6]
    assert modes["30W"].bandwidth_gbs == modes["MAXN"].bandwidth_gbs
    assert modes["15W"].bandwidth_gbs == pytest.approx(204.8 * 2133 / 3200, rel=0.001)


def test_hopper_has_fp8_and_no_int4() -> None:
    h100 = load_target("h100")
    assert h100.peak("fp8") == h100.peak("int8")
    with pytest.raises(UsageError, match="fp8/dense"):
        h100.peak("int4")


def test_tensor_core_peaks_follow_one_formula() -> None:
    for name, ghz in (("a100", 1.41), ("agx-orin", 1.3), ("agx-orin-32gb", 0.93)):
        target = load_target(name)
        assert target.peak("int8") == pytest.approx(target.units * ghz * 4096 / 1e3, rel=0.01)


def test_a_cpu_has_no_2_4_gain_and_no_half_precision() -> None:
    cpu = load_target("cpu")
    assert cpu.peak("int8", "2:4") == cpu.peak("int8", "dense")
    with pytest.raises(UsageError, match="fp32/dense"):
        cpu.peak("fp16")


@pytest.mark.parametrize(("dtype", "sparsity"), [("fp8", "dense"), ("fp4", "dense"), ("int8", "4:8"), ("", "dense")])
def test_unknown_paths_are_refused(dtype: str, sparsity: str) -> None:
    with pytest.raises(UsageError):
        load_target("a100").peak(dtype, sparsity)


@pytest.mark.parametrize(("asked", "nearest"), [("a10", "a100"), ("agx-orn", "agx-orin"), ("a100-80", "a100-80gb")])
def test_unknown_names_list_the_nearest_first(asked: str, nearest: str) -> None:
    with pytest.raises(UnknownTargetError) as caught:
        load_target(asked)
    assert caught.value.do.startswith(f"use one of: {nearest},")
    assert all(name in caught.value.do for name in target_names())


def test_unknown_modes_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownTargetError, match="MAXN, 50W, 30W, 15W"):
        load_target("agx-orin@60W")
    with pytest.raises(UnknownTargetError, match="no power modes"):
        load_target("a100@400W")


def test_a_users_file_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, shipped("agx-orin").replace("value = 204.8", "value = 100.0"))
    assert load_target(str(path)).bandwidth_gbs == 100
    assert load_target(f"{path}@15W").peak("int8") < load_target(str(path)).peak("int8")
    assert load_target(str(path)).fingerprint != load_target("agx-orin").fingerprint


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("schema_version = 1", 'schema_version = 1\ncolour = "red"', "colour"),
        ("schema_version = 1", "schema_version = 2", "schema_version"),
        ('default = "a100-40gb"', 'default = "a100-20gb"', "a100-20gb"),
        ("[variants.a100-80gb]", "[variants.a100-80gb]\nweight = 3", "variants.a100-80gb.weight"),
        ('"int8/2:4" = { value = 1248', '"int8/2:4" = { value = -1', "peaks_tops.int8/2:4"),
        ('"int8/2:4" = { value', '"int8/1:4" = { value', "peaks_tops.int8/1:4"),
        (', source = "NVIDIA A100 data sheet: HBM2"', "", "bandwidth_gbs.source"),
        ('"NVIDIA A100 data sheet: HBM2"', '"  "', "bandwidth_gbs.source"),
    ],
)
def test_a_wrong_file_is_refused_with_file_and_key(tmp_path: Path, old: str, new: str, key: str) -> None:
    text = shipped("a100")
    assert old in text
    path = written(tmp_path, text.replace(old, new, 1))
    with pytest.raises(UnknownTargetError) as caught:
        read_target_file(path)
    assert str(path) in caught.value.what
    assert key in str(caught.value)


@pytest.mark.parametrize("content", [b"a = = 1", b"\xff\xfe", b""])
def test_unreadable_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(UnknownTargetError, match=r"bad\.toml"):
        load_target(str(path))
    with pytest.raises(UnknownTargetError, match="absent"):
        load_target(str(tmp_path / "absent.toml"))


def facts(node: Any, path: str = "") -> list[tuple[str, dict[str, Any]]]:
    """Every table that holds a number, with its path."""
    if not isinstance(node, dict):
        return []
    own = [(path, node)] if any(isinstance(v, int | float) for v in node.values()) else []
    return own + [found for key, child in node.items() for found in facts(child, f"{path}.{key}")]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_fact_has_a_source(family: str) -> None:
    found = facts(tomllib.loads(shipped(family)))
    assert len(found) > 10
    bare = [p for p, node in found if not node.get("source") and p not in ("", ".engine.gemm_scale")]
    assert bare == []
    assert "preliminary" not in shipped(family)


def test_fits_of_one_gpu_generation_share_their_provenance() -> None:
    a100, orin = load_target("a100"), load_target("agx-orin")
    assert set(a100.fit) == set(orin.fit)
    for path in ("fp16/dense", "fp16/2:4", "bf16/dense", "bf16/2:4", "int8/dense", "int8/2:4"):
        assert orin.fit[path].source.startswith(a100.fit[path].source)
        assert orin.fit[path].compute_efficiency == a100.fit[path].compute_efficiency
        assert orin.fit[path].error_p90 > a100.fit[path].error_p90
    assert orin.engine.error_p90 > a100.engine.error_p90


def test_paths_without_a_fit_take_the_nearest() -> None:
    a100 = load_target("a100")
    own, taken = a100.fit["int8/2:4"], a100.fit_of("int4", "2:4")
    assert taken.compute_efficiency == own.compute_efficiency
    assert taken.scaled
    assert not own.scaled
    assert taken.error_p90 > own.error_p90
    assert a100.fit_of("fp32", "2:4").scaled
    assert a100.fit_of("int8", "2:4") is own


def test_no_torch_is_imported() -> None:
    code = (
        "import sys, gpusq.targets, gpusq.latency\n"
        "gpusq.targets.load_target('a100'); gpusq.latency.host_conditions()\n"
        "sys.exit(1 if {'torch', 'onnx', 'scipy', 'openvino'} & set(sys.modules) else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
