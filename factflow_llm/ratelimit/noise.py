"""Whether a rejection was about a quota at all: ask again at once, a few times.

A budget that is spent admits hardly more than what has trickled in since. If a handful of calls sent at once pass
all the same, the rejection may have been noise. One answer proves little, for where others draw on the same quota a
handful passes now and then; evidence is summed, and only once there is enough of it are rejections forgiven. Asking
costs rejections where there is a quota, so only those that come as a surprise are questioned, and ever more seldom
while the answer is always the same.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from factflow_llm.ratelimit.line import Ticket

_CALLS: Final = 3
"""Calls that ask, beside those that fit into what may have trickled in: a spent budget rejects two of them."""
_TRICKLED: Final = 1.2
"""What may have trickled in, as a multiple of what the known rate says."""
_EXPIRES_S: Final = 1.0
"""An inquiry that finds no callers for so long ends with what was heard."""
_AGAINST: Final = 8.0
"""What a rejected call weighs against noise, beside one that passed: log-likelihoods of 2 and of 30 % rejected."""
_KNOWN: Final = 12.0
"""Evidence, in calls that passed, from which on rejections are taken for noise and every one is questioned: three
inquiries without a rejection."""
_SELDOM: Final = 64
"""Surprises that are believed before one is questioned again, at most."""


class Inquiry:
    """A question in the making: so many calls are sent at once, and some of them are rejected.

    Attributes:
        number: the number of the rejected call that is asked about.
        calls: how many calls ask.
        sent: how many of them were sent, the last at ``sent_s``.
        rejected: how many of them were rejected.
        rejected_s: when the last rejected call was sent.
        told_s: what its Retry-After said; ``None`` without one.
        early: whether the rejection came as a surprise.
        unpaced: whether nothing was measured before it: then calls let through without exception settle it.
        expires_s: when to stop waiting for callers.
    """

    __slots__ = (
        "_allowed", "calls", "early", "expires_s", "number", "rejected", "rejected_s", "sent", "sent_s", "told_s",
        "unpaced",
    )  # fmt: skip

    def __init__(self, *, number: int, calls: int, allowed: int, sent: int, now: float, early: bool) -> None:
        self.number = number
        self.calls = calls
        self._allowed = allowed
        self.sent = sent
        self.sent_s = self.rejected_s = now
        self.expires_s = now + _EXPIRES_S
        self.told_s: float | None = None
        self.rejected = 0
        self.early = early
        self.unpaced = False

    @classmethod
    def about(
        cls, ticket: Ticket, told_s: float | None, now: float, *, sent_after: int, trickled: float, early: bool
    ) -> Inquiry:
        """Ask about a rejected ticket, after which so many calls were sent and so many units have trickled in."""
        if trickled:
            calls, allowed = _CALLS + math.ceil(_TRICKLED * trickled), 1
        else:  # no rate is known: what is under way anyway tells most
            calls = _CALLS + sent_after
            allowed = (calls - 1) // 2
        inquiry = cls(number=ticket.number, calls=calls, allowed=allowed, sent=sent_after, now=now, early=early)
        inquiry.unpaced = not trickled
        inquiry.rejected_s, inquiry.told_s = ticket.admitted_s, told_s
        return inquiry

    def reject(self, sent_s: float, told_s: float | None) -> None:
        """Take that one of the calls was rejected."""
        self.rejected += 1
        self.rejected_s, self.told_s = sent_s, told_s

    @property
    def failed(self) -> bool:
        """Whether more were rejected than noise would reject."""
        return self.rejected > self._allowed


class Noise:
    """What the inquiries so far say."""

    __slots__ = ("_evidence", "_skip", "_skipped")

    def __init__(self) -> None:
        self._evidence = 0.0
        self._skip = self._skipped = 0

    @property
    def known(self) -> bool:
        """Whether rejections without a cause were recognised."""
        return self._evidence >= _KNOWN

    def asks(self, *, early: bool, searching: bool) -> bool:
        """Tell whether to question a rejection; one that ends a search is no surprise, unless noise is suspected."""
        if self.known or (searching and self._evidence > 0.0):
            return True
        if not early:
            return False
        self._skipped += 1
        return self._skipped > self._skip

    def found(self, inquiry: Inquiry) -> bool:
        """Weigh an answer; return whether the rejection was noise."""
        if inquiry.early:
            weight = inquiry.sent - inquiry.rejected - _AGAINST * inquiry.rejected
            self._evidence = min(max(self._evidence + weight, 0.0), 2.0 * _KNOWN)
            self._skipped = 0
            if inquiry.failed:
                self._skip = min(2 * self._skip + 1, _SELDOM)
            elif weight > 0.0:
                self._skip = 0
        clean = inquiry.unpaced and not inquiry.rejected
        return (self.known or clean) and not inquiry.failed
