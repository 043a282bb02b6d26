"""What the openai and anthropic SDKs share: Stainless generates both, on httpx until 2026-08 and on httpx2 since.

Neither httpx is imported here: timeouts and proxies are built from what the SDK itself exports, so every major works.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, NoReturn

from factflow_llm.clients.addresses import check_headers, check_url
from factflow_llm.clients.checks import check_positive
from factflow_llm.errors import BadResponseError, ConfigurationError
from factflow_llm.errors.crossing import let_cross

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType

TIMEOUT_S = 600.0  # both SDKs' own defaults: a long answer that is not streamed says nothing for minutes
CONNECT_TIMEOUT_S = 5.0


def connection(
    sdk: ModuleType,
    *,
    timeout_s: float,
    connect_timeout_s: float,
    headers: Mapping[str, str] | None,
    proxy: str | None,
    http_client: Any,
) -> dict[str, Any]:
    """Check and return the keyword arguments that both SDKs' clients take; the SDK's own retries are off."""
    let_cross()
    timeout = sdk.Timeout(
        check_positive(timeout_s, name="timeout_s"),
        connect=check_positive(connect_timeout_s, name="connect_timeout_s"),
    )
    if proxy is not None:
        if http_client is not None:
            raise ConfigurationError("give either proxy or http_client: a client of your own carries its own proxy")
        http_client = sdk.DefaultAsyncHttpxClient(proxy=check_url(proxy, name="proxy"), timeout=timeout)
    return {
        "timeout": timeout,
        "max_retries": 0,
        "default_headers": check_headers(headers),
        "http_client": http_client,
    }


def accepted_options(method: Callable[..., Any]) -> frozenset[str]:
    """Return the names of the arguments an SDK method takes, whatever its version."""
    return frozenset(inspect.signature(method).parameters)


def lower_headers(response: Any) -> dict[str, str]:
    """Return the HTTP headers of a raw SDK response with lower-case names; of two with one name, the last."""
    raw = response.headers.raw
    if not raw:
        return {}
    names, values = zip(*raw, strict=True)
    decoded = b"\n".join(names).lower() + b"\n" + b"\n".join(values)  # a line break is in neither
    lines = decoded.decode("latin-1").split("\n")
    return dict(zip(lines[: len(names)], lines[len(names) :], strict=True))


def constructed(model: type[Any], answer: Mapping[str, Any]) -> Any:
    """Make the SDK's object of an answer or an event: validated where it is sound, as the SDK's own reading else.

    Where the SDK can make nothing of it, the plain mapping stands for it.
    """
    try:
        return model.model_validate(answer)
    except Exception:
        try:
            return model.construct(**answer)
        except Exception:
            return answer


def raise_not_an_answer(response: Any) -> NoReturn:
    """Raise for a 200 that is no answer of the API: most often a wrong ``base_url``."""
    found = response.headers.get("content-type", "an unnamed type").split(";")[0]
    raise BadResponseError(
        f"{response.http_response.url.host} answered 200 with {found} that is no answer of the API: check base_url "
        "(servers that speak OpenAI's language mostly want it to end in /v1)",
        headers=lower_headers(response),
    )


def raise_cut_stream(sdk: ModuleType, response: Any) -> NoReturn:
    """Raise for a stream that ended without a reason: a dropped connection that looked like an end, or no stream."""
    if not response.headers.get("content-type", "").startswith("text/event-stream"):
        raise_not_an_answer(response)
    raise sdk.APIConnectionError(
        message="the stream ended before its finish reason: the connection was cut on the way",
        request=response.http_response.request,
    )


def too_slow(sdk: ModuleType, words: str) -> Exception:
    """Make the SDK's own error for an attempt that took too long; its cause says by which bound."""
    error: Exception = sdk.APITimeoutError(request=None)
    error.__cause__ = TimeoutError(words)
    return error
