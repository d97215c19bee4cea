"""Peak resident memory of this process while something else runs."""

from __future__ import annotations

import threading
import time
from types import TracebackType

MIB = 1 << 20
INTERVAL_S = 0.05


class PeakMemory:
    """Context: samples the resident size from a thread, and whenever `sample` is called.

    The operating system's own high-water mark is taken too where it rose meanwhile, so a spike between two samples
    is not lost. `peak_mib` holds the largest; `elapsed_s` counts from the start.
    """

    def __init__(self) -> None:
        self.peak_mib = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="gpusq-memory", daemon=True)
        self._start = time.monotonic()
        self._mark = 0.0

    def __enter__(self) -> PeakMemory:
        self._mark, self._start = _high_water_mib(), time.monotonic()
        self.sample()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self.sample()
        after = _high_water_mib()
        if after > self._mark:
            self.peak_mib = max(self.peak_mib, after)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    def sample(self) -> float:
        """Resident MiB now; counts towards the peak."""
        import psutil

        now = float(psutil.Process().memory_info().rss) / MIB
        self.peak_mib = max(self.peak_mib, now)
        return now

    def _watch(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            self.sample()


def _high_water_mib() -> float:
    """The largest resident size of this process so far; 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # not on Windows
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
