"""Clocks, power and throttling of a GPU while it is measured: what a row must say about its conditions.

NVML is read on data-centre GPUs (`nvml_clocks`), sysfs, nvpmodel and tegrastats on a Jetson (`jetson_clocks`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol, runtime_checkable

JETSON_RELEASE = Path("/etc/nv_tegra_release")
JETSON_GPU = Path("/sys/class/devfreq")


@dataclass(frozen=True)
class Reading:
    """One look at the device; None: it does not say.

    core_mhz, memory_mhz, temperature_c, power_w: now. throttling: reasons that hold now, empty for none.
    counters: events or nanoseconds of throttling since some start; only differences mean anything.
    energy_j: joules since some start. power_mode: as the device names it, or its power limit.
    """

    core_mhz: float | None = None
    memory_mhz: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    throttling: tuple[str, ...] | None = None
    counters: Mapping[str, int] = field(default_factory=dict)
    energy_j: float | None = None
    power_mode: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "counters": dict(self.counters)}


class Clocks(Protocol):
    """A source of readings; `name` says which."""

    name: str

    def read(self) -> Reading:
        """What holds now. Never raises: what cannot be read is None."""
        ...


@runtime_checkable
class Watchable(Protocol):
    """Clocks that keep something open while they are read again and again."""

    def begin(self) -> None:
        """Many readings follow."""
        ...

    def end(self) -> None:
        """They are done."""
        ...


class NoClocks:
    """Where nothing can be read."""

    name = "none"

    def read(self) -> Reading:
        return Reading()


def open_clocks(pci: str = "") -> Clocks:
    """The source for the GPU at this PCI address (the first one where empty): Jetson, NVML, or none."""
    if JETSON_RELEASE.is_file() or any("ga10b" in p.name or "gpu" in p.name for p in _entries(JETSON_GPU)):
        from gpusq.latency.jetson_clocks import JetsonClocks

        return JetsonClocks()
    from gpusq.latency.nvml_clocks import open_nvml

    return open_nvml(pci) or NoClocks()


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


class Watch:
    """Readings taken before, during and after a measurement, and what they say of it. Close it, or use it in `with`."""

    def __init__(self, clocks: Clocks) -> None:
        self._clocks = clocks
        self._open = isinstance(clocks, Watchable)
        if isinstance(clocks, Watchable):
            clocks.begin()
        self.readings: list[Reading] = [clocks.read()]

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """No more looks; what was read stays. Twice is once."""
        if self._open and isinstance(self._clocks, Watchable):
            self._clocks.end()
        self._open = False

    def look(self) -> None:
        """Take one more reading: files, calls of NVML, or the newest line of a tegrastats that stays open meanwhile.

        Nothing is started and nothing waited for after the first reading, so a measuring loop may look every 50 ms.
        """
        self.readings.append(self._clocks.read())

    @property
    def throttled(self) -> bool | None:
        """Whether any reading named a reason, or a counter moved; None where the device cannot tell."""
        told = [r for r in self.readings if r.throttling is not None or r.counters]
        return bool(self.reasons) if told else None

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it throttled, each reason once, sorted."""
        found = {reason for reading in self.readings for reason in reading.throttling or ()}
        first, last = self.readings[0].counters, self.readings[-1].counters
        found |= {name for name in last if last[name] > first.get(name, last[name])}
        return tuple(sorted(found))

    @property
    def clocks(self) -> str | None:
        """ "core 1395 to 1410 MHz, memory 1593 MHz", from the readings under load; None where unknown."""
        busy = self.readings[1:] or self.readings
        parts = [
            f"{name} {_span(values)} MHz"
            for name, values in (
                ("core", [r.core_mhz for r in busy if r.core_mhz is not None]),
                ("memory", [r.memory_mhz for r in busy if r.memory_mhz is not None]),
            )
            if values
        ]
        return ", ".join(parts) or None

    @property
    def power_mode(self) -> str | None:
        """The power mode, "A then B" where it changed meanwhile."""
        modes = list(dict.fromkeys(r.power_mode for r in self.readings if r.power_mode))
        return " then ".join(modes) or None

    def energy_j(self, seconds: float) -> tuple[float, str] | None:
        """(joules over the watched time, how they are known): from the energy counter, else mean power times time."""
        first, last = self.readings[0].energy_j, self.readings[-1].energy_j
        if first is not None and last is not None and last > first:
            return last - first, f"{self._clocks.name}: energy counter"
        watts = [r.power_w for r in self.readings[1:] if r.power_w is not None]
        if not watts:
            return None
        return fmean(watts) * seconds, f"{self._clocks.name}: mean of {len(watts)} power readings"

    def to_json(self) -> dict[str, Any]:
        """The summary with the first and the last reading."""
        return {
            "source": self._clocks.name,
            "clocks": self.clocks,
            "power_mode": self.power_mode,
            "throttled": self.throttled,
            "reasons": list(self.reasons),
            "readings": len(self.readings),
            "before": self.readings[0].to_json(),
            "after": self.readings[-1].to_json(),
        }


def _span(values: list[float]) -> str:
    low, high = round(min(values)), round(max(values))
    return str(low) if low == high else f"{low} to {high}"
