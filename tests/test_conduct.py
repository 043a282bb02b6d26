"""The verdict on a client: what counts as bad manners, and what does not."""

from __future__ import annotations

import pytest

from simulators.server.conduct import Asked, Conduct, Misconduct

REFUSED = Asked(0.0, "a", "POST /", 429, "rate_limit", retry_after_s=5.0)


def judge(*asked: Asked) -> dict[Misconduct, int]:
    """Return the findings on these requests."""
    conduct = Conduct()
    for one in asked:
        conduct.note(one)
    return conduct.findings()


@pytest.mark.parametrize(("again_s", "findings"), [(4.0, {Misconduct.IGNORED_RETRY_AFTER: 1}), (4.99, {}), (5.0, {})])
def test_coming_back_too_early(again_s: float, findings: dict[Misconduct, int]) -> None:
    """Before the told time is too early, within a rounding of it is not."""
    assert judge(REFUSED, Asked(again_s, "a", "POST /", 200)) == findings


def test_another_request_may_come_at_once() -> None:
    """Only the refused request itself is held to its Retry-After."""
    assert judge(REFUSED, Asked(0.1, "b", "POST /", 200)) == {}


@pytest.mark.parametrize(
    "before",
    [
        Asked(0.0, "a", "POST /", 400, "invalid_request"),
        Asked(0.0, "a", "POST /", 401),
        Asked(0.0, "a", "POST /", 429, "quota"),
        Asked(0.0, "a", "POST /", 429, "request_exceeds_limit", retry_after_s=86_400),
    ],
)
def test_sending_again_what_can_never_succeed(before: Asked) -> None:
    """Mistakes, spent quotas and oversize requests must not be retried, however late."""
    assert judge(before, Asked(1e6, "a", "POST /", 400)) == {Misconduct.RETRIED_TERMINAL: 1}


@pytest.mark.parametrize("status", [500, 503, 529, 0])
def test_trouble_of_the_provider_may_be_retried(status: int) -> None:
    """Server errors and dropped connections invite another attempt."""
    assert judge(Asked(0.0, "a", "POST /", status), Asked(1.0, "a", "POST /", 200)) == {}


def test_an_sdk_that_retries_by_itself() -> None:
    """What the SDK marks as its own retry is found out."""
    assert judge(Asked(0.0, "a", "POST /", 200, hidden_retry=True)) == {Misconduct.HIDDEN_RETRY: 1}


def test_hammering() -> None:
    """Many refusals in ten seconds are hammering; the same number over minutes, or among more successes, is not."""
    refusals = [Asked(n * 0.1, str(n), "POST /", 429, "rate_limit") for n in range(40)]
    assert judge(*refusals) == {Misconduct.HAMMERED: 1}
    assert judge(*(Asked(n * 5.0, str(n), "POST /", 429, "rate_limit") for n in range(40))) == {}
    assert judge(*refusals, *(Asked(9.0, f"s{n}", "POST /", 200) for n in range(60))) == {}


def test_the_account_is_readable() -> None:
    """The text counts what happened and says what was wrong, or that nothing was."""
    conduct = Conduct()
    conduct.note(REFUSED)
    assert str(conduct) == "1 requests: 0 served, 1 rejected, 0 failed\n  the client did nothing wrong"
    conduct.note(Asked(1.0, "a", "POST /", 200))
    assert "1 x ignored_retry_after: a rejected request came back before the time it was told" in str(conduct)


def test_a_line_tells_one_request() -> None:
    """Time, route, status, reason and wait, and no more."""
    assert str(REFUSED) == "    0.000 s  POST /  429  rate_limit  come back in 5 s"
