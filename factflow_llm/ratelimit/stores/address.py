"""Addresses of stores, as ``RateLimitConfig(shared=…)`` has them.

::

    sqlite:///path/to/file                      the processes of one host
    redis://host:6379/0?namespace=team          Redis or Valkey; rediss:// for TLS
    redis+sentinel://host:26379,host2/name/0    whoever Sentinel says is the master of that name
    redis+cluster://host:6379                   a cluster; all keys of a quota lie in one slot

Credentials are written ``${NAME}`` and come from the environment.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from factflow_llm.secrecy import shown_address

if TYPE_CHECKING:
    from urllib.parse import SplitResult

SCHEMES = ("sqlite", "redis", "rediss", "redis+sentinel", "redis+cluster")
VARIABLE = re.compile(r"\$\{(\w+)\}")
_NAMESPACE = re.compile(r"[\w.:-]+")
_WRITE = 'write "sqlite:///path/to/file" or "redis://host:6379/0?namespace=team"'


def check_address(address: str) -> str:
    """Return an address of a store as it is, if it is one.

    Raises:
        ValueError: saying what to write instead; a password that stands in it is not told.
    """
    given = f"(given: {shown_address(address)!r})"
    try:
        parts = urlsplit(address)
        _ = parts.port if "," not in parts.netloc else None
    except ValueError:
        raise ValueError(f"this is no address; {_WRITE} {given}") from None
    if parts.scheme not in SCHEMES:
        raise ValueError(f"no store is known by {parts.scheme or 'such an address'!r}; {_WRITE} {given}")
    if parts.password is not None and not VARIABLE.fullmatch(parts.password):
        raise ValueError(f'a password is not written out; put it into a variable and write ":${{NAME}}@" {given}')
    if parts.scheme == "sqlite":
        if parts.netloc or len(parts.path) < 2:
            raise ValueError(f'write three slashes and a path: "sqlite:///path/to/file" {given}')
    elif not parts.hostname:
        raise ValueError(f"the host is missing; {_WRITE} {given}")
    if parts.scheme == "redis+sentinel" and not parts.path.strip("/"):
        raise ValueError(f'the name of the master is missing: "redis+sentinel://host:26379/name/0" {given}')
    unknown = parse_qs(parts.query, keep_blank_values=True).keys() - {"namespace"}
    if unknown:
        raise ValueError(f"{min(unknown)!r} is unknown here; only namespace may follow the '?' {given}")
    name = namespace(parts)
    if not _NAMESPACE.fullmatch(name):
        raise ValueError(f"namespace {name!r} may hold letters, digits and . : _ - only {given}")
    return address


def namespace(parts: SplitResult) -> str:
    """Return the namespace that an address names."""
    return parse_qs(parts.query).get("namespace", ["factflow"])[-1]
