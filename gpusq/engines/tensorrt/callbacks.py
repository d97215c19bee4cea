"""The two objects that the library calls back: the log, and the progress monitor where it has one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gpusq.engines.tensorrt.features import Features
from gpusq.engines.tensorrt.memory import PeakMemory
from gpusq.engines.tensorrt.plan import BuildProgress

ProgressCall = Callable[[BuildProgress], None]
KEPT_VERBOSE = re.compile(r"parsity|iming cache|insufficient memory|could not be allocated|(Weights|Activation) Memory")
LARGEST_LOG = 20_000
"""Messages kept: a log of a long build has millions, almost all of them timings of single tactics."""


class Callbacks:
    """Hands progress to the caller and keeps the first exception: none may cross into the library, Ctrl-C neither."""

    def __init__(self, progress: ProgressCall | None, memory: PeakMemory) -> None:
        self._progress, self._memory = progress, memory
        self.raised: BaseException | None = None

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Keep what is raised inside, for the time when the library has returned."""
        try:
            yield
        except BaseException as error:  # noqa: BLE001  # raised again by `build_plan`
            self.raised = self.raised or error

    def report(self, phase: str, step: int, steps: int) -> bool:
        """Tell the caller; False once something was raised, which stops the build."""
        with self.guard():
            now = self._memory.sample()
            if self._progress is not None and self.raised is None:
                self._progress(BuildProgress(phase, step, steps, self._memory.elapsed_s, now))
        return self.raised is None


class Messages:
    """What a build said. messages: all but the noise; errors, warnings: of these severities; dump: the layer dump."""

    def __init__(self, on_message: Callable[[str], object] | None) -> None:
        self.messages: list[str] = []
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.dump = ""
        self._on_message = on_message

    def take(self, message: str, *, verbose: bool, serious: bool, warning: bool) -> None:
        """Sort one message in."""
        if message.startswith("Layers:"):
            self.dump = message
        elif not verbose or KEPT_VERBOSE.search(message):
            self._keep(message)
        if serious:
            self.errors.append(message)
        elif warning:
            self.warnings.append(message)

    def _keep(self, message: str) -> None:
        if len(self.messages) == LARGEST_LOG:
            del self.messages[LARGEST_LOG // 2]  # the first lines name the library, the last the outcome
        self.messages.append(message)
        if self._on_message is not None:
            self._on_message(message)


def make_log(
    trt: Any, callbacks: Callbacks, *, from_log: bool, on_message: Callable[[str], object] | None = None
) -> Any:
    """An ILogger that is also `Messages`. from_log: report progress from them, for libraries without a monitor."""
    noise = getattr(trt.ILogger, "VERBOSE", None)
    failures = [getattr(trt.ILogger, name, None) for name in ("ERROR", "INTERNAL_ERROR")]
    doubt = getattr(trt.ILogger, "WARNING", None)

    class Log(trt.ILogger, Messages):  # type: ignore[misc]
        """Called by the library."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            Messages.__init__(self, on_message)

        def log(self, severity: Any, message: str) -> None:
            with callbacks.guard():
                verbose = severity == noise
                self.take(message, verbose=verbose, serious=severity in failures, warning=severity == doubt)
                if from_log and not verbose:
                    callbacks.report(message.strip().partition("\n")[0][:80], 0, 0)

    return Log()


def make_monitor(trt: Any, features: Features, callbacks: Callbacks) -> Any:
    """An IProgressMonitor, None where the library has none."""
    if not features.progress_monitor:
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Phases are nested; the steps of each are reported as they come."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps
            callbacks.report(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return callbacks.report(phase_name, step + 1, self.steps.get(phase_name, 0))

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    return Monitor()
