"""What holds for every test: no authorities to load, in CI no skip without leave, and a word about what is left out."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

ALLOWED_IN_CI = (
    r"needs a CUDA device",
    r"this anthropic SDK has no error table",  # the floor versions
    r"this boto3 knows neither formats nor lifetimes of cache marks",
)
"""Reasons for which a test may be skipped in CI."""

# An SDK's client reads the certificates of all authorities, which takes longer than a test's call; here are none.
os.environ.pop("SSL_CERT_FILE", None)
os.environ["SSL_CERT_DIR"] = str(Path(__file__).parent / "support")

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest by far, so that nobody waits for it in the end."""
    items.sort(key=lambda item: item.get_closest_marker("compiler") is None)


LEFT_OUT: Counter[str] = Counter()
"""How many tests were deselected, by the marker that did it."""


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Count what is left out, by marker."""
    for item in items:
        LEFT_OUT.update([name for name in ("report", "slow") if item.get_closest_marker(name)])


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the process that prints what this one, which collected, has left out."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = dict(LEFT_OUT)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Keep what a worker of pytest-xdist says: all workers collect the same."""
    LEFT_OUT.update(getattr(node, "workeroutput", {}).get("left_out", {}) if not LEFT_OUT else {})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was left out and how to run it."""
    if LEFT_OUT:
        counts = ", ".join(f"{number} {marker}" for marker, number in sorted(LEFT_OUT.items()))
        terminalreporter.line(f"left out: {counts}. `-m 'not report'` runs the slow ones, too; .ci/run does everything")
