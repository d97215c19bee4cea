"""The processes of a distributed launch (`accelerate launch`): who seals, who waits."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Processes:
    """This process among `count`; rank 0 is the main one, the only one that writes to the store."""

    rank: int = 0
    count: int = 1

    @classmethod
    def from_environment(cls) -> Processes:
        """Read RANK and WORLD_SIZE as torchrun and accelerate set them."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    @property
    def main(self) -> bool:
        """Whether this process seals artifacts and prints."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all processes; nothing to do for one."""
        if self.count > 1:
            import torch
            from accelerate import PartialState

            PartialState(cpu=not torch.cuda.is_available()).wait_for_everyone()
