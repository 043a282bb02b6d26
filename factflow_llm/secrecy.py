"""What must not come out: the secrets this process holds, by value, and how texts that may hold them are shown.

A secret is known by having been configured (a key, a header, what an address carries beside host and path), not by how
it looks. Clients enrol what they are given; verdicts, rows and the SDKs' own log lines are shown without it.
"""

from __future__ import annotations

import logging
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

HIDDEN = "**********"
_SHORTEST = 6  # anything shorter is found in innocent words
_MOST = 10_000
_LOGGERS = (
    *("openai", "openai._base_client", "anthropic", "anthropic._base_client", "httpx", "httpx2"),
    *("botocore.endpoint", "botocore.auth", "botocore.parsers", "urllib3.connectionpool"),
    *(f"httpcore{two}.{part}" for two in ("", "2") for part in ("connection", "http11", "http2", "proxy", "socks")),
)
_TELLING_KEYS = re.compile(
    r"header|query|prox|cookie|(?:^|_|api)(?:(?<!cache_)key|token|secret|password|auth\w*|credentials?)$", re.IGNORECASE
)
_USER_INFO = re.compile(r"(?<=//)[^/@\s]*@")
_QUERY = re.compile(r"\?.*", re.DOTALL)

_secrets: OrderedDict[str, None] = OrderedDict()
_lock = threading.Lock()
_pattern: re.Pattern[str] | None = None


def enrol(*texts: str | None) -> None:
    """Remember secrets, so that they are shown nowhere; what is too short to be told apart is passed over."""
    global _pattern  # noqa: PLW0603
    with _lock:
        long_enough = [text for text in texts if text and len(text) >= _SHORTEST]
        new = [text for text in long_enough if text not in _secrets]
        for text in long_enough:
            _secrets[text] = None
            _secrets.move_to_end(text)  # what is in use stays longest
        if not new:
            return
        if _pattern is None:
            for name in _LOGGERS:
                logging.getLogger(name).addFilter(_hide)
        while len(_secrets) > _MOST:
            _secrets.popitem(last=False)
        _pattern = re.compile("|".join(map(re.escape, sorted(_secrets, key=len, reverse=True))))


def enrol_address(url: str) -> None:
    """Remember what an address carries beside its host and path."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return
    enrol(parts.username, parts.password, *(value for _, value in parse_qsl(parts.query)))


def enrol_options(options: Mapping[str, Any], *, telling: bool = False) -> None:
    """Remember what stands under the telling keys of options, and what the addresses in them carry."""
    for key, value in options.items():
        told = telling or is_telling(key)
        for item in value if isinstance(value, list | tuple) else [value]:
            if isinstance(item, Mapping):
                enrol_options(item, telling=told)
            elif isinstance(item, str) and "://" in item:
                enrol_address(item)
            elif isinstance(item, str) and told:
                enrol(item)


def holds_secret(text: str) -> bool:
    """Tell whether a text holds a secret of this process."""
    return _pattern is not None and _pattern.search(text) is not None


def masked(text: str) -> str:
    """Return a text with the secrets in it hidden."""
    return text if _pattern is None else _pattern.sub(HIDDEN, text)


def shown_address(url: str) -> str:
    """Return an address as it may be shown: without user, password and query."""
    return _QUERY.sub(f"?{HIDDEN}", _USER_INFO.sub(f"{HIDDEN}@", url))


def shown_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as they may be shown, without what stands under a telling key and what addresses carry."""
    return {key: _shown(value, telling=is_telling(key)) for key, value in options.items()}


def is_telling(key: object) -> bool:
    """Tell whether what stands under a key of options may be a secret: headers, queries, proxies, keys."""
    return isinstance(key, str) and _TELLING_KEYS.search(key) is not None


def _shown(value: Any, *, telling: bool) -> Any:
    if isinstance(value, Mapping):
        return {key: _shown(item, telling=telling or is_telling(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(item, telling=telling) for item in value]
    if isinstance(value, str):
        return HIDDEN if telling else masked(shown_address(value) if "://" in value else value)
    return value


def _hide(record: logging.LogRecord) -> bool:
    """Hide secrets in a log record of an SDK."""
    try:
        text = record.getMessage()
    except Exception:
        return True
    if holds_secret(text):
        record.msg, record.args = masked(text), None
    return True
