"""The whole examination: on this machine, and on imitated ones, through the command as well."""

from __future__ import annotations

import json
import platform
import sys
from collections import namedtuple
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gpusq import doctor
from gpusq.cli.main import app
from gpusq.doctor import Finding, Machine, examine, host
from gpusq.doctor.machine import import_error, output_of
from tests.doctor import machines
from tests.doctor.machines import a100, libraries, machine, orin

MEND = "pip install '.[host]' in a clone of gpusq"

LIB = "usr/lib/aarch64-linux-gnu"


def by_name(found: list[Finding]) -> dict[str, Finding]:
    return {f.what: f for f in found}


def test_every_finding_here_has_a_mend_unless_it_is_ok() -> None:
    found = examine()
    assert len({f.what for f in found}) == len(found)
    assert all(f.got for f in found)
    assert all(f.do for f in found if f.state != "ok")
    assert version("torch") in by_name(found)["torch"].got


def test_libraries_that_are_missing_name_their_extra(tmp_path: Path) -> None:
    found = by_name(examine(machine(tmp_path)))
    assert found["torch"] == Finding("torch", "absent", "not installed; needed for prune, qat and export", MEND)
    assert found["tensorrt"].do == MEND.replace("host", "tensorrt")


def test_little_memory_and_disk_are_problems(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import psutil

    memory, disk = namedtuple("memory", "available"), namedtuple("disk", "free")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory(2**30))
    monkeypatch.setattr(host.shutil, "disk_usage", lambda _: disk(2**30))
    found = by_name(examine(machine(tmp_path)))
    assert (found["memory"].state, found["memory"].got) == ("problem", "1.0 GiB available")
    assert (found["disk"].state, found["disk"].got) == ("problem", "1.0 GiB free here")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory(2**34))
    assert by_name(examine(machine(tmp_path)))["memory"].state == "ok"

    def no_proc() -> None:
        raise FileNotFoundError(2, "No such file or directory", "/proc/meminfo")

    monkeypatch.setattr(psutil, "virtual_memory", no_proc)
    assert by_name(examine(machine(tmp_path)))["memory"].state == "absent"


@pytest.mark.parametrize(("python", "state"), [((3, 9), "problem"), ((3, 10), "ok"), ((3, 14), "problem")])
def test_the_python_that_is_supported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, python: tuple[int, int], state: str
) -> None:
    monkeypatch.setattr(sys, "version_info", (*python, 0, "final", 0))
    assert host.python(machine(tmp_path)).state == state


def test_a_processor_without_int8_instructions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert "none found" in host.processor(machine(tmp_path, {"proc/cpuinfo": "flags : sse2\n"})).got
    assert "avx512_vnni" in host.processor(machine(tmp_path, {"proc/cpuinfo": "flags : avx512_vnni sse2\n"})).got


def test_a_jetson_in_order_has_no_problem(tmp_path: Path) -> None:
    libraries(tmp_path / LIB, "libnvinfer.so.10.16.2", "libnvinfer_builder_resource_sm87.so.10.16.2")
    found = by_name(examine(orin(tmp_path, machines.R39, packages={"tensorrt": "10.16.2.10"})))
    assert found["TensorRT code for this GPU"].state == "ok"
    assert [f.what for f in found.values() if f.state == "problem"] == []


def test_the_broken_jetson_of_a_user_is_found_out(tmp_path: Path) -> None:
    """TensorRT 10.13.3 on JetPack 7.2, as in NVIDIA-ISAAC-ROS/isaac-ros-cli#22: both checks see it."""
    libraries(
        tmp_path / LIB,
        "libnvinfer.so.10.13.3",
        "libnvinfer_builder_resource_sm86.so.10.13.3",
        "libnvinfer_builder_resource_sm89.so.10.13.3",
    )
    found = by_name(examine(orin(tmp_path, machines.R39)))  # no Python package: the version is on the file
    code = found["TensorRT code for this GPU"]
    assert (code.state, "not sm_87" in code.got, "10.16" in code.do) == ("problem", True, True)
    listed = found["known bad: tensorrt-10.13.3-without-sm87"]
    assert listed.state == "problem"
    assert listed.source == ("https://github.com/NVIDIA-ISAAC-ROS/isaac-ros-cli/issues/22",)


def test_a_library_that_does_not_import_is_a_problem(tmp_path: Path) -> None:
    error = "ImportError: libnvonnxparser.so.11: cannot open shared object file"
    found = by_name(examine(a100(tmp_path, packages={"tensorrt-cu13": "11.4.0.106"}, broken={"tensorrt": error})))[
        "tensorrt"
    ]
    assert (found.state, error in found.got) == ("problem", True)
    jetson = by_name(examine(orin(tmp_path / "jetson")))["tensorrt"]
    assert "nvidia-jetpack" in jetson.do


def test_a_model_is_held_against_the_list(tmp_path: Path) -> None:
    server = a100(tmp_path, packages={"tensorrt": "10.16.1.11"})
    waiting = by_name(examine(server))["known-bad list"]
    assert (waiting.state, "GridSample" in waiting.do) == ("ok", True)
    found = by_name(examine(server, {"GridSample"}))
    assert found["known bad: gridsample-wrong-output"].state == "problem"
    assert [f for f in examine(server, {"MatMul"}) if f.state == "problem"] == []


def test_the_command_prints_sources_and_ends_with_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        doctor,
        "Machine",
        lambda: a100(tmp_path, packages={"tensorrt": "10.16", "onnxruntime": "1", "onnxruntime-gpu": "1"}),
    )
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1
    assert "problem  known bad: onnxruntime-twice" in done.stdout
    assert "https://onnxruntime.ai/docs/install/" in done.stdout
    told = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)["findings"]
    assert {"what", "state", "got", "do", "source"} == set(told[0])


def test_the_command_refuses_a_model_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no")
    assert CliRunner().invoke(app, ["doctor", "--onnx", str(tmp_path / "m.onnx")]).exit_code == 4
    assert CliRunner().invoke(app, ["doctor", "--bundle", str(tmp_path)]).exit_code == 5


def test_how_a_real_machine_is_asked(tmp_path: Path) -> None:
    assert output_of([sys.executable, "-c", "print('hello')"]) == "hello\n"
    assert output_of([sys.executable, "-c", "raise SystemExit(1)"]) is None
    assert output_of([str(tmp_path / "no-such-program")]) is None
    assert output_of([sys.executable, "-c", "import time; time.sleep(60)"], seconds=0.2) is None
    assert import_error("json") == ""
    assert import_error("no_such_module_at_all") is None
    real = Machine()
    assert real.read("proc/version")
    assert real.read("no/such/file") is None


def test_an_import_that_fails_gives_its_last_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "breaks_on_import.py").write_text("raise ImportError('libnvinfer.so.11')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert import_error("breaks_on_import") == "ImportError: libnvinfer.so.11"
