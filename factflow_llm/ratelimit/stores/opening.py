"""What is asked of a store, and which there are."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote, urlsplit

from factflow_llm.errors import ConfigurationError
from factflow_llm.ratelimit.stores.address import VARIABLE, namespace
from factflow_llm.secrecy import enrol, shown_address

if TYPE_CHECKING:
    import re

    from factflow_llm.ratelimit.said import Grant, Report


class StoreError(Exception):
    """The store gave no answer; it may the next time."""


class FleetStore(Protocol):
    """Keeps the state of one quota, and refreshes it for one member at a time."""

    async def refresh(self, report: Report) -> Grant:
        """Take a report and return the grant.

        Raises:
            StoreError: there was no answer in time, or none at all.
            ConfigurationError: there never will be, as things are set up.
        """
        ...

    async def aclose(self) -> None:
        """Release what it holds."""
        ...


def open_store(address: str, quota: str) -> FleetStore:
    """Return the store of one quota at an address that was checked; nothing is opened before it is used.

    Raises:
        ConfigurationError: a variable is not set, or redis is not installed.
    """
    parts = urlsplit(_filled(address))
    if parts.scheme == "sqlite":
        from factflow_llm.ratelimit.stores.sqlite import SqliteStore

        return SqliteStore(parts.path.removeprefix("/"), f"{namespace(parts)}:{quota}")
    try:
        from factflow_llm.ratelimit.stores.redis import RedisStore
    except ModuleNotFoundError:
        raise ConfigurationError(
            f'shared = {shown_address(address)!r} needs redis: pip install "factflow-llm[redis]"'
        ) from None
    return RedisStore(parts, f"{{{namespace(parts)}:{quota}}}")


def _filled(address: str) -> str:
    """Put credentials from the environment into an address."""

    def value(match: re.Match[str]) -> str:
        secret = os.environ.get(match[1])
        if not secret:
            raise ConfigurationError(
                f"shared names the environment variable {match[1]}, which is not set: export {match[1]}=…"
            )
        enrol(secret)
        return quote(secret, safe="")

    return VARIABLE.sub(value, address)
