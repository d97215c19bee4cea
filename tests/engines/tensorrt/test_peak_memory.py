"""The peak is that of the work inside, whether or not a sample falls on it."""

from __future__ import annotations

import threading

import numpy as np

from gpusq.engines.tensorrt.memory import MIB, PeakMemory


def test_memory_that_was_held_only_inside_is_in_the_peak() -> None:
    with PeakMemory() as memory:
        before = memory.sample()
        held = np.ones(64 * MIB, np.uint8)
        during = memory.sample()
        del held
    assert during >= before + 60
    assert memory.peak_mib >= during
    assert memory.elapsed_s > 0


def test_the_sampling_thread_ends_with_the_work() -> None:
    with PeakMemory():
        assert "gpusq-memory" in {thread.name for thread in threading.enumerate()}
    assert "gpusq-memory" not in {thread.name for thread in threading.enumerate()}
