"""Which profile a request means, where it goes from there, and which headers go along: a list of those that may.

The program's own key stays here. So do cookies, addresses and whatever else nobody has named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlencode

from factflow_llm.clients.addresses import azure_resource
from factflow_llm.errors import InvalidRequestError
from factflow_llm.providers import ModelType, ProviderName

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from factflow_llm.settings import LLMConfig, LLMProviderConfig

_OPENAI_LIKE = (ProviderName.OPENAI, ProviderName.AZURE)


class ProxyPath(NamedTuple):
    """A path that the proxy answers.

    Attributes:
        providers: who speaks its language.
        type: what its models do.
        longest: the fields that bound an answer's tokens.
    """

    providers: tuple[ProviderName, ...]
    type: ModelType
    longest: tuple[str, ...] = ()


ROADS: Mapping[str, ProxyPath] = {
    "/v1/chat/completions": ProxyPath(_OPENAI_LIKE, ModelType.CHAT, ("max_completion_tokens", "max_tokens")),
    "/v1/responses": ProxyPath(_OPENAI_LIKE, ModelType.CHAT, ("max_output_tokens",)),
    "/v1/embeddings": ProxyPath(_OPENAI_LIKE, ModelType.EMBEDDING),
    "/v1/messages": ProxyPath((ProviderName.ANTHROPIC,), ModelType.CHAT, ("max_tokens",)),
}
"""Every path that the proxy answers."""

_USUAL_ADDRESS = {ProviderName.OPENAI: "https://api.openai.com/v1", ProviderName.ANTHROPIC: "https://api.anthropic.com"}
_ASKED = frozenset({"content-type", "accept", "anthropic-version", "anthropic-beta", "openai-beta", "idempotency-key"})
_ANSWERED = ("content-type", "retry-after", "request-id", "x-request-id", "x-should-retry")
_ANSWERED_FAMILIES = ("x-ratelimit-", "anthropic-ratelimit-", "openai-processing-ms", "openai-version")


def profile_for(config: LLMConfig, road: ProxyPath, model: Any) -> str:
    """Return the name of the profile that a request means: one of that name, else the first of that model.

    Raises:
        InvalidRequestError: there is none; the message names the models there are.
    """
    fitting = {
        name: profile
        for name, profile in config.providers.items()
        if profile.provider in road.providers and profile.type is road.type
    }
    for name, profile in fitting.items():
        if model in (name, profile.model, profile.deployment):
            return name
    known = sorted({profile.model for profile in fitting.values()})
    raise InvalidRequestError(
        f"no profile of this proxy has the model {str(model)[:80]!r} for this path; known: {', '.join(known) or 'none'}"
    )


def address(profile: LLMProviderConfig, path: str) -> tuple[str, str]:
    """Return where a request of that path goes, and what the model is called there: on Azure, its deployment."""
    if profile.provider is not ProviderName.AZURE:
        base = profile.base_url or _USUAL_ADDRESS.get(profile.provider, "")
        return base.rstrip("/").removesuffix("/v1") + path, profile.deployment or profile.model
    resource, named, dated = azure_resource(profile.base_url)
    model, version = profile.deployment or named or profile.model, profile.api_version or dated
    if version is None:
        return f"{resource}/openai{path}", model
    call = path.removeprefix("/v1")
    if call != "/responses":  # which goes by the body's ``model`` there, too
        call = f"/deployments/{quote(model, safe='')}{call}"
    return f"{resource}/openai{call}?{urlencode({'api-version': version})}", model


def headers_to(profile: LLMProviderConfig, asked: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that go upstream: those of the list, and the profile's key."""
    headers = {name.lower(): value for name, value in asked.items() if name.lower() in _ASKED}
    headers["accept-encoding"] = "identity"
    key = profile.resolve_api_key() or ""
    if profile.provider is ProviderName.ANTHROPIC:
        return {"anthropic-version": "2023-06-01", **headers, "x-api-key": key}
    if profile.provider is ProviderName.AZURE:
        return {**headers, "api-key": key}
    return {**headers, "authorization": f"Bearer {key}"}


def headers_back(answered: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that the program may see."""
    return {
        name.lower(): value
        for name, value in answered.items()
        if name.lower() in _ANSWERED or name.lower().startswith(_ANSWERED_FAMILIES)
    }


def longest(road: ProxyPath, body: Mapping[str, Any]) -> int | None:
    """Return the bound on a request's answer; ``None`` without one, or with one that is none."""
    bounds = (body.get(name) for name in road.longest)
    return next((bound for bound in bounds if isinstance(bound, int) and bound > 0), None)


def texts(body: Any) -> Iterator[str]:
    """Yield every text in a request that the model will read; images and files are not texts."""
    if isinstance(body, dict):
        for name, value in body.items():
            if name not in ("model", "data", "url", "image_url", "file_data"):
                yield from texts(value)
    elif isinstance(body, list):
        for value in body:
            yield from texts(value)
    elif isinstance(body, str):
        yield body
