"""A verdict on a client, from what its requests looked like on the wire: did it listen to what it was told?"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from enum import StrEnum

_TERMINAL_STATUSES = frozenset({400, 401, 402, 403, 404, 405, 413, 422})
_TERMINAL_ERRORS = frozenset({"quota", "request_exceeds_limit"})
_EARLY_S = 0.02  # clocks and rounding: coming back this much too soon is forgiven
_WINDOW_S = 10.0
_HAMMERING = 20


class Misconduct(StrEnum):
    """What a client did wrong."""

    IGNORED_RETRY_AFTER = "ignored_retry_after"
    RETRIED_TERMINAL = "retried_terminal"
    HIDDEN_RETRY = "hidden_retry"
    HAMMERED = "hammered"


_MEANING = {
    Misconduct.IGNORED_RETRY_AFTER: "a rejected request came back before the time it was told",
    Misconduct.RETRIED_TERMINAL: "a request came back that could never succeed",
    Misconduct.HIDDEN_RETRY: "the SDK retried behind the limiter's back (x-stainless-retry-count, amz-sdk-request)",
    Misconduct.HAMMERED: f"in {_WINDOW_S:g} s at least {_HAMMERING} requests were rejected, more than were served",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as the server saw it; ``identity`` tells a retry from a new request."""

    time_s: float
    identity: str
    route: str
    status: int
    error: str | None = None
    retry_after_s: float | None = None
    hidden_retry: bool = False

    def __str__(self) -> str:
        words = [f"{self.time_s:9.3f} s", self.route, str(self.status) if self.status else "dropped"]
        if self.error:
            words.append(self.error)
        if self.retry_after_s is not None:
            words.append(f"come back in {self.retry_after_s:g} s")
        return "  ".join(words)


@dataclass(slots=True)
class Conduct:
    """The running account of a client's requests. Two identical requests count as one that was retried."""

    requests: list[Asked] = field(default_factory=list)

    def note(self, asked: Asked) -> None:
        """Enter one request."""
        self.requests.append(asked)

    def findings(self) -> dict[Misconduct, int]:
        """Return how often the client did what it should not; empty for a client that behaves."""
        count: Counter[Misconduct] = Counter()
        last: dict[str, Asked] = {}
        windows: dict[int, list[bool]] = defaultdict(list)
        for asked in self.requests:
            before = last.get(asked.identity)
            if before is not None and (before.status in _TERMINAL_STATUSES or before.error in _TERMINAL_ERRORS):
                count[Misconduct.RETRIED_TERMINAL] += 1
            elif before is not None and before.retry_after_s is not None:
                early_s = before.time_s + before.retry_after_s - asked.time_s
                count[Misconduct.IGNORED_RETRY_AFTER] += early_s > _EARLY_S
            count[Misconduct.HIDDEN_RETRY] += asked.hidden_retry
            windows[int(asked.time_s // _WINDOW_S)].append(asked.status == 429)
            last[asked.identity] = asked
        count[Misconduct.HAMMERED] = sum(
            sum(rejected) >= _HAMMERING and sum(rejected) > len(rejected) / 2 for rejected in windows.values()
        )
        return {finding: count[finding] for finding in Misconduct if count[finding]}

    def __str__(self) -> str:
        served = sum(200 <= asked.status < 300 for asked in self.requests)
        rejected = sum(asked.status == 429 for asked in self.requests)
        failed = len(self.requests) - served - rejected
        head = f"{len(self.requests)} requests: {served} served, {rejected} rejected, {failed} failed"
        wrong = [f"  {times} x {finding}: {_MEANING[finding]}" for finding, times in self.findings().items()]
        return "\n".join([head, *(wrong or ["  the client did nothing wrong"])])
