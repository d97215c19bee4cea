"""Build logs of TensorRT 8.x to 11.x, trtexec and TensorRT-RTX: sparsity, memory, timing cache, errors.

Lines that are torn, wrapped or not ours are passed over. Wordings were read from public logs (NVIDIA/TensorRT#2169,
#4056, #4258, #2643; marcoslucianops/DeepStream-Yolo#366) and from TensorRT-RTX 1.7.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

CacheUse = Literal["local", "global", "disabled", "refused"]

_PREFIX = re.compile(r"^(?:\[\d\d/\d\d/\d{4}-\d\d:\d\d:\d\d\] )?(?:\[(?P<level>[EWIVF])\] )?(?:\[TRT\] ?)?")
_ELIGIBLE = re.compile(r"\(Sparsity\) Found (\d+) layer\(s\) eligible[^:\n]*(?::(.*))?$")
_CHOSEN = re.compile(r"\(Sparsity\) Chose (\d+) layer\(s\)[^:\n]*(?::(.*))?$")
_ELIGIBLE_8 = re.compile(r"\(Sparsity\) Layers eligible for sparse math:(.*)$")
_CHOSEN_8 = re.compile(r"\(Sparsity\) TRT inference plan picked sparse implementation for layers:(.*)$")
_ALLOCATORS = re.compile(r"TRT CPU/GPU memory allocators: CPU (\d+) MiB, GPU (\d+) MiB")
_BYTES = re.compile(r"Total (Weights|Activation) Memory: (\d+)")
_DEVICE_MEMORY = re.compile(
    r"OutOfMemory|Cuda (?:Runtime|Error in [^(]*).*\(?out of memory\)?|cudaErrorMemoryAllocation|"
    r"Requested amount of GPU memory \(\d+ bytes\) could not be allocated|insufficient memory on requested size|"
    r"User allocator error allocating|AUTOTUNER ERROR: ran out of memory|NvMapMemAlloc\w*: .*error 12|"
    r"Out of memory error while finding",
    re.IGNORECASE,
)
_HOST_MEMORY = re.compile(r"std::bad_alloc|Cannot allocate memory|insufficient host memory", re.IGNORECASE)
_ERROR = re.compile(r"\bError Code:? \d+|^Error\[\d+\]|\bERROR:")
_CACHE: tuple[tuple[str, CacheUse], ...] = (
    ("Local timing cache in use", "local"),
    ("Global timing cache in use", "global"),
    ("Timing cache disabled", "disabled"),
    ("timing cache will not be used", "refused"),
    ("Failed to deserialize timing cache", "refused"),
    ("Timing cache header mismatch", "refused"),
)


@dataclass(frozen=True)
class LogFacts:
    """What a build log says.

    eligible, chosen: numbers of layers in the "(Sparsity)" lines, None where there is none; *_names: where listed.
    errors: its error lines. device_memory, host_memory: lines that show memory running out, in the build or in a
    tactic that was skipped. device_mib: peak of the library's allocators; weights_mib, activations_mib: of the engine.
    timing_cache: how it was used ("refused": given, but not taken), None where the log does not say.
    """

    eligible: int | None = None
    chosen: int | None = None
    eligible_names: tuple[str, ...] = ()
    chosen_names: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    device_memory: tuple[str, ...] = ()
    host_memory: tuple[str, ...] = ()
    device_mib: float | None = None
    weights_mib: float | None = None
    activations_mib: float | None = None
    timing_cache: CacheUse | None = None


def parse_log(messages: Iterable[str]) -> LogFacts:
    """Read messages or lines of a log, in order; of a line that repeats, the last counts."""
    lines = [_clean(line) for message in messages for line in message.splitlines()]
    texts = [text for _, text in lines]
    eligible, eligible_names = _sparsity(texts, _ELIGIBLE, _ELIGIBLE_8)
    chosen, chosen_names = _sparsity(texts, _CHOSEN, _CHOSEN_8)
    sizes = {m[1]: int(m[2]) / (1 << 20) for t in texts if (m := _BYTES.search(t))}
    peaks = [float(m[2]) for t in texts if (m := _ALLOCATORS.search(t))]
    uses = [use for t in texts for wording, use in _CACHE if wording in t]
    return LogFacts(
        eligible,
        chosen,
        eligible_names,
        chosen_names,
        errors=tuple(t for level, t in lines if t and (level in ("E", "F") or _ERROR.search(t))),
        device_memory=tuple(t for t in texts if _DEVICE_MEMORY.search(t)),
        host_memory=tuple(t for t in texts if _HOST_MEMORY.search(t)),
        device_mib=max(peaks, default=None),
        weights_mib=sizes.get("Weights"),
        activations_mib=sizes.get("Activation"),
        timing_cache="refused" if "refused" in uses else (uses[-1] if uses else None),
    )


def _clean(line: str) -> tuple[str, str]:
    """(level letter or "", text without trtexec's time and level)."""
    line = line.strip()
    match = _PREFIX.match(line)
    return (match["level"] or "", line[match.end() :]) if match else ("", line)


def _sparsity(
    texts: list[str], counted: re.Pattern[str], listed: re.Pattern[str]
) -> tuple[int | None, tuple[str, ...]]:
    """(number, names) of the last such line: 10.x and later count, 8.x only lists."""
    for text in reversed(texts):
        if match := counted.search(text):
            return int(match[1]), _names(match[2] or "")
        if match := listed.search(text):
            names = _names(match[1])
            return len(names), names
    return None, ()


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for part in text.split(",") if (name := part.strip()) and name != "...")
