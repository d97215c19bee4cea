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


def map_in_threads(
    function: Callable[[T], R], items: Sequence[T], on_done: Callable[[int], None] | None = None
) -> list[R]:
    """[function(item) for item in items], in order, with as many threads as there are cores (at most 16).

    Items go out in chunks, so that a million small ones do not become a million tasks. on_done: told in this thread,
    after each chunk, how many of the first items are done.
    """
    count = min(os.cpu_count() or 1, MOST_THREADS)
    size = max(1, min(CHUNK, len(items) // (4 * count)))
    chunks = [items[start : start + size] for start in range(0, len(items), size)]
    results: list[R] = []
    with ThreadPoolExecutor(count) as pool:
        alone = count == 1 or len(items) < 2
        for part in (map if alone else pool.map)(lambda chunk: [function(x) for x in chunk], chunks):
            results += part
            if on_done is not None:
                on_done(len(results))
    return results
