"""Where lines go: results to standard output, progress and errors to standard error."""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn

from gpusq.errors import GpusqError, StoreError

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

INTERNAL_ERROR = 70
"""Exit code of an error that is gpusq's own fault (EX_SOFTWARE of sysexits.h)."""
INTERRUPTED = 130
"""Exit code after Ctrl-C."""
READER_GONE = 141
"""Exit code where what reads the output has closed it, as `head` does: 128 + SIGPIPE, as other programs end."""


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_line(text: str = "") -> None:
    """One line on standard output, without markup."""
    print(text)


def print_table(table: Any) -> None:
    """A rich renderable on standard output, as wide as the terminal (120 columns where there is none)."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 120, highlight=False).print(table)


def say(text: str) -> None:
    """One line on standard error: what is going on."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def refusals(as_json: bool) -> Iterator[None]:
    """Turn errors into a message and an exit code: on stderr, or with --json as {"error": ...} on stdout."""
    try:
        with _written_out():
            yield
    except GpusqError as error:
        _refuse(error, as_json)
    except KeyboardInterrupt:
        say("interrupted; the store is whole, the same command goes on where it stopped")
        raise SystemExit(INTERRUPTED) from None
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _reader_gone():
            _discard_output()
            raise SystemExit(READER_GONE) from None
        if os.environ.get("GPUSQ_DEBUG"):
            raise
        place = error.filename or "a file"
        _refuse(
            StoreError(f"{place} cannot be used", got=str(error.strerror), do="check the path and permissions"), as_json
        )
    except Exception as error:
        if os.environ.get("GPUSQ_DEBUG"):
            raise
        internal = GpusqError(
            f"internal error: {type(error).__name__}: {error}",
            do="what is sealed in the store is whole; run again with GPUSQ_DEBUG=1 for the traceback and report it",
        )
        _refuse(internal, as_json, INTERNAL_ERROR)


@contextmanager
def _written_out() -> Iterator[None]:
    """Write buffered results before the command ends, so that a closed pipe is found here and not at exit."""
    try:
        yield
    except SystemExit:
        sys.stdout.flush()
        raise
    sys.stdout.flush()


def _reader_gone() -> bool:
    """Whether standard output or error is a pipe that nobody reads any more."""
    for stream in (sys.stdout, sys.stderr):
        try:
            watch = select.poll()
            watch.register(stream.fileno(), 0)
        except (OSError, ValueError):  # no file behind it
            continue
        if any(event & (select.POLLERR | select.POLLHUP) for _, event in watch.poll(0)):
            return True
    return False


def _discard_output() -> None:
    """Send what is still buffered nowhere, so that the interpreter's own flush at exit has nothing to complain of."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # no file behind it
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _refuse(error: GpusqError, as_json: bool, code: int | None = None) -> NoReturn:
    code = error.exit_code if code is None else code
    if as_json:
        print_json({"error": {**error.to_json(), "exit_code": code}})
    say(f"gpusq: {type(error).__name__}: {error}")
    raise SystemExit(code)


class ProgressLines:
    """Progress for people: bars on a terminal, else a line at each change of work and every few seconds."""

    def __init__(self, quiet: bool = False, every_s: float = 5.0) -> None:
        self._quiet, self._every = quiet, every_s
        self._bars: Bars | None = None
        self._tasks: dict[str, Any] = {}
        self._last = ("", 0.0)
        self._begun: dict[str, float] = {}

    def __call__(self, what: str, done: int, total: int | None, note: str) -> None:
        if self._quiet:
            return
        if sys.stderr.isatty():
            self._draw(what, done, total, note)
        else:
            self._line(what, done, total, note)

    def close(self) -> None:
        """Stop drawing; leaves the last state on the screen."""
        if self._bars is not None:
            self._bars.stop()
            self._bars, self._tasks = None, {}

    def _line(self, what: str, done: int, total: int | None, note: str) -> None:
        now = time.monotonic()
        begun = self._begun.setdefault(what, now)
        name, at = self._last
        if name == what and now - at < self._every and done != total:
            return
        self._last = (what, now)
        count = f" {done}/{total}" if total else ""
        say(f"[{now - begun:6.1f} s] {what}{count} {note}".rstrip())

    def _draw(self, what: str, done: int, total: int | None, note: str) -> None:
        bars = self._bars or self._start()
        if what not in self._tasks:
            self._tasks[what] = bars.add_task(what, total=total, note=note)
        bars.update(self._tasks[what], completed=done, total=total, note=note)

    def _start(self) -> Bars:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        self._bars = Progress(*columns, console=Console(stderr=True))
        self._bars.start()
        return self._bars


@contextmanager
def progress_lines(quiet: bool = False) -> Iterator[Callable[[str, int, int | None, str], None]]:
    """A progress listener that is closed at the end, also after an error."""
    lines = ProgressLines(quiet)
    try:
        yield lines
    finally:
        lines.close()
