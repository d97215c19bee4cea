"""Triton's published model configuration: the message classes that the package tritonclient ships.

Loaded from its file: the package's own import needs gRPC, which nothing here uses.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from importlib.metadata import distribution
from types import ModuleType


@cache
def model_config() -> ModuleType:
    """The module with ModelConfig and the messages in it."""
    path = distribution("tritonclient").locate_file("tritonclient/grpc/model_config_pb2.py")
    spec = importlib.util.spec_from_file_location("tritonclient_model_config_pb2", str(path))
    if spec is None or spec.loader is None:
        raise ImportError(str(path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
