"""What a profile's clients do now, for a health page or a log line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from factflow_llm.settings import LLMProviderConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileStatus:
    """One profile's clients, in all event loops together. Plain values; no secret, no prompt.

    Attributes:
        provider: who runs the model.
        model: its name.
        loops: event loops that have a client of it.
        calls: calls under way: waiting, answered, or pausing between attempts.
        in_flight: attempts that the limiter has let in; profiles of one quota share a limiter, and so this figure.
        queued: calls that wait for their turn.
        breaker_open: whether the quota is exhausted, so that calls fail at once.
        share: the part of the quota that is this process's; ``None`` while it is not shared with others.
        limiter: what the limiter does and why, in words, one text per event loop; none for a profile without one.
    """

    provider: str
    model: str
    loops: int
    calls: int
    in_flight: int
    queued: int
    breaker_open: bool
    share: float | None
    limiter: tuple[str, ...]

    @classmethod
    def of(cls, profile: LLMProviderConfig, clients: Sequence[Any]) -> ProfileStatus:
        """Sum up what a profile's limited clients tell."""
        limiters = [client.limiter for client in clients if client.limiter is not None]
        metrics = [limiter.metrics for limiter in limiters]
        shares = [each.share for each in metrics if each.share is not None]
        return cls(
            provider=profile.provider.value,
            model=profile.model,
            loops=len(clients),
            calls=sum(client.calls for client in clients),
            in_flight=sum(each.in_flight for each in metrics),
            queued=sum(each.queued for each in metrics),
            breaker_open=any(each.breaker_open for each in metrics),
            share=None if not shares else sum(shares),
            limiter=tuple(each.explain() for each in metrics),
        )
