"""tegrastats as a process: one that is kept open while a measurement is watched, or one line of one that is not."""

from __future__ import annotations

import subprocess
import threading

TEGRASTATS = ("tegrastats", "--interval", "100")
ANSWER_S = 5.0
"""Longest wait for the first line, and for the end of the process."""


class TegrastatsProcess:
    """Runs tegrastats until `close`; a thread of its own reads, so that `line` costs nothing but the first wait."""

    def __init__(self) -> None:
        self._last = ""
        self._told = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        try:
            self._process = subprocess.Popen(TEGRASTATS, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        except OSError:  # there is no such program here
            self._told.set()
            return
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def line(self) -> str:
        """The newest line, at most one interval old; the last one of a process that ended, empty where none came."""
        self._told.wait(ANSWER_S)
        return self._last

    def close(self) -> None:
        """Stop the process; twice is once."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(ANSWER_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._reader.join(ANSWER_S)
        if process.stdout is not None and not self._reader.is_alive():
            process.stdout.close()

    def _read(self) -> None:
        process = self._process
        for line in process.stdout if process is not None and process.stdout is not None else ():
            self._last = line
            self._told.set()
        self._told.set()


def tegrastats_line() -> str:
    """One line of tegrastats; empty where there is none."""
    process = TegrastatsProcess()
    try:
        return process.line()
    finally:
        process.close()
