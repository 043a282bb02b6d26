"""What calls weigh on each axis: what one will probably use, what was reserved for it, and all that was admitted.

Two currencies are kept apart. What is *reserved* paces calls: tokens that nobody named are expected to be the mean of
the last hundred, for a quantile of heavy-tailed answers says nothing about their sum. What is *booked* is what limits
are measured from: tokens that were named, and those that an answer really used once it is there. Nobody can
have charged what nobody knew.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from factflow_llm.signals import Axis

if TYPE_CHECKING:
    from factflow_llm.ratelimit.line import Ticket

_TOKENS: Final = (Axis.INPUT_TOKENS, Axis.OUTPUT_TOKENS, Axis.TOKENS)
_RECENT: Final = 100
"""Calls whose mean an untold one is expected to use: where one in ten is huge, that is 30 % exact."""
_SIZES: Final = 50
"""Calls over which sizes are averaged."""
_LARGE: Final = 1.5
"""Rejected calls so many times larger than others speak of tokens."""
_FEW: Final = 3
"""Rejections that it takes to say so."""
_VARIED: Final = 1.5
"""Mean square over squared mean from which on sizes differ much: where a tenth is huge, it is far above."""


class RecentMean:
    """A moving mean of what one limiter's calls, and so one model's, use.

    Attributes:
        value: the estimate, in tokens; 0 while nothing was seen.
    """

    __slots__ = ("_recent", "_sum", "value")

    def __init__(self) -> None:
        self.value = self._sum = 0.0
        self._recent: deque[float] = deque(maxlen=_RECENT)

    def learn(self, used: float) -> None:
        """Take what one more call used."""
        recent = self._recent
        if len(recent) == _RECENT:
            self._sum -= recent[0]
        recent.append(used)
        self._sum += used
        self.value = self._sum / len(recent)


class _Sizes:
    """The moving mean of calls' sizes, and of their squares."""

    __slots__ = ("count", "mean", "mean_square")

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.mean_square = 0.0

    def learn(self, size: float) -> None:
        self.count += 1
        weight = 1.0 / min(self.count, _SIZES)
        self.mean += weight * (size - self.mean)
        self.mean_square += weight * (size * size - self.mean_square)


class Costs:
    """The running totals of what was admitted, and what to expect of calls that do not name their tokens."""

    __slots__ = (
        "_input", "_input_used", "_output", "_output_used", "_refunded", "_rejected_sizes", "_requests", "_sizes",
    )  # fmt: skip

    def __init__(self) -> None:
        self._requests = self._input = self._output = 0.0
        self._refunded = (0.0, 0.0, 0.0)
        self._input_used, self._output_used = RecentMean(), RecentMean()
        self._sizes = {axis: _Sizes() for axis in _TOKENS}
        self._rejected_sizes = _Sizes()

    def book(self, ticket: Ticket) -> None:
        """Note on the ticket what is reserved for it and what was admitted before, and count it as admitted."""
        ticket.reserved_input, ticket.reserved_output = self._tokens(ticket)
        ticket.sent_before = self._requests, self._input, self._output
        ticket.refunded_before = self._refunded
        self._requests += 1.0
        self._input += ticket.input_tokens or 0.0
        self._output += ticket.output_tokens or 0.0

    def refund(self, ticket: Ticket) -> None:
        """Take back what a rejected call was booked for: it took nothing."""
        read, written = ticket.input_tokens or 0.0, ticket.output_tokens or 0.0
        requests, input_tokens, output_tokens = self._refunded
        self._refunded = requests + 1.0, input_tokens + read, output_tokens + written
        self._requests -= 1.0
        self._input -= read
        self._output -= written
        self._rejected_sizes.learn(ticket.reserved_input + ticket.reserved_output)

    def settle(self, ticket: Ticket, read: float | None, written: float | None) -> tuple[float, float]:
        """Book what a call really used in the place of what it had named; ``None`` where that is unknown.

        Returns:
            Tokens read and written beyond those that were named.
        """
        if read is None:
            read = ticket.reserved_input
        elif ticket.input_tokens is None:
            self._input_used.learn(read)
        if written is None:
            written = ticket.reserved_output
        elif ticket.output_tokens is None:
            self._output_used.learn(written)
        more_read, more_written = read - (ticket.input_tokens or 0.0), written - (ticket.output_tokens or 0.0)
        self._input += more_read
        self._output += more_written
        for axis, sizes in self._sizes.items():
            sizes.learn(on_axis(axis, 1.0, read, written))
        return more_read, more_written

    def admitted_before(self, axis: Axis, ticket: Ticket) -> float:
        """Return what was admitted before a call whose refund is the last: of those sent before, some were rejected."""
        since = on_axis(axis, *self._refunded) - on_axis(axis, *ticket.refunded_before) - booked(axis, ticket)
        return on_axis(axis, *ticket.sent_before) - since

    def expected(self, axis: Axis, ticket: Ticket) -> float:
        """Return what a call that waits will probably weigh on the axis."""
        return on_axis(axis, 1.0, *self._tokens(ticket))

    def _tokens(self, ticket: Ticket) -> tuple[float, float]:
        """Return the tokens that a call names, or those that it will probably read and write."""
        read = self._input_used.value if ticket.input_tokens is None else ticket.input_tokens
        written = self._output_used.value if ticket.output_tokens is None else ticket.output_tokens
        return read, written

    @property
    def admitted(self) -> tuple[float, float, float]:
        """Requests, tokens read and tokens written of all calls admitted so far."""
        return self._requests, self._input, self._output

    def total(self, axis: Axis) -> float:
        """Return what all calls admitted so far weigh on the axis."""
        return on_axis(axis, self._requests, self._input, self._output)

    def unit(self, axis: Axis) -> float:
        """Return the size of a call that a typical unit belongs to: large calls count for more, E[c^2] / E[c]."""
        if axis is Axis.REQUESTS:
            return 1.0
        sizes = self._sizes[axis]
        if not sizes.count:
            return max(1.0, self.total(axis) / max(self._requests, 1.0))
        return max(1.0, sizes.mean_square / max(sizes.mean, 1.0))

    @property
    def large_are_rejected(self) -> bool:
        """Whether rejected calls are much larger than others: then their tokens are to blame."""
        rejected, admitted = self._rejected_sizes, self._sizes[Axis.TOKENS]
        return min(rejected.count, admitted.count) >= _FEW and rejected.mean > _LARGE * admitted.mean

    @property
    def varied(self) -> bool:
        """Whether calls differ much in size."""
        sizes = self._sizes[Axis.TOKENS]
        return sizes.mean_square > _VARIED * sizes.mean * sizes.mean


def reserved(axis: Axis, ticket: Ticket) -> float:
    """Return what was taken out of the axis' budget for a call that was sent."""
    return on_axis(axis, 1.0, ticket.reserved_input, ticket.reserved_output)


def booked(axis: Axis, ticket: Ticket) -> float:
    """Return what a call counts for before its answer: what it named."""
    return on_axis(axis, 1.0, ticket.input_tokens or 0.0, ticket.output_tokens or 0.0)


def on_axis(axis: Axis, requests: float, read: float, written: float) -> float:
    """Return what so many requests, tokens read and tokens written weigh on the axis."""
    if axis is Axis.REQUESTS:
        return requests
    if axis is Axis.INPUT_TOKENS:
        return read
    return written if axis is Axis.OUTPUT_TOKENS else read + written
