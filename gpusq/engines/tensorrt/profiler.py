"""Time of each layer on the device, from the library's own profiler hook."""

from __future__ import annotations

import statistics
from typing import Any


def make_profiler(trt: Any) -> Any:
    """An IProfiler for `context.profiler`: run without CUDA graphs, then `times_us()` has each layer's median.

    Profiling adds a pause between layers, so the sum is more than the latency; use the shares, not the total.
    """

    class LayerTimes(trt.IProfiler):  # type: ignore[misc]
        """Collects one time per layer and run."""

        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.runs_ms: dict[str, list[float]] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.runs_ms.setdefault(layer_name, []).append(ms)

        def times_us(self) -> dict[str, float]:
            """Layer name -> median microseconds over the runs."""
            return {name: statistics.median(runs) * 1e3 for name, runs in self.runs_ms.items()}

    return LayerTimes()
