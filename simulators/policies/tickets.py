"""A call's place in line, as yardsticks and the engine carry it: with the whole truth about the call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from factflow_llm.ratelimit.line import NEVER, Ticket

if TYPE_CHECKING:
    from simulators.providers.calls import Call
    from simulators.providers.machine import Verdict


class KnownTicket(Ticket):
    """A ticket that carries the whole truth about its call, for yardsticks that may look."""

    __slots__ = ("call",)

    def __init__(self, call: Call, *, output_tokens: int | None, priority: int = 0, deadline_s: float = NEVER) -> None:
        super().__init__(call.input_tokens, output_tokens, priority=priority, deadline_s=deadline_s)
        self.call = call


class RequestTicket(KnownTicket):
    """A request on its way: its place in line, and what its rows will tell."""

    __slots__ = (
        "arrival_s", "attempt", "client", "concurrency", "ended", "sends", "submitted_s", "verdict",
    )  # fmt: skip
    concurrency: float
    submitted_s: float
    verdict: Verdict

    def __init__(self, call: Call, arrival_s: float, client: int, deadline_s: float) -> None:
        Ticket.__init__(self, call.input_tokens, call.max_tokens, deadline_s=deadline_s)
        self.call = call
        self.arrival_s = arrival_s
        self.client = client
        self.attempt = self.sends = 0
        self.ended = False
