"""Run images through a plan on a GPU, from host memory; for memory on the device see `device_session.Session.share`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpusq.engines.device_engine import DeviceEngine
from gpusq.engines.device_session import Session
from gpusq.engines.runner import Float32
from gpusq.errors import EngineError


class DeviceRunner:
    """`Runner` on a GPU: takes any number of images, in batches of what the engine was built for."""

    def __init__(self, engine: DeviceEngine, name: str = "TensorRT") -> None:
        self.name = name
        self._session = Session(engine)
        self._most = self._session.inputs[0].largest[0]

    def outputs(self, images: Float32) -> dict[str, NDArray[np.float32]]:
        """Every output by name, float32. Raises EngineError for images of another shape or type, or none."""
        if not len(images):
            raise EngineError("at least one image was expected", got="an empty batch")
        parts = [self._session.outputs(images[at : at + self._most]) for at in range(0, len(images), self._most)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def run(self, pixel_values: Float32) -> Float32:
        """pixel_values [B, C, H, W] -> logits [B, classes]; the first output where none is called logits."""
        found = self.outputs(pixel_values)
        return found["logits"] if "logits" in found else next(iter(found.values()))

    def close(self) -> None:
        """Give back the device memory."""
        self._session.close()
