"""Clocks, power and throttling of a Jetson: sysfs first, nvpmodel for the power mode, tegrastats where sysfs is closed.

Paths and rail names: NVIDIA Jetson Linux Developer Guide r36, "Jetson Orin Nano Series, Jetson Orin NX Series and
Jetson AGX Orin Series" (power monitor INA3221, thermal management, over-current events); the over-current counters
also NVIDIA's kernel driver of soctherm_oc. Not yet run on a device.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from gpusq.latency.clocks import Reading
from gpusq.latency.tegrastats_process import TegrastatsProcess, tegrastats_line

MODULE_RAILS = ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDD_IN")
"""Rails that add up to the module: three on AGX Orin, VDD_IN on Orin NX and Nano. Memory rails are fed by these."""
GPU_DEVFREQ = ("*gpu*", "*ga10b*", "*gv11b*")
ALERT = "-throttle-alert"
SENSOR_OFF_C = -100.0  # a sensor of a powered-down block reads -256
NVPMODEL = ("nvpmodel", "-q")
ANSWER_S = 5.0

_GPU = re.compile(r"GR3D\d*_FREQ (?:(\d+)%)?(?:@(?:\[([\d,]+)\]|(\d+)))?")
_EMC = re.compile(r"EMC_FREQ (?:\d+%)?@(\d+)")
_RAM = re.compile(r"RAM (\d+)/(\d+)MB")
_TEMPERATURE = re.compile(r"(\w+)@(-?\d+(?:\.\d+)?)C\b")
_RAIL = re.compile(r"\b([A-Z][A-Z0-9_]+) (\d+)mW(?:/(\d+)mW)?")

Run = Callable[[], str]
"""Runs a program and gives what it printed; empty where it cannot be run."""


@dataclass(frozen=True)
class Tegrastats:
    """One line of tegrastats. gpu_mhz: one for each graphics cluster. rails_mw: now. None: the line does not say."""

    gpu_percent: int | None
    gpu_mhz: tuple[int, ...]
    memory_mhz: int | None
    ram_mb: tuple[int, int] | None
    temperatures_c: dict[str, float]
    rails_mw: dict[str, int]


def parse_tegrastats(line: str) -> Tegrastats:
    """Read a line of JetPack 5, 6 or 7; parts that a version leaves out are None or empty.

    The GPU is written "45%", "0%@0 GR3D2_FREQ 0%@0", "0%@[0,0]" or "@[1000,1000]", depending on the version.
    """
    percents: list[int] = []
    clocks: list[int] = []
    for percent, several, one in _GPU.findall(line):
        percents += [int(percent)] if percent else []
        clocks += [int(text) for text in (several or one).split(",") if text]
    emc, ram = _EMC.search(line), _RAM.search(line)
    temperatures = {name: float(value) for name, value in _TEMPERATURE.findall(line)}
    return Tegrastats(
        max(percents, default=None),
        tuple(clocks),
        int(emc[1]) if emc else None,
        (int(ram[1]), int(ram[2])) if ram else None,
        {name: value for name, value in temperatures.items() if value > SENSOR_OFF_C},
        {name: int(now) for name, now, _ in _RAIL.findall(line) if name != "NC"},
    )


def parse_power_mode(text: str) -> str | None:
    """The mode that `nvpmodel -q` prints as "NV Power Mode: MAXN"; None for other text."""
    found = re.search(r"NV Power Mode:\s*(?:MODE_)?(.+)", text)
    return found[1].strip() if found else None


def module_watts(rails_mw: dict[str, int]) -> float | None:
    """Power of the module from its supply rails; None where none of them is named."""
    known = [mw for name, mw in rails_mw.items() if name in MODULE_RAILS]
    return sum(known) / 1e3 if known else None


class JetsonClocks:
    """`Clocks` of the Jetson at hand. For tests: root is where /sys is; power_mode and tegrastats run the programs.

    Between `begin` and `end` one tegrastats is kept open, started by the first reading that needs it.
    """

    name = "jetson"

    def __init__(self, root: Path = Path("/"), power_mode: Run | None = None, tegrastats: Run | None = None) -> None:
        self._sys = root / "sys"
        self._given = tegrastats
        self._watches = 0
        self._process: TegrastatsProcess | None = None
        self._mode = parse_power_mode((power_mode or nvpmodel_output)())

    def begin(self) -> None:
        """Many readings follow; `end` must too."""
        self._watches += 1

    def end(self) -> None:
        """The readings of one `begin` are done; the last one stops tegrastats."""
        self._watches -= 1
        if self._watches == 0 and self._process is not None:
            self._process.close()
            self._process = None

    def _tegrastats(self) -> str:
        if self._given is not None:
            return self._given()
        if not self._watches:
            return tegrastats_line()
        if self._process is None:
            self._process = TegrastatsProcess()
        return self._process.line()

    def read(self) -> Reading:
        hertz = next((value for value in map(_number, self._gpu_files()) if value is not None), None)
        rails = self._rails_mw()
        line = None
        if hertz is None or not rails:  # sysfs is not readable here, for example in a container
            line = parse_tegrastats(self._tegrastats())
        told = line.gpu_mhz if line else ()
        return Reading(
            core_mhz=hertz / 1e6 if hertz is not None else max(told, default=None),
            memory_mhz=line.memory_mhz if line else None,
            temperature_c=self._temperature(line),
            power_w=module_watts(rails or (line.rails_mw if line else {})),
            throttling=self._alerts(),
            counters=self._over_current(),
            power_mode=self._mode,
        )

    def _gpu_files(self) -> Iterable[Path]:
        for pattern in GPU_DEVFREQ:
            yield from sorted((self._sys / "class/devfreq").glob(f"{pattern}/cur_freq"))

    def _rails_mw(self) -> dict[str, int]:
        """Rail -> milliwatts: volts times amperes of every labelled channel of the power monitors."""
        rails = {}
        for label in sorted((self._sys / "class/hwmon").glob("hwmon*/in*_label")):
            channel = label.name.removeprefix("in").removesuffix("_label")
            millivolts = _number(label.with_name(f"in{channel}_input"))
            milliamperes = _number(label.with_name(f"curr{channel}_input"))
            if millivolts is not None and milliamperes is not None:
                rails[_text(label)] = round(millivolts * milliamperes / 1e3)
        return rails

    def _temperature(self, line: Tegrastats | None) -> float | None:
        """Of the hottest junction, degrees Celsius."""
        for kind in sorted((self._sys / "class/thermal").glob("thermal_zone*/type")):
            if _text(kind) in ("tj-thermal", "TJ-therm"):
                milli = _number(kind.with_name("temp"))
                return None if milli is None else milli / 1e3
        return line.temperatures_c.get("tj") if line else None

    def _alerts(self) -> tuple[str, ...] | None:
        """Thermal throttling that holds now; None where the kernel names no such device."""
        kinds = [k for k in (self._sys / "class/thermal").glob("cooling_device*/type") if _text(k).endswith(ALERT)]
        if not kinds:
            return None
        return tuple(sorted(_text(kind) for kind in kinds if _number(kind.with_name("cur_state"))))

    def _over_current(self) -> dict[str, int]:
        """Over-current events since boot, by alarm."""
        files = sorted((self._sys / "class/hwmon").glob("hwmon*/oc*_event_cnt"))
        counts = {f"over-current {file.name.partition('_')[0]}": _number(file) for file in files}
        return {name: int(count) for name, count in counts.items() if count is not None}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:  # root only, or a block that is switched off
        return ""


def _number(path: Path) -> float | None:
    try:
        return float(_text(path))
    except ValueError:
        return None


def nvpmodel_output() -> str:
    """What `nvpmodel -q` prints; empty where there is none."""
    try:
        return subprocess.run(NVPMODEL, capture_output=True, text=True, timeout=ANSWER_S, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
