"""Which TensorRT: the full library of a device, or TensorRT-RTX, which also builds without a GPU."""

from __future__ import annotations

import importlib
import platform
from typing import Any

from gpusq.errors import MissingExtraError, UsageError

BUILDERS = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Builder name -> import name."""
_EXTRAS = {"tensorrt": ("tensorrt", "tensorrt"), "tensorrt-rtx": ("tensorrt-rtx-cu13", "rtx")}
_PURPOSE = "building the engine on the device"


def load_library(builder: str) -> Any:
    """The module of a builder. Raises UsageError for another name, MissingExtraError where it is not installed."""
    if builder not in BUILDERS:
        raise UsageError(f"a builder is one of {', '.join(BUILDERS)}", got=repr(builder), do="name one of them")
    try:
        return importlib.import_module(BUILDERS[builder])
    except ImportError as error:
        library, extra = _EXTRAS[builder]
        raise MissingExtraError(library, extra, _PURPOSE + _jetson_hint(builder)) from error


def _jetson_hint(builder: str) -> str:
    if builder != "tensorrt" or platform.machine() != "aarch64":
        return ""
    return (
        " (JetPack brings it: sudo apt install nvidia-jetpack, and make the virtual environment with "
        "--system-site-packages)"
    )
