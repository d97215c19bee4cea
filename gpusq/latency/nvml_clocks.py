"""Clocks, power, energy and throttling of a data-centre GPU through NVML (nvidia-ml-py)."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from gpusq.latency.clocks import Reading

REASONS = {
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
"""Bits of nvmlClocksEventReasons that lower the clocks below what was asked for (nvml.h). Idle (0x1), application
clocks (0x2), sync boost (0x10) and display (0x100) are settings, not throttling."""
VIOLATIONS = {"power limit": "NVML_PERF_POLICY_POWER", "temperature limit": "NVML_PERF_POLICY_THERMAL"}


def reasons_of(mask: int) -> tuple[str, ...]:
    """The throttling reasons in an event mask; empty where the clocks are as asked for."""
    return tuple(name for bit, name in REASONS.items() if mask & bit)


def open_nvml(pci: str = "") -> NvmlClocks | None:
    """NVML for the GPU at this PCI address, the first where empty; None without library, driver or device."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByPciBusId(pci) if pci else nvml.nvmlDeviceGetHandleByIndex(0)
    except nvml.NVMLError:
        return None
    return NvmlClocks(nvml, handle)


class NvmlClocks:
    """`Clocks` of one GPU."""

    name = "nvml"

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle

    def read(self) -> Reading:
        nvml = self._nvml
        mask = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        if mask is None:  # the name before CUDA 12.2
            mask = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        limit = self._ask("nvmlDeviceGetEnforcedPowerLimit")
        return Reading(
            core_mhz=self._ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
            memory_mhz=self._ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM),
            temperature_c=self._ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
            power_w=_scaled(self._ask("nvmlDeviceGetPowerUsage")),
            throttling=None if mask is None else reasons_of(int(mask)),
            counters=self._violations(),
            energy_j=_scaled(self._ask("nvmlDeviceGetTotalEnergyConsumption")),
            power_mode=None if limit is None else f"{limit / 1e3:.0f} W limit",
        )

    def _violations(self) -> dict[str, int]:
        """Nanoseconds below the asked clocks, by cause."""
        found = {}
        for name, policy in VIOLATIONS.items():
            status = self._ask("nvmlDeviceGetViolationStatus", getattr(self._nvml, policy, None))
            if status is not None:
                found[name] = int(status.violationTime)
        return found

    def _ask(self, name: str, *arguments: Any) -> Any:
        """One NVML query; None where this GPU, driver or library version does not answer it."""
        function: Callable[..., Any] | None = getattr(self._nvml, name, None)
        if function is None:
            return None
        try:
            return function(self._handle, *arguments)
        except self._nvml.NVMLError:
            return None


def _scaled(thousandths: float | None) -> float | None:
    """Milliwatts or millijoules to watts or joules."""
    return None if thousandths is None else thousandths / 1e3
