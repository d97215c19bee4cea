"""A few threads for work that waits for disks and decoders."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

MOST_THREADS = 16
CHUNK = 64


def map_in_threads(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """[function(item) for item in items], in order, with as many threads as there are cores (at most 16).

    Items go out in chunks, so that a million small ones do not become a million tasks.
    """
    count = min(os.cpu_count() or 1, MOST_THREADS)
    if count == 1 or len(items) < 2:
        return [function(item) for item in items]
    size = max(1, min(CHUNK, len(items) // (4 * count)))
    chunks = [items[start : start + size] for start in range(0, len(items), size)]
    with ThreadPoolExecutor(count) as pool:
        return [result for part in pool.map(lambda chunk: [function(x) for x in chunk], chunks) for result in part]
