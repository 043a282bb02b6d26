"""The gate that a rejection shuts: until when, who tries first, and how far a Retry-After is trusted.

While the provider rejects, one call at a time, the *canary*, tries whether it has opened again. Nobody believes a
Retry-After blindly: it is waited for up to ``patience_s``, which doubles each time that a canary sent earlier was
rejected. A teller who proves right is obeyed from the start next time; one who proved wrong, by opening earlier than
told or by not having opened when told, has to be right several times before that. So a true one costs a few rejections
once, and one of an hour costs nothing.
"""

from __future__ import annotations

import math
from typing import Final

from factflow_llm.ratelimit.line import NEVER
from factflow_llm.ratelimit.windows import Windows, is_long

_PATIENCE_S: Final = 2.0
"""What is waited for a teller nobody knows: little is lost if it lies, and a true one costs few canaries."""
_LEAST_S: Final = 0.25
"""What is waited even for a liar: long enough not to hammer."""
_LESS: Final = 0.9
"""What is left of the patience after a Retry-After that was obeyed unproved: in time an earlier canary tries."""
_UNFORGIVEN: Final = 4
"""Proofs that it takes to believe again who was found wrong."""


class Gate:
    """Shut from the first rejection of an episode until a canary was let through.

    Attributes:
        shut: whether the provider is thought to reject.
        until_s: when the next canary may be sent.
        canary: the number of the call that tries; -1 while none does.
        due_s: when the canary counts as let through, if nothing is heard of it; ``inf`` without one.
        patience_s: how long a Retry-After is waited for at the most.
    """

    __slots__ = (
        "_began_s", "_early", "_foreseen", "_lies", "_pause_s", "_proved", "_rejected_s", "_short", "_told_s",
        "_trust_s", "_waited_s", "canary", "due_s", "patience_s", "shut", "until_s", "windows",
    )  # fmt: skip

    def __init__(self) -> None:
        self.shut = False
        self.until_s = self._rejected_s = -NEVER
        self.due_s = NEVER
        self.canary = -1
        self.patience_s = self._trust_s = _PATIENCE_S
        self._told_s = math.nan
        self._pause_s = self._waited_s = 0.0
        self._lies = 0
        self.windows = Windows()
        self._began_s = 0.0
        self._foreseen = math.nan, math.nan
        self._early = self._proved = self._short = False

    @property
    def opens_s(self) -> float:
        """When somebody may pass, as things stand."""
        return self.due_s if self.canary >= 0 else self.until_s

    @property
    def believes(self) -> bool:
        """Whether it is shut until the time that was told, and not only until somebody tries."""
        return not self._early and not math.isnan(self._told_s)

    def rejected(
        self, now: float, sent_s: float, told: float | None, *, pause_s: float, cap_s: float, lag_s: float, obey: bool
    ) -> None:
        """Shut, or stay shut: the call sent at ``sent_s`` was rejected.

        Args:
            now: when that was heard.
            sent_s: when the call was sent.
            told: the Retry-After, in seconds; ``None`` without one.
            pause_s: how long to wait at first where nothing is told; it doubles.
            cap_s: no pause is longer.
            lag_s: how long a rejection takes to come back.
            obey: whether calls differ so much in size that a small canary would prove nothing.
        """
        if not self.shut:
            self._pause_s, self.patience_s = pause_s, self._trust_s
            self._proved = self._short = False
            self._began_s = sent_s
            self._foreseen = self.windows.next(sent_s)
            test = self.windows.known and self.windows.tests()
        else:
            test = False
            self._pause_s = min(2.0 * self._pause_s, cap_s)
            if self._early:
                self.patience_s, self._proved = min(2.0 * self.patience_s, 2.0 * cap_s), True
            elif not math.isnan(self._told_s) and not obey:
                self._pause_s, self._lies = max(self._pause_s, 2.0 * (told or 0.0)), _UNFORGIVEN
                self._short = True
        self.shut, self.canary, self.due_s = True, -1, NEVER
        self._rejected_s = max(self._rejected_s, sent_s)
        if told is None:
            wait_s, self._early, self._told_s = self._pause_s, False, math.nan
        else:
            self._told_s = sent_s + told
            left_s = max(self._told_s + 0.5 * lag_s - now, 0.0)
            wait_s = min(left_s, cap_s if obey else self.patience_s)
            self._early = wait_s < left_s
            if self._short:  # it did not open when told: be more patient than asked
                wait_s = max(wait_s, self._pause_s)
            elif not left_s:  # it has passed, and yet this call was rejected: do not hammer
                wait_s = min(self._pause_s, 1.0)
        low_s, high_s = self._foreseen
        doubted = told is None or (not obey and (self._early or self._lies > 0 or self._short))
        if doubted and self._rejected_s < high_s:
            wait_s = self.windows.canary_s(low_s, high_s, self._rejected_s, test=test) - now
        self.until_s = now + min(wait_s, cap_s)

    def rejected_too(self, sent_s: float) -> None:
        """Note that another call, sent before the gate was shut, was rejected as well."""
        self._rejected_s = max(self._rejected_s, sent_s)

    def sent(self, number: int, now: float, news_s: float) -> None:
        """Note that the canary is under way; a rejection would be heard of within ``news_s``."""
        self.canary = number
        self.due_s = now + news_s
        self._waited_s = now - self._rejected_s
        self._early &= now < self._told_s

    def canary_lost(self) -> None:
        """Send another: what became of the canary tells nothing."""
        self.canary, self.due_s = -1, NEVER

    def opened(self, canary_s: float, call_s: float) -> tuple[float, float]:
        """Open: the canary, sent at ``canary_s``, was let through; a call takes ``call_s`` at the measured rate.

        Returns:
            When the provider opened, and how far off that may be: a time told is exact, if it lies between the last
            call rejected and the canary, and the teller is believed.
        """
        told_s = self._told_s
        low_s, high_s = self._rejected_s, max(canary_s, self._rejected_s)
        exact = low_s < told_s <= high_s and not self._early
        from_s, to_s = self._foreseen
        if exact and (told_s < from_s - 1.0 or told_s > to_s + 1.0):  # not the moment at which a window begins
            exact, self._lies = False, _UNFORGIVEN
        if self._early:
            self._trust_s, self._lies = max(0.5 * self._waited_s, _LEAST_S), _UNFORGIVEN
        elif self._proved:
            self._lies = max(self._lies - 1, 0)
            if not self._lies:
                self._trust_s = self.patience_s
        elif not math.isnan(told_s):
            self._trust_s = max(_LESS * self._trust_s, _LEAST_S)
        if self._short:
            self._trust_s = _LEAST_S
        self.shut, self.canary, self.due_s, self.until_s = False, -1, NEVER, -NEVER
        if exact and not self._lies:
            low_s = high_s = told_s
        long = is_long(self._rejected_s - self._began_s, call_s)
        low_s, high_s = self.windows.opened(low_s, high_s, long=long)
        return 0.5 * (low_s + high_s), 0.5 * (high_s - low_s)
