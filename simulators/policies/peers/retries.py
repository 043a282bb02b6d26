"""Installed rules for retries: how long to wait before the next attempt, with the simulation's luck."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from simulators.policies.peers.driving import as_its_own

if TYPE_CHECKING:
    from types import ModuleType


@cache
def _openai_client() -> tuple[ModuleType, Any, Any]:
    base, models = import_module("openai._base_client"), import_module("openai._models")
    client = base.SyncAPIClient.__new__(base.SyncAPIClient)  # nobody to connect to
    client.max_retries = base.DEFAULT_MAX_RETRIES
    return base, client, models.FinalRequestOptions.construct(method="post", url="/")


def openai_delay_s(attempt: int, jitter: float, retry_after_s: float | None) -> float:
    """Return the OpenAI SDK's wait after the attempt of that number, from 0."""
    module, client, options = _openai_client()
    headers = {} if retry_after_s is None else {"retry-after": f"{retry_after_s:.15g}"}
    with as_its_own(module, random=lambda: jitter):
        return float(client._calculate_retry_timeout(client.max_retries - attempt, options, headers))


def tenacity_delay_s(attempt: int, jitter: float, retry_after_s: float | None) -> float:
    """Return the wait of ``wait_random_exponential(min=1, max=60)``; it knows of no Retry-After."""
    wait = import_module("tenacity.wait")
    with as_its_own(wait, random=SimpleNamespace(uniform=lambda low, high: low + (high - low) * jitter)):
        return float(wait.wait_random_exponential(min=1, max=60)(SimpleNamespace(attempt_number=attempt + 1)))
