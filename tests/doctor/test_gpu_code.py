"""Which GPUs a library carries code for, from file names and from real fat binaries."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpusq.doctor.gpu_code import gpu_code, library_folders, sm_of_cubins
from tests.doctor.machines import libraries, machine

FATBIN = Path(__file__).parent / "fixtures" / "three_gpus.fatbin"
LIB = "usr/lib/aarch64-linux-gnu"


def test_the_cubins_of_a_real_fat_binary() -> None:
    assert sm_of_cubins(FATBIN) == {80, 87, 90}


def test_fat_binaries_are_found_anywhere_in_a_library(tmp_path: Path) -> None:
    library = tmp_path / "libnvinfer.so.10.3.0"
    library.write_bytes(b"\x7fELF" + b"\0" * 1001 + FATBIN.read_bytes() + b"tail" * 9)
    assert sm_of_cubins(library) == {80, 87, 90}


def test_ptx_is_not_machine_code(tmp_path: Path) -> None:
    entry = struct.pack("<HHIQIIHHI", 1, 0x101, 64, 0, 0, 0, 0, 9, 90).ljust(64, b"\0")
    path = tmp_path / "ptx"
    path.write_bytes(struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(entry)) + entry)
    assert sm_of_cubins(path) == frozenset()


@given(st.integers(0, 10_000), st.binary(max_size=64))
def test_a_damaged_library_never_raises(cut: int, noise: bytes) -> None:
    import tempfile

    data = FATBIN.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lib.so"
        path.write_bytes(data[:cut] + noise + data[cut + len(noise) :][: 5000 - cut if cut < 5000 else 0])
        assert all(0 <= number < 2**32 for number in sm_of_cubins(path))


@pytest.mark.parametrize(
    "content", [b"", b"\x50", b"\x50\xed\x55\xba", b"\x50\xed\x55\xba\x01\x00\x10\x00" + b"\xff" * 8]
)
def test_empty_and_truncated_files_say_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "lib.so"
    path.write_bytes(content)
    assert sm_of_cubins(path) == frozenset()
    assert sm_of_cubins(tmp_path / "missing.so") == frozenset()


def test_names_of_builder_resources_decide(tmp_path: Path) -> None:
    libraries(
        tmp_path / LIB,
        "libnvinfer.so.10.16.2",
        "libnvinfer_builder_resource_sm87.so.10.16.2",
        "libnvinfer_builder_resource_ptx.so.10.16.2",
        "libnvinfer_plugin.so.10.16.2",
    )
    code = gpu_code(machine(tmp_path))
    assert code.named == {87}
    assert code.carries("8.7") is True
    assert code.carries("8.0") is False


def test_without_such_names_the_libraries_are_scanned(tmp_path: Path) -> None:
    libraries(tmp_path / LIB, "libnvinfer.so.10.3.0", data=FATBIN.read_bytes())
    libraries(tmp_path / LIB, "libnvinfer_builder_resource.so.10.3.0")
    code = gpu_code(machine(tmp_path))
    assert (code.named, code.cubins) == (frozenset(), {80, 87, 90})
    assert code.carries("8.7") is True
    assert code.carries("8.6") is False  # code for 8.0 would run there, but TensorRT refuses


def test_nothing_is_said_where_nothing_is_known(tmp_path: Path) -> None:
    assert gpu_code(machine(tmp_path)).files == ()
    libraries(tmp_path / LIB, "libnvinfer_lean.so.11", "libnvinfer_dispatch.so.11")
    assert gpu_code(machine(tmp_path)).files == ()
    libraries(tmp_path / LIB, "libnvinfer.so.11.4.1")
    assert gpu_code(machine(tmp_path)).carries("8.7") is None


def test_the_loader_path_comes_before_the_system_and_wheels_last(tmp_path: Path) -> None:
    wheel = libraries(
        tmp_path / "venv/tensorrt_libs", "libnvinfer_builder_resource_sm80.so.10.16.1", "libnvinfer.so.10"
    )
    system = libraries(tmp_path / LIB, "libnvinfer.so.10.3.0")
    own = libraries(tmp_path / "own", "libnvinfer.so.10.16.1")
    seen = machine(tmp_path, folders=(wheel,), environment={"LD_LIBRARY_PATH": "/own::/missing"})
    assert library_folders(seen) == [own, system, wheel]
    assert gpu_code(machine(tmp_path / "venv", folders=(wheel,))).named == {80}


def test_links_within_a_folder_are_read_once(tmp_path: Path) -> None:
    folder = libraries(tmp_path / LIB, "libnvinfer.so.10.3.0", data=FATBIN.read_bytes())
    (folder / "libnvinfer.so.10").symlink_to("libnvinfer.so.10.3.0")
    assert gpu_code(machine(tmp_path)).files == (str(folder / "libnvinfer.so.10.3.0"),)
