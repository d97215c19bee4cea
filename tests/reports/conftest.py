"""The sample is built once; reports are frozen."""

from __future__ import annotations

import pytest

from gpusq.reports.report import Report
from tests.reports.sample import sample_report


@pytest.fixture(scope="session")
def report() -> Report:
    """The synthetic sample report."""
    return sample_report()
