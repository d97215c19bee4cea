"""Rows of a CSV file as text cells, each with its place, and the checks of single cells that name that place."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpusq.errors import TableError
from gpusq.latency.gemm import LARGEST_SIZE


@dataclass(frozen=True)
class Record:
    """One row: its cells by column (stripped), and the places of the row and its header that errors name."""

    cells: dict[str, str]
    place: str
    header: str = "the header"

    def text(self, column: str) -> str:
        """A cell that must not be empty. Raises TableError."""
        if column not in self.cells:
            do = f"add the column {column} to the header"
            raise TableError(f"{self.header} has a column {column}", got=_columns(self.cells), do=do)
        if not self.cells[column]:
            raise TableError(f"{self.place}, column {column} is filled", got="an empty cell", do="fill it")
        return self.cells[column]

    def size(self, column: str) -> int:
        """A whole number from 1 to LARGEST_SIZE. Raises TableError."""
        text = self.text(column)
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not value.is_integer() or not 1 <= value <= LARGEST_SIZE:
            raise TableError(
                f"{self.place}, column {column} is a whole number from 1 to {LARGEST_SIZE}",
                got=repr(text),
                do="correct the cell",
            )
        return int(value)

    def microseconds(self, column: str) -> float:
        """A positive, finite number. Raises TableError."""
        text = self.text(column)
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > 0):
            raise TableError(
                f"{self.place}, column {column} is a positive number", got=repr(text), do="correct or remove the row"
            )
        return value


def read_records(path: Path, first_column: str = "") -> list[Record]:
    """The rows of a UTF-8 CSV file with a header; blank lines are skipped.

    first_column: a later line whose first cell is this word is a new header. Raises TableError for a file that cannot
    be read, is not UTF-8, has no rows, or has a row with more cells than the header.
    """
    records = list(_records(_text(path), str(path), first_column))
    if not records:
        raise TableError(f"{path} has a header and at least one row", got="no rows", do="write a row for each question")
    return records


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise TableError(f"{path} must be readable", got=error.strerror or str(error), do="check the path") from error
    except UnicodeDecodeError as error:
        raise TableError(f"{path} is UTF-8 text", got=f"byte {error.start} is not", do="save it as UTF-8") from error


def _records(text: str, name: str, first_column: str) -> Iterator[Record]:
    header: list[str] = []
    above = ""
    reader = csv.reader(io.StringIO(text, newline=""))
    for number, line in _lines(reader, name):
        cells = [cell.strip() for cell in line]
        if not any(cells):
            continue
        if not header or (first_column and cells[0].lower() == first_column):
            header = _header([cell.lower() for cell in cells], f"{name}, line {number}")
            above = f"{name}: the header (line {number})"
            continue
        place = f"{name}, line {number}"
        if any(cells[len(header) :]):
            raise TableError(f"{place} has {len(header)} cells", got=f"{len(cells)}", do="quote cells that hold commas")
        filled = cells + [""] * (len(header) - len(cells))
        yield Record(dict(zip(header, filled, strict=False)), place, above)


def _lines(reader: Any, name: str) -> Iterator[tuple[int, list[str]]]:
    number = 0
    while True:
        try:
            line = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            got = f"after line {number}: {error}"
            raise TableError(f"{name} is CSV", got=got, do="save it as plain CSV") from error
        number = reader.line_num
        yield number, line


def _header(names: list[str], place: str) -> list[str]:
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise TableError(f"{place}: the header names each column once", got=f"{twice[0]} twice", do="rename one")
    return names


def _columns(cells: Sequence[str] | dict[str, str]) -> str:
    return f"the columns {', '.join(cells)}" if cells else "no columns"
