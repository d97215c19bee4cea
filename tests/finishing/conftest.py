"""One small pair of bundles for the whole session; copy the store before changing it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gpusq.artifacts import Store
from tests.finishing.small import Pair, make_pair


@pytest.fixture(scope="session")
def sealed_pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("pair") / "store")


@pytest.fixture
def pair(sealed_pair: Pair, tmp_path: Path) -> Pair:
    """The same pair in a store of this test's own."""
    shutil.copytree(sealed_pair.store.root, tmp_path / "store")
    store = Store(tmp_path / "store")
    return Pair(
        store, store.resolve(sealed_pair.model.digest), store.resolve(sealed_pair.twin.digest), sealed_pair.graphs
    )
