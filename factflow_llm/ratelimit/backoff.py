"""Whether and when a failed call is tried again: one pure function, asked by production and by simulation."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from factflow_llm.ratelimit.config import RetryConfig


def retry_delay_s(
    retry: RetryConfig,
    *,
    attempt: int,
    jitter: float,
    retry_after_s: float | None,
    remaining_s: float | None,
    worth_attempts: int | None = None,
) -> float | None:
    """Return the seconds to wait before the next attempt, or ``None`` to give up.

    Full jitter (Brooker, "Exponential Backoff and Jitter"): uniform between 0 and the doubling bound. A Retry-After
    is a floor under the draw, clamped to ``retry.retry_after_cap_s``.

    Args:
        retry: the bounds.
        attempt: number of the attempt that failed, from 0.
        jitter: a uniform draw in [0, 1).
        retry_after_s: what the provider asked for; ``None`` when nothing.
        remaining_s: seconds to the call's deadline; ``None`` without one.
        worth_attempts: attempts that this kind of failure is worth, if fewer than ``retry`` allows.
    """
    allowed = retry.max_attempts if worth_attempts is None else min(worth_attempts, retry.max_attempts)
    if attempt + 1 >= allowed:
        return None
    bound = min(retry.backoff_cap_s, retry.backoff_base_s * 2.0 ** min(attempt, 60))
    delay = jitter * bound
    if retry_after_s is not None:
        delay = max(delay, min(retry_after_s, retry.retry_after_cap_s))
    if remaining_s is not None and delay >= remaining_s:
        return None
    return delay
