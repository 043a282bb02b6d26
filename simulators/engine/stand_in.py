"""A client in front of a simulated provider, for production code on a virtual clock: it waits where an SDK would."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from factflow_llm.signals import Axis
from factflow_llm.types import CompletionResponse, FinishReason, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from factflow_llm.types import Message, StreamChunk
    from simulators.providers.calls import Call
    from simulators.providers.catalogue import Provider
    from simulators.providers.machine import ProviderMachine, Verdict

_NAMED = {
    Axis.REQUESTS: ("requests", "requests per min (RPM)"),
    Axis.TOKENS: ("tokens", "tokens per min (TPM)"),
    Axis.INPUT_TOKENS: ("input_tokens", "input tokens per minute"),
    Axis.OUTPUT_TOKENS: ("output_tokens", "output tokens per minute"),
}


class SimulatedError(Exception):
    """What an SDK would raise: a status, a body, a response with headers."""

    def __init__(self, verdict: Verdict, headers: dict[str, str], provider: Provider) -> None:
        super().__init__("simulated")
        self.status_code = verdict.status
        self.response = SimpleNamespace(headers=headers, status_code=verdict.status)
        named = _NAMED.get(verdict.axis) if provider.names_axis and verdict.axis is not None else None
        if verdict.error == "request_exceeds_limit":
            message = "Request too large: Limit 1, Requested 2. The input or output tokens must be reduced."
        elif verdict.error == "daily_quota":
            message = "Rate limit reached on requests per day (RPD): Limit 2, Used 2, Requested 1."
        elif named is not None:
            message = f"Rate limit reached on {named[1]}: Limit 2, Used 2, Requested 1."
        else:
            message = "Rate limit reached."
        if verdict.retry_after_s is not None and provider.retry_after.shown_in == "body":
            message += f" Please try again in {verdict.retry_after_s:.15g}s."
        kind = named[0] if named is not None and verdict.axis in (Axis.REQUESTS, Axis.TOKENS) else None
        self.body = {"message": message, "type": kind, "param": None, "code": "rate_limit_exceeded"}
        if verdict.status != 429:
            self.body = {"message": "Overloaded.", "type": "service_unavailable", "param": None, "code": None}


class SimulatedClient:
    """An LLMClientProtocol in front of a provider machine; waits on the event loop's clock."""

    provider = "openai"
    model = "simulated"

    def __init__(self, machine: ProviderMachine) -> None:
        self.machine = machine

    async def complete(self, messages: Sequence[Message], *, call: Call, **_: Any) -> CompletionResponse:
        """Send the call to the machine, wait as long as it takes, and answer or raise."""
        loop = asyncio.get_running_loop()
        there_s, back_s = self.machine.ways_s(call)
        judged: asyncio.Future[tuple[Verdict, dict[str, str]]] = loop.create_future()

        def arrive() -> None:
            verdict = self.machine.send(loop.time(), call)
            if judged.cancelled():  # who hangs up does not call back what is on its way
                self.machine.finish(loop.time(), verdict.handle)
            else:
                judged.set_result((verdict, self.machine.headers(loop.time(), verdict)))

        if self.machine.distant:
            loop.call_later(there_s, arrive)
        else:
            arrive()
        verdict, headers = await judged
        try:
            await asyncio.sleep(verdict.duration_s)
        finally:
            self.machine.finish(loop.time(), verdict.handle)
        if self.machine.distant:
            await asyncio.sleep(back_s)
        if verdict.error is not None:
            raise SimulatedError(verdict, headers, self.machine.provider)
        usage = Usage(input_tokens=call.input_tokens, output_tokens=call.output_tokens)
        return CompletionResponse("", self.model, usage, FinishReason.STOP, headers=headers)

    def stream(self, messages: Sequence[Message], **_: Any) -> AsyncIterator[StreamChunk]:
        """Answer nobody: a machine has no pieces."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Have nothing to close."""
