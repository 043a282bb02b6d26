"""Redis or Valkey: one script per refresh, which runs there, on the server's clock."""

from __future__ import annotations

import asyncio
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.sentinel import Sentinel
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from factflow_llm.errors import ConfigurationError
from factflow_llm.ratelimit.stores.opening import StoreError
from factflow_llm.ratelimit.stores.words import grant_from_json, report_to_json
from factflow_llm.secrecy import masked, shown_address

if TYPE_CHECKING:
    from urllib.parse import SplitResult

    from factflow_llm.ratelimit.said import Grant, Report

_PATIENCE_S = 1.0
_VERSION = 1
_SCRIPT = files("factflow_llm.ratelimit.stores").joinpath("refresh.lua").read_text(encoding="utf-8")


class RedisStore:
    """One quota's keys on a server, or in a cluster.

    Args:
        parts: the address, with its credentials.
        tag: the quota, as a hash tag: all its keys lie in one slot.
    """

    def __init__(self, parts: SplitResult, tag: str) -> None:
        self._shown = shown_address(parts.geturl())
        self._keys = [f"{tag}:{_VERSION}{what}" for what in ("", ":leases", ":words")]
        self._client = _client(parts)
        self._script = self._client.register_script(_SCRIPT)

    async def refresh(self, report: Report) -> Grant:
        """Take a report and return the grant; errors as of ``FleetStore``."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                answer = await self._script(keys=self._keys, args=[report_to_json(report)])
            return grant_from_json(answer)
        except (AuthenticationError, NoPermissionError) as error:
            raise self._useless(f"{error}; write its user and password as redis://user:${{NAME}}@host/0") from None
        except ResponseError as error:
            text = str(error)
            if text.startswith(("LOADING", "READONLY", "MASTERDOWN", "BUSY", "OOM", "CLUSTERDOWN", "TRYAGAIN")):
                raise StoreError(masked(f"{self._shown}: {text}")) from None
            if "unknown command" in text.lower() or "cmsgpack" in text or "cjson" in text:
                raise self._useless(f"{text}; it takes a server of version 6.2 or later that allows scripts") from None
            raise self._useless(
                f"{text}; something else may be stored under {self._keys[0]!r}: choose another ?namespace="
            ) from None
        except ValueError as error:
            raise self._useless(f"{error}; something else answers, or is stored under {self._keys[0]!r}") from None
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreError(masked(f"{self._shown}: {error or type(error).__name__}")) from None

    async def aclose(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    def _useless(self, why: str) -> ConfigurationError:
        return ConfigurationError(masked(f"shared = {self._shown!r} cannot be used: {why}"))


def _client(parts: SplitResult) -> Any:
    patience: dict[str, Any] = {"socket_timeout": _PATIENCE_S, "socket_connect_timeout": _PATIENCE_S}
    if parts.scheme == "redis+sentinel":
        nodes = [node.partition(":") for node in parts.netloc.rpartition("@")[2].split(",")]
        name, _, database = parts.path.strip("/").partition("/")
        password = unquote(parts.password) if parts.password else None
        login: dict[str, Any] = {"username": parts.username or None, "password": password, "db": int(database or 0)}
        sentinel: Any = Sentinel
        return sentinel([(host, int(port or 26379)) for host, _, port in nodes], **patience).master_for(
            name, **login, **patience
        )
    address = parts._replace(query="", scheme=parts.scheme.replace("redis+cluster", "redis")).geturl()
    make: Any = RedisCluster if parts.scheme == "redis+cluster" else Redis
    return make.from_url(address, **patience)
