"""Spans and metrics for OpenTelemetry: one span per call with one child per attempt, and what limiters do.

Nothing here is imported unless somebody makes a ``Telemetry``. Prompts, answers, keys and addresses never reach it:
it is handed names, numbers and reasons from closed vocabularies.
"""

from __future__ import annotations

import math
import time
import weakref
from typing import TYPE_CHECKING, Any

from factflow_llm import telemetry_names as names
from factflow_llm.errors import ExtraMissingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from factflow_llm.errors import ErrorMetadata
    from factflow_llm.ratelimit.limiter import AdaptiveRateLimiter
    from factflow_llm.ratelimit.metrics import AIMDMetrics
    from factflow_llm.signals import Change
    from factflow_llm.types import Usage

_USAGE = {
    names.INPUT_TOKENS: "input_tokens",
    names.OUTPUT_TOKENS: "output_tokens",
    names.CACHE_READ: "cached_input_tokens",
    names.CACHE_WRITE: "cache_write_tokens",
    names.REASONING: "reasoning_tokens",
}


class Telemetry:
    """Tells OpenTelemetry of every call; ``LLMClientFactory(config, telemetry=Telemetry())``.

    Args:
        tracer_provider: makes spans; by default the one that the application has set.
        meter_provider: takes measurements; likewise.

    Raises:
        ExtraMissingError: opentelemetry is not installed.
    """

    def __init__(self, *, tracer_provider: Any = None, meter_provider: Any = None) -> None:
        try:
            from opentelemetry import metrics, trace
        except ModuleNotFoundError:
            raise ExtraMissingError('telemetry needs opentelemetry: pip install "factflow-llm[otel]"') from None
        self._trace = trace
        self._observation = metrics.Observation
        self._tracer = trace.get_tracer("factflow_llm", tracer_provider=tracer_provider, schema_url=names.SCHEMA_URL)
        meter = metrics.get_meter("factflow_llm", meter_provider=meter_provider, schema_url=names.SCHEMA_URL)

        def seconds(name: str, told: str) -> Any:
            return meter.create_histogram(name, "s", told, explicit_bucket_boundaries_advisory=list(names.SECONDS))

        def tokens(name: str, told: str) -> Any:
            return meter.create_histogram(name, "{token}", told, explicit_bucket_boundaries_advisory=list(names.TOKENS))

        self._durations = {
            "chat": seconds(names.DURATION, "How long calls took, waits and retries included"),
            "embeddings": seconds(names.EMBEDDING_DURATION, "How long embeddings took, waits and retries included"),
        }
        self._first_chunk = seconds(names.FIRST_CHUNK, "Time to the first piece of a streamed answer")
        self._wait = seconds(names.WAIT, "How long an attempt waited for its turn")
        self._rejections = meter.create_counter(names.REJECTIONS, "{attempt}", "Attempts that the provider rejected")
        self._changes = meter.create_counter(names.CHANGES, "{change}", "Changes of a limit, by reason")
        self._spent = {
            key: meter.create_counter(names.USAGE + key.removeprefix("gen_ai.usage."), "{token}", "Tokens used")
            for key in _USAGE
        }
        self._per_call = {
            names.INPUT_TOKENS: tokens(names.PER_CALL + "input_tokens", "Tokens that a call read"),
            names.OUTPUT_TOKENS: tokens(names.PER_CALL + "output_tokens", "Tokens that a call wrote"),
        }
        self._embedded = tokens(names.EMBEDDING_TOKENS, "Tokens that were embedded by a call")
        self._limiters: weakref.WeakKeyDictionary[AdaptiveRateLimiter, str] = weakref.WeakKeyDictionary()
        self._gauges(meter)

    def watch(self, quota: str, limiter: AdaptiveRateLimiter) -> None:
        """Tell what a limiter does, under the name of its quota, for as long as it lives."""
        self._limiters[limiter] = quota

        def changed(change: Change) -> None:
            self._changes.add(1, {names.QUOTA: quota, names.AXIS: change.axis.value, names.REASON: change.reason.value})

        limiter.subscribe(changed)

    def call(self, operation: str, model: str, provider: str, max_tokens: int | None) -> CallTrace:
        """Begin to tell of one call."""
        return CallTrace(self, operation, model, names.PROVIDERS.get(provider, provider), max_tokens)

    def _gauges(self, meter: Any) -> None:
        def gauge(name: str, unit: str, told: str, read: Callable[[AIMDMetrics], float | None]) -> None:
            def observe(_: object) -> Iterator[Any]:
                for limiter, quota in list(self._limiters.items()):
                    value = read(limiter.metrics)
                    if value is not None and math.isfinite(value):
                        yield self._observation(value, {names.QUOTA: quota})

            meter.create_observable_gauge(name, [observe], unit, told)

        def limits(_: object) -> Iterator[Any]:
            for limiter, quota in list(self._limiters.items()):
                now = limiter.metrics
                by_axis = {
                    "requests": now.requests_per_s,
                    "tokens": now.tokens_per_s,
                    "input_tokens": now.input_tokens_per_s,
                    "output_tokens": now.output_tokens_per_s,
                    "concurrency": now.concurrency_limit,
                }
                for axis, limit in by_axis.items():
                    if math.isfinite(limit):
                        yield self._observation(limit, {names.QUOTA: quota, names.AXIS: axis})

        meter.create_observable_gauge(names.LIMIT, [limits], "", "Units per second, or calls, that are allowed")
        gauge(names.IN_FLIGHT, "{call}", "Calls under way", lambda now: now.in_flight)
        gauge(names.QUEUE, "{call}", "Calls that wait for their turn", lambda now: now.queued)
        gauge(names.BREAKER, "", "1 while the account is exhausted", lambda now: float(now.breaker_open))
        gauge(names.SHARE, "", "The part of a shared quota that is this process's", lambda now: now.share)
        gauge(names.LEASE_AGE, "s", "How old that share is", lambda now: now.lease_age_s)
        gauge(names.MEMBERS, "{process}", "Processes that share the quota", lambda now: now.members)


class CallTrace:
    """One call's span, the child of whatever is current, and its attempts' spans below it."""

    __slots__ = ("_attempt", "_begun_s", "_context", "_span", "_telemetry", "_told", "_waits_s")

    def __init__(self, telemetry: Telemetry, operation: str, model: str, provider: str, max_tokens: int | None) -> None:
        self._telemetry = telemetry
        self._told: dict[str, Any] = {names.OPERATION: operation, names.MODEL: model, names.PROVIDER: provider}
        asked = self._told if max_tokens is None else {**self._told, names.MAX_TOKENS: max_tokens}
        trace = telemetry._trace
        self._span = telemetry._tracer.start_span(f"{operation} {model}", kind=trace.SpanKind.CLIENT, attributes=asked)
        self._context = trace.set_span_in_context(self._span)
        self._attempt: Any = None
        self._begun_s = self._waits_s = time.perf_counter()

    def waits(self) -> None:
        """Note that an attempt asks for its turn."""
        self._waits_s = time.perf_counter()

    def sent(self, number: int) -> None:
        """Note that the attempt goes, the call's ``number``-th, from 0."""
        wait_s = time.perf_counter() - self._waits_s
        self._telemetry._wait.record(wait_s, self._told)
        self._attempt = self._telemetry._tracer.start_span(
            f"attempt {number + 1}", context=self._context, attributes={names.ATTEMPT: number + 1, names.WAIT: wait_s}
        )

    def answers(self) -> None:
        """Note the first piece of a streamed answer."""
        self._telemetry._first_chunk.record(time.perf_counter() - self._begun_s, self._told)

    def attempted(self, error: BaseException | None, metadata: ErrorMetadata | None) -> None:
        """End the attempt's span."""
        attempt, self._attempt = self._attempt, None
        if attempt is None:
            return
        if error is not None:
            attempt.set_attribute(names.ERROR, _kind(error, metadata))
            attempt.set_status(self._telemetry._trace.StatusCode.ERROR)
        if metadata is not None:
            if metadata.status_code is not None:
                attempt.set_attribute(names.STATUS, metadata.status_code)
            if metadata.outcome.value == "rate_limited":
                axis = metadata.axis.value if metadata.axis is not None else "unknown"
                self._telemetry._rejections.add(1, {**self._told, names.AXIS: axis})
        attempt.end()

    def over(self, error: BaseException | None, metadata: ErrorMetadata | None, usage: Usage | None) -> None:
        """End the call's span; usage counts once, whatever number of attempts it took."""
        telemetry, span = self._telemetry, self._span
        told = self._told
        if error is not None:
            told = {**told, names.ERROR: _kind(error, metadata)}
            span.set_attribute(names.ERROR, told[names.ERROR])
            span.set_status(telemetry._trace.StatusCode.ERROR)
        chat = told[names.OPERATION] == "chat"
        telemetry._durations["chat" if chat else "embeddings"].record(time.perf_counter() - self._begun_s, told)
        for key, field in _USAGE.items():
            tokens = getattr(usage, field, None)
            if isinstance(tokens, int) and tokens >= 0:
                span.set_attribute(key, tokens)
                telemetry._spent[key].add(tokens, told)
                if key in telemetry._per_call:
                    if chat:
                        telemetry._per_call[key].record(tokens, told)
                    elif key == names.INPUT_TOKENS:
                        telemetry._embedded.record(tokens, told)
        span.end()


def _kind(error: BaseException, metadata: ErrorMetadata | None) -> str:
    """Name an error by our classifier's word, or by its class; its text may hold anything."""
    return metadata.reason.value if metadata is not None else type(error).__name__
