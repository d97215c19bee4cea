"""The console script's entry point: what it sets before anything heavy is imported."""

from __future__ import annotations

import os

import pytest

from gpusq.cli import main


@pytest.mark.parametrize(("before", "after"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting_threads_do_not_spin_unless_told_to(
    before: str | None, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if before is None:
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    else:
        monkeypatch.setenv("OMP_WAIT_POLICY", before)
    seen: list[str | None] = []
    monkeypatch.setattr(main, "app", lambda: seen.append(os.environ.get("OMP_WAIT_POLICY")))
    main.run()
    assert seen == [after]
