"""Clocks, power and throttling: read from what devices print and from their files, and summed up honestly."""

from __future__ import annotations

import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpusq.latency import jetson_clocks, tegrastats_process
from gpusq.latency.clocks import NoClocks, Reading, Watch, open_clocks
from gpusq.latency.jetson_clocks import JetsonClocks, module_watts, parse_power_mode, parse_tegrastats
from gpusq.latency.nvml_clocks import NvmlClocks, open_nvml, reasons_of
from tests.latency.tegrastats_lines import ELIDED, RECORDED, WRITTEN


def test_recorded_lines_of_jetpack_5_and_6() -> None:
    idle = parse_tegrastats(RECORDED["orin r35 idle"])
    assert (idle.gpu_percent, idle.gpu_mhz, idle.memory_mhz, idle.ram_mb) == (0, (0, 0), 2133, (1282, 62795))
    assert idle.temperatures_c == {
        "CPU": 42.593, "Tboard": 32.0, "SOC2": 39.343, "Tdiode": 33.25, "SOC0": 39.375, "tj": 42.593, "SOC1": 40.468,
    }  # fmt: skip
    assert idle.rails_mw == {"VDD_GPU_SOC": 2399, "VDD_CPU_CV": 400, "VIN_SYS_5V0": 4032, "VDDQ_VDD2_1V8AO": 301}
    busy = parse_tegrastats(RECORDED["orin r36 busy"])
    assert (busy.gpu_percent, busy.gpu_mhz, busy.memory_mhz) == (0, (0, 0), 2133)
    assert busy.temperatures_c == {"cpu": 52.562, "soc2": 48.437, "soc0": 49.093, "tj": 52.562, "soc1": 49.656}
    assert module_watts(busy.rails_mw) == pytest.approx(8.726)
    later = parse_tegrastats(RECORDED["orin r36 later"])
    assert later.rails_mw["VIN_SYS_5V0"] == 4607  # now, not the average


def test_the_gpu_is_read_in_every_form() -> None:
    r39 = parse_tegrastats(ELIDED["orin r39"])
    assert (r39.gpu_percent, r39.gpu_mhz, r39.memory_mhz) == (0, (1300, 1300), 3199)
    assert r39.temperatures_c == {"cpu": 52.968}
    two = parse_tegrastats(ELIDED["orin nx two clusters"])
    assert (two.gpu_percent, two.gpu_mhz) == (99, (917, 0))
    full = parse_tegrastats(WRITTEN["orin full load"])
    assert (full.gpu_percent, full.gpu_mhz) == (99, (1300, 1300))
    assert module_watts(full.rails_mw) == 35.0  # memory is fed by the others
    thor = parse_tegrastats(WRITTEN["thor form"])
    assert (thor.gpu_percent, thor.gpu_mhz) == (None, (1000, 1000, 1000))


@given(st.text(max_size=200), st.sampled_from(sorted(RECORDED.values())), st.integers(0, 600))
def test_torn_and_foreign_lines_are_read_as_far_as_they_go(noise: str, line: str, cut: int) -> None:
    parse_tegrastats(noise)
    torn = parse_tegrastats(line[:cut])
    assert set(torn.rails_mw) <= set(parse_tegrastats(line).rails_mw) | {"VDD_GPU_SO", "VDD_CPU_C", "VIN_SYS_5V"}


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("NV Power Mode: MAXN\n0\n", "MAXN"),
        ("NV Power Mode: MODE_30W\n2\n", "30W"),
        ("NVPM WARN: fan mode is not set!\nNV Power Mode: MAXN_SUPER\n2", "MAXN_SUPER"),
        ("", None),
        ("nvpmodel: command not found", None),
    ],
)
def test_power_modes(text: str, mode: str | None) -> None:
    assert parse_power_mode(text) == mode


def write(root: Path, name: str, text: str) -> None:
    path = root / "sys/class" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def jetson(root: Path) -> Path:
    """An AGX Orin's /sys, by hand from the Jetson Linux Developer Guide r36 and names that its users list."""
    write(root, "devfreq/17000000.gpu/cur_freq", "1300500000")
    for channel, name, millivolts, milliamperes in (
        (1, "VDD_GPU_SOC", 19000, 1200),
        (2, "VDD_CPU_CV", 19000, 200),
        (3, "VIN_SYS_5V0", 5000, 1000),
    ):
        write(root, f"hwmon/hwmon3/in{channel}_label", name)
        write(root, f"hwmon/hwmon3/in{channel}_input", str(millivolts))
        write(root, f"hwmon/hwmon3/curr{channel}_input", str(milliamperes))
    write(root, "hwmon/hwmon3/in7_label", "sum of shunt voltages")
    write(root, "thermal/thermal_zone8/type", "tj-thermal")
    write(root, "thermal/thermal_zone8/temp", "64500")
    for index, kind in enumerate(("pwm-fan", "gpu-throttle-alert", "cpu-throttle-alert")):
        write(root, f"thermal/cooling_device{index}/type", kind)
        write(root, f"thermal/cooling_device{index}/cur_state", "3" if kind == "pwm-fan" else "0")
    for index in (1, 2, 3):
        write(root, f"hwmon/hwmon5/oc{index}_event_cnt", "7")
    return root


def refuse() -> str:
    raise AssertionError("tegrastats is not asked where sysfs answers")


def test_a_jetson_is_read_from_its_files(tmp_path: Path) -> None:
    clocks = JetsonClocks(jetson(tmp_path), lambda: "NV Power Mode: MODE_50W\n3", refuse)
    found = clocks.read()
    assert (found.core_mhz, found.temperature_c, found.power_mode) == (1300.5, 64.5, "50W")
    assert found.power_w == pytest.approx(22.8 + 3.8 + 5.0)
    assert found.throttling == ()  # a turning fan throttles nothing
    assert found.counters == {"over-current oc1": 7, "over-current oc2": 7, "over-current oc3": 7}


def test_heat_and_over_current_are_throttling(tmp_path: Path) -> None:
    clocks = JetsonClocks(jetson(tmp_path), lambda: "", refuse)
    watch = Watch(clocks)
    watch.look()
    assert watch.throttled is False
    write(tmp_path, "thermal/cooling_device1/cur_state", "2")
    watch.look()
    write(tmp_path, "thermal/cooling_device1/cur_state", "0")
    write(tmp_path, "hwmon/hwmon5/oc3_event_cnt", "9")
    watch.look()
    assert watch.throttled is True
    assert watch.reasons == ("gpu-throttle-alert", "over-current oc3")
    assert watch.clocks == "core 1300 MHz"


def test_where_sysfs_is_closed_tegrastats_is_read(tmp_path: Path) -> None:
    found = JetsonClocks(tmp_path, lambda: "", lambda: WRITTEN["orin full load"]).read()
    assert (found.core_mhz, found.memory_mhz, found.power_w, found.temperature_c) == (1300, 3199, 35.0, 81.5)
    assert found.throttling is None


def test_without_its_programs_a_jetson_says_nothing_and_does_not_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jetson_clocks, "NVPMODEL", (str(tmp_path / "none"),))
    tegrastats(monkeypatch, tmp_path / "none")
    assert JetsonClocks(tmp_path).read() == Reading()
    with Watch(JetsonClocks(tmp_path)) as watch:
        watch.look()
    assert watch.readings == [Reading(), Reading()]


def tegrastats(monkeypatch: pytest.MonkeyPatch, program: Path) -> None:
    """Let this program be tegrastats."""
    monkeypatch.setattr(tegrastats_process, "TEGRASTATS", (str(program),))


def script(path: Path, text: str) -> Path:
    """A shell script that stands in for tegrastats and writes its process number to `starts` each time it starts."""
    path.write_text(f"#!/bin/sh\necho $$ >>{path.parent}/starts\n{text}\n")
    path.chmod(0o755)
    return path


def starts(folder: Path) -> list[int]:
    """Process numbers of the scripts that were started."""
    file = folder / "starts"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def until_another(watch: Watch) -> None:
    """Look until another line was read, which must come by itself."""
    newest, end = watch.readings[-1].core_mhz, time.monotonic() + 20
    while watch.readings[-1].core_mhz == newest:
        assert time.monotonic() < end, "no newer line came"
        watch.look()


COUNTING = 'n=100; while :; do n=$((n + 1)); echo "GR3D_FREQ 45%@$n"; sleep 0.01; done'


def test_programs_are_run_and_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tegrastats(monkeypatch, script(tmp_path / "tegrastats", "while :; do echo 'GR3D_FREQ 45%'; sleep 0.01; done"))
    assert tegrastats_process.tegrastats_line() == "GR3D_FREQ 45%\n"
    monkeypatch.setattr(jetson_clocks, "NVPMODEL", ("/bin/echo", "NV Power Mode: MAXN"))
    assert parse_power_mode(jetson_clocks.nvpmodel_output()) == "MAXN"


def test_a_watch_keeps_one_tegrastats_open_and_reads_its_newest_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tegrastats(monkeypatch, script(tmp_path / "tegrastats", COUNTING))
    clocks = JetsonClocks(tmp_path, lambda: "")
    with Watch(clocks) as watch:
        until_another(watch)
        seen = [reading.core_mhz or 0 for reading in watch.readings]
        assert seen == sorted(seen)
        with Watch(clocks):  # a second one shares it, and does not stop it
            pass
        until_another(watch)
        (number,) = starts(tmp_path)
        assert Path(f"/proc/{number}").exists()
    assert not Path(f"/proc/{number}").exists()
    watch.close()  # twice is once
    assert (clocks.read().core_mhz or 0) > 100  # outside a watch: one line of a process of its own
    assert len(starts(tmp_path)) == 2


def test_tegrastats_is_not_started_where_sysfs_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tegrastats(monkeypatch, script(tmp_path / "tegrastats", COUNTING))
    with Watch(JetsonClocks(jetson(tmp_path), lambda: "")) as watch:
        watch.look()
    assert starts(tmp_path) == []


@pytest.mark.parametrize(("text", "said"), [("exit 3", None), ("echo 'GR3D_FREQ 1%@77'; exit 3", 77.0)])
def test_a_tegrastats_that_ends_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: float | None
) -> None:
    tegrastats(monkeypatch, script(tmp_path / "tegrastats", text))
    with Watch(JetsonClocks(tmp_path, lambda: "")) as watch:
        watch.look()
    assert watch.readings[-1].core_mhz == said


def test_one_that_does_not_stop_when_asked_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tegrastats_process, "ANSWER_S", 0.5)
    deaf = "trap '' TERM; while :; do echo 'GR3D_FREQ 1%@77'; sleep 0.01; done"
    tegrastats(monkeypatch, script(tmp_path / "tegrastats", deaf))
    process = tegrastats_process.TegrastatsProcess()
    while not process.line():
        pass
    process.close()
    assert not Path(f"/proc/{starts(tmp_path)[0]}").exists()


class NVMLError(Exception):
    """As in nvidia-ml-py."""


def nvml(**answers: Any) -> Any:
    """pynvml by hand from nvml.h: answers[name] is a value, or absent for "not supported"."""

    def asked(name: str) -> Any:
        def function(*arguments: Any) -> Any:
            if name not in answers:
                raise NVMLError("Not Supported")
            return answers[name](*arguments) if callable(answers[name]) else answers[name]

        return function

    names = (
        "nvmlInit",
        "nvmlDeviceGetHandleByPciBusId",
        "nvmlDeviceGetHandleByIndex",
        "nvmlDeviceGetCurrentClocksEventReasons",
        "nvmlDeviceGetCurrentClocksThrottleReasons",
        "nvmlDeviceGetEnforcedPowerLimit",
        "nvmlDeviceGetClockInfo",
        "nvmlDeviceGetTemperature",
        "nvmlDeviceGetPowerUsage",
        "nvmlDeviceGetTotalEnergyConsumption",
        "nvmlDeviceGetViolationStatus",
    )
    constants = {"NVML_CLOCK_SM": 1, "NVML_CLOCK_MEM": 2, "NVML_TEMPERATURE_GPU": 0, "NVML_PERF_POLICY_POWER": 0,
                 "NVML_PERF_POLICY_THERMAL": 1}  # fmt: skip
    return types.SimpleNamespace(NVMLError=NVMLError, **constants, **{name: asked(name) for name in names})


A100 = {
    "nvmlDeviceGetCurrentClocksEventReasons": 0x4,
    "nvmlDeviceGetEnforcedPowerLimit": 400_000,
    "nvmlDeviceGetClockInfo": lambda handle, kind: {1: 1395, 2: 1215}[kind],
    "nvmlDeviceGetTemperature": 55,
    "nvmlDeviceGetPowerUsage": 250_500,
    "nvmlDeviceGetTotalEnergyConsumption": 9_000_000,
    "nvmlDeviceGetViolationStatus": lambda handle, policy: types.SimpleNamespace(violationTime=policy * 1000),
}


def test_nvml_is_read_in_its_units() -> None:
    found = NvmlClocks(nvml(**A100), "handle").read()
    assert (found.core_mhz, found.memory_mhz, found.temperature_c) == (1395, 1215, 55)
    assert (found.power_w, found.energy_j, found.power_mode) == (250.5, 9000.0, "400 W limit")
    assert found.throttling == ("software power cap",)
    assert found.counters == {"power limit": 0, "temperature limit": 1000}


def test_the_older_name_of_the_reasons_is_asked_too_and_nothing_need_be_answered() -> None:
    answers = {"nvmlDeviceGetCurrentClocksThrottleReasons": 0x48}
    assert NvmlClocks(nvml(**answers), "handle").read().throttling == ("hardware slowdown", "hardware thermal slowdown")
    assert NvmlClocks(nvml(), "handle").read() == Reading()


@given(st.integers(0, 0x1FF))
def test_settings_are_not_throttling(mask: int) -> None:
    assert bool(reasons_of(mask)) == bool(mask & (0x4 | 0x8 | 0x20 | 0x40 | 0x80))
    assert reasons_of(mask & (0x1 | 0x2 | 0x10 | 0x100)) == ()


def test_the_real_library_has_every_name_and_says_no_without_a_driver() -> None:
    real = pytest.importorskip("pynvml")
    for name in vars(nvml()):
        assert hasattr(real, name), name


def test_the_right_gpu_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"nvmlInit": None, "nvmlDeviceGetHandleByPciBusId": lambda pci: pci, **A100}
    monkeypatch.setitem(sys.modules, "pynvml", nvml(**answers))
    opened = open_nvml("0000:07:00.0")
    assert opened is not None
    assert opened._handle == "0000:07:00.0"
    monkeypatch.setitem(sys.modules, "pynvml", nvml())
    assert open_nvml() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert open_nvml() is None


def test_this_machine_has_some_source() -> None:
    assert isinstance(open_clocks().read(), Reading)


class Script:
    """Readings in order."""

    name = "script"

    def __init__(self, *readings: Reading) -> None:
        self._left = list(readings)

    def read(self) -> Reading:
        return self._left.pop(0)


def watched(*readings: Reading) -> Watch:
    watch = Watch(Script(*readings))
    for _ in readings[1:]:
        watch.look()
    return watch


def test_a_watch_says_what_held_under_load_not_before() -> None:
    watch = watched(Reading(core_mhz=210, memory_mhz=1215), Reading(1395, 1215), Reading(1410, 1215))
    assert watch.clocks == "core 1395 to 1410 MHz, memory 1215 MHz"
    assert watch.to_json()["before"]["core_mhz"] == 210


def test_a_device_that_cannot_tell_is_not_called_unthrottled() -> None:
    assert watched(Reading(), Reading()).throttled is None
    assert watched(Reading(throttling=()), Reading(throttling=())).throttled is False
    assert watched(Reading(throttling=()), Reading(throttling=("heat",)), Reading(throttling=())).throttled is True
    assert watched(Reading(counters={"oc": 3}), Reading(counters={"oc": 3})).throttled is False
    assert watched(Reading(counters={"oc": 3}), Reading(counters={"oc": 4})).reasons == ("oc",)


def test_energy_comes_from_the_counter_else_from_power() -> None:
    assert watched(Reading(energy_j=100.0), Reading(energy_j=130.0)).energy_j(2.0) == (30.0, "script: energy counter")
    power = watched(Reading(power_w=999.0), Reading(power_w=10.0), Reading(power_w=20.0))
    assert power.energy_j(2.0) == (30.0, "script: mean of 2 power readings")
    assert Watch(NoClocks()).energy_j(1.0) is None


def test_a_power_mode_that_changed_is_shown() -> None:
    assert watched(Reading(power_mode="30W"), Reading(power_mode="MAXN")).power_mode == "30W then MAXN"
