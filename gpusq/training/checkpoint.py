"""Checkpoints: parameters, buffers and optimizer moments in safetensors, the rest in JSON; whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

KEPT = 2
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Checkpoints:
    """The newest KEPT checkpoints in `directory`, each a folder step-N written in one rename.

    run: what must be equal for a resume to be bit-equal (settings, thread count); others are passed over.
    """

    directory: Path
    run: dict[str, Any]

    def save(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Keep the state after `step` optimizer steps."""
        content = save(_tensors(model, optimizer))
        state = {"step": step, "run": self.run, "sha256": hashlib.sha256(content).hexdigest()}
        part = self.directory / f".part-{step}"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        _write(part / "tensors.safetensors", content)
        _write(part / "state.json", json.dumps(state).encode())
        final = self.directory / f"step-{step:09d}"
        shutil.rmtree(final, ignore_errors=True)
        part.rename(final)
        _sync(self.directory)
        newest = [folder for folder in self._folders() if folder.name <= final.name][-KEPT:]
        for other in set(self._folders()) - set(newest):  # older, or later ones that `restore` passed over
            shutil.rmtree(other, ignore_errors=True)

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Load the newest whole checkpoint of this run into both; returns its step, 0 where there is none."""
        for folder in reversed(self._folders()):
            found = self._read(folder)
            if found is not None:
                step, tensors = found
                _load(model, optimizer, tensors)
                return step
        return 0

    def _folders(self) -> list[Path]:
        return sorted(self.directory.glob("step-*"))

    def _read(self, folder: Path) -> tuple[int, dict[str, Tensor]] | None:
        """The content of one checkpoint, None where it is torn or of another run."""
        try:
            state = json.loads((folder / "state.json").read_bytes())
            content = (folder / "tensors.safetensors").read_bytes()
            if state["run"] != self.run or hashlib.sha256(content).hexdigest() != state["sha256"]:
                return None
            return int(state["step"]), load(content)
        except (OSError, ValueError, KeyError, SafetensorError):
            return None


def _tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    found = {f"model.{n}": t.detach().cpu().clone().contiguous() for n, t in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        state = optimizer.state.get(parameter, {})
        for moment in MOMENTS:
            if moment in state:
                found[f"{moment}.{name}"] = state[moment].detach().cpu().clone().contiguous()
    return found


def _load(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    own = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
    model.load_state_dict(own)
    for name, parameter in model.named_parameters():
        moments = {m: tensors[f"{m}.{name}"].to(parameter.device) for m in MOMENTS if f"{m}.{name}" in tensors}
        if moments:
            optimizer.state[parameter] = moments


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
