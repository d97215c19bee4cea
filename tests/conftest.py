"""What every test shares: two threads, no network, the same random numbers each time."""

from __future__ import annotations

import os
import random
import sys
from typing import TYPE_CHECKING

# Read by the libraries when they are first imported, so this comes before any test module imports them.
os.environ["OMP_NUM_THREADS"] = "2"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # waiting threads that spin starve each other on small machines
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest

if TYPE_CHECKING:
    from tests.chain import Chain


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Start each test from the same random state; torch only where the test has imported it."""
    random.seed(0)
    np.random.seed(0)  # third-party code draws from the global generator
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(0)
        torch.set_num_threads(2)


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """A small model compressed for three targets once; copy its store before changing it."""
    from tests.chain import make_chain

    return make_chain(tmp_path_factory.mktemp("chain"))
