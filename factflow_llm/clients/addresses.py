"""Where a client connects, by what key and with what headers: checked when it is made, and kept out of every error.

An error says what to write instead; of a key or a header it shows nothing, of an address no more than may be seen.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit, urlunsplit

from factflow_llm.errors import ConfigurationError
from factflow_llm.secrecy import enrol, enrol_address, masked, shown_address

if TYPE_CHECKING:
    from collections.abc import Mapping

_SCHEMES = frozenset({"http", "https", "socks5", "socks5h"})
_DEPLOYMENT = re.compile(r"/deployments/([^/]+)")
_PROJECT = re.compile(r"/(?:api/projects/.*|models(?:/.*)?)$")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^`|~\w-]+", re.ASCII)


def check_url(url: Any, *, name: str) -> str:
    """Return ``url``, or raise a ``ConfigurationError`` when it is malformed or lacks a scheme or a host."""
    if not isinstance(url, str):
        shown = url if isinstance(url, int | float) else f"of type {type(url).__name__}"
        raise ConfigurationError(f"{name} {shown} is no URL: write it as text, https://HOST")
    enrol_address(url)
    shown = shown_address(url)
    if not url.isprintable() or " " in url:
        raise ConfigurationError(f"{name} {shown!r} is no URL: write https://HOST, with no space or line break in it")
    try:
        parts = urlsplit(url)
        complete = parts.scheme in _SCHEMES and parts.hostname and parts.port != 0
    except ValueError as error:
        raise ConfigurationError(
            f"{name} {shown!r} is no URL: {masked(str(error))}; write https://HOST or http://HOST:PORT"
        ) from None
    if not complete:
        raise ConfigurationError(
            f"{name} {shown!r} needs a scheme and a host: write https://HOST, or http://HOST for a server of your own"
        )
    return url


def check_address(url: Any, *, variable: str, default: str) -> str:
    """Return the address given, else the environment's, else the default, without a slash at its end.

    A variable that is set and blank says nothing.
    """
    told = os.environ.get(variable, "")
    return check_url(url or (told if told.strip() else default), name="base_url").rstrip("/")


def azure_resource(url: str | None) -> tuple[str, str | None, str | None]:
    """Return a resource of Azure, with the deployment and the API version that its address names.

    Args:
        url: as Azure's portal shows it; by default the environment's ``AZURE_OPENAI_ENDPOINT``.

    Raises:
        ConfigurationError: there is none, or it is malformed.
    """
    url = url or os.environ.get("AZURE_OPENAI_ENDPOINT")
    if not url:
        raise ConfigurationError(
            "no resource: give base_url='https://RESOURCE.openai.azure.com' or set AZURE_OPENAI_ENDPOINT"
        )
    parts = urlsplit(check_url(url, name="base_url"))
    way, _, call = parts.path.partition("/openai")
    endpoint = f"{parts.scheme}://{parts.netloc}{_PROJECT.sub('', way.rstrip('/')).removesuffix('/v1')}"
    deployment = _DEPLOYMENT.match(call)
    dated = parse_qs(parts.query).get("api-version", [None])[0]
    return endpoint, deployment and unquote(deployment[1]), None if call.startswith("/v1") else dated


def check_api_key(key: str | None, *, variable: str) -> str:
    """Return the key, or raise a ``ConfigurationError`` when it is missing or cannot stand in an HTTP header."""
    if not key:
        raise ConfigurationError(
            f"no API key: set the environment variable {variable} or give api_key "
            "(any word will do for a server that asks for none)"
        )
    _check_header_value(key, name="the API key")
    enrol(key)
    return key


def check_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Return a copy of the headers, or raise a ``ConfigurationError`` for one that HTTP cannot carry."""
    for name, value in (headers or {}).items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise ConfigurationError(f"{name!r} cannot be the name of a header: write letters, digits and dashes")
        _check_header_value(value, name=f"the header {name!r}")
        enrol(value)
    return dict(headers or {})


def split_query(address: str) -> tuple[str, dict[str, str]]:
    """Return an address without its query, and the query, which SDKs want apart."""
    parts = urlsplit(address)
    return urlunsplit(parts._replace(query="")), dict(parse_qsl(parts.query, keep_blank_values=True))


def _check_header_value(value: Any, *, name: str) -> None:
    if not isinstance(value, str):
        raise ConfigurationError(f"{name} is of type {type(value).__name__}: write a str")
    if value != value.strip() or not value.isascii() or not value.isprintable():
        raise ConfigurationError(
            f"{name} holds a line break, a space at an end, or a character outside ASCII: "
            "was it read from a file? strip() it"
        )
