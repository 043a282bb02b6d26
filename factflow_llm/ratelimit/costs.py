"""What calls weigh on each axis: what one will probably use, what was reserved for it, and all that was sent so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

from factflow_llm.ratelimit.estimate import RecentQuantile
from factflow_llm.signals import Axis

if TYPE_CHECKING:
    from factflow_llm.ratelimit.line import Ticket


class Costs:
    """The running totals of what was sent, and what to expect of calls that do not name their tokens."""

    __slots__ = ("_input_sent", "_input_used", "_output_sent", "_output_used", "_requests_sent")

    def __init__(self) -> None:
        self._requests_sent = self._input_sent = self._output_sent = 0.0
        self._input_used, self._output_used = RecentQuantile(), RecentQuantile()

    def book(self, ticket: Ticket) -> None:
        """Note on the ticket what is reserved for it and what was sent before, and count it as sent."""
        read, written = self._tokens(ticket)
        ticket.reserved_input, ticket.reserved_output = read, written
        ticket.sent_before = self._requests_sent, self._input_sent, self._output_sent
        self._requests_sent += 1.0
        self._input_sent += read
        self._output_sent += written

    def learn(self, ticket: Ticket, read: float | None, written: float | None) -> None:
        """Take what a call used, where it had not said so before."""
        if read is not None and ticket.input_tokens is None:
            self._input_used.learn(read)
        if written is not None and ticket.output_tokens is None:
            self._output_used.learn(written)

    def expected(self, axis: Axis, ticket: Ticket) -> float:
        """Return what a call that waits will probably weigh on the axis."""
        return on_axis(axis, 1.0, *self._tokens(ticket))

    def _tokens(self, ticket: Ticket) -> tuple[float, float]:
        """Return the tokens that a call names, or those that it will probably read and write."""
        read = self._input_used.value if ticket.input_tokens is None else ticket.input_tokens
        written = self._output_used.value if ticket.output_tokens is None else ticket.output_tokens
        return read, written

    def total(self, axis: Axis) -> float:
        """Return what all calls sent so far weigh on the axis."""
        return on_axis(axis, self._requests_sent, self._input_sent, self._output_sent)

    def unit(self, axis: Axis) -> float:
        """Return the size of a typical call on the axis."""
        return max(1.0, self.total(axis) / max(self._requests_sent, 1.0))


def reserved(axis: Axis, ticket: Ticket) -> float:
    """Return what was taken out of the axis for a call that was sent."""
    return on_axis(axis, 1.0, ticket.reserved_input, ticket.reserved_output)


def on_axis(axis: Axis, requests: float, read: float, written: float) -> float:
    """Return what so many requests, tokens read and tokens written weigh on the axis."""
    if axis is Axis.REQUESTS:
        return requests
    if axis is Axis.INPUT_TOKENS:
        return read
    return written if axis is Axis.OUTPUT_TOKENS else read + written
