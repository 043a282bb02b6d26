"""What holds for every test: in CI nothing is skipped but for a reason written down here."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

ALLOWED_IN_CI = (
    r"needs a CUDA device",
    r"this anthropic SDK has no error table",  # the floor version
)
"""Reasons for which a test may be skipped in CI."""

ReportT = TypeVar("ReportT", pytest.TestReport, pytest.CollectReport)


def _judged(report: ReportT) -> ReportT:
    """Return the report; a skip in CI without leave has become a failure."""
    if not report.skipped or hasattr(report, "wasxfail") or not os.environ.get("CI"):
        return report
    reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
    if not any(re.search(allowed, reason) for allowed in ALLOWED_IN_CI):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {reason}; install what it needs, or allow the reason in tests/conftest.py"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Judge skips of single tests."""
    return _judged((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Judge skips of whole files."""
    return _judged((yield))
