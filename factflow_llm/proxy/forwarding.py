"""Requests in a provider's own words, sent through the profiles of a factory: what the proxy and the adapters share.

Each waits for its profile's limiter, goes upstream, and streams back. What is refused is tried again as the profile's
settings say, or handed on to its pool and fallbacks; what the program gets in the end is what the provider said last.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from factflow_llm.errors import BadResponseError, FactflowLLMError, InvalidRequestError, get_error_metadata
from factflow_llm.providers import ModelType
from factflow_llm.proxy.upstream import ROADS, address, headers_back, headers_to, longest, profile_for, texts
from factflow_llm.routing.members import Member
from factflow_llm.routing.routed import ForeignCall, relayed
from factflow_llm.tokens import estimate_tokens
from factflow_llm.types import Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from factflow_llm.factory import LLMClientFactory

PROFILE_HEADER = "x-factflow-profile"
"""Names the profile that answered."""
_STATUS = {"quota": 429, "daily_quota": 429, "queue_full": 429, "deadline": 504, "timeout": 504, "closed": 503}
_REMEMBERED = 10_000


class Answer(NamedTuple):
    """What the program gets: a whole body, or the parts of a stream, which must be closed."""

    status: int
    headers: Mapping[str, str]
    content: bytes | AsyncGenerator[bytes, None]


class _UpstreamError(BadResponseError):
    """What the provider said instead of an answer, whole, for the program."""

    def __init__(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        super().__init__("the provider refused", status_code=status, body=_json(content), headers=dict(headers))
        self.content = content


class Forwarding:
    """Sends what programs ask for.

    Args:
        factory: whose profiles answer.
        http: an ``AsyncClient`` of httpx or httpx2, of the running event loop.
    """

    def __init__(self, factory: LLMClientFactory, http: Any) -> None:
        self._factory = factory
        self._http = http
        self._givers: OrderedDict[str, str] = OrderedDict()

    async def answer(self, path: str, asked: Mapping[str, str], content: bytes, *, name: str | None = None) -> Answer:
        """Send a request until there is an answer; a stream's first bytes are handed on as soon as they are there.

        Args:
            path: one of ``ROADS``.
            asked: the request's headers.
            content: its body.
            name: the profile; by default the one that the body's ``model`` means.
        """
        body = _json(content)
        if not isinstance(body, dict):
            return problem(400, "the request's body is no JSON object")
        try:
            if name is None:
                name = profile_for(self._factory.config, ROADS[path], body.get("model"))
            parts = self._parts(path, asked, body, content, name)
            status, headers = await anext(parts)
            if headers.get("content-type", "").startswith("text/event-stream"):
                return Answer(status, headers, parts)
            async with aclosing(parts):
                return Answer(status, headers, b"".join([part async for part in parts]))
        except _UpstreamError as error:
            return Answer(error.status_code or 502, headers_back(error.headers or {}), error.content)
        except InvalidRequestError as error:
            return problem(404, str(error), "model_not_found")
        except FactflowLLMError as error:
            return problem(_STATUS.get(error.reason.value, 500), str(error), error.reason.value)
        except Exception as error:
            if type(error).__module__.partition(".")[0] not in ("httpx", "httpx2"):
                raise
            reason = get_error_metadata(error).reason.value
            words = f"the provider could not be reached: {type(error).__name__}"
            return problem(_STATUS.get(reason, 502), words, reason)

    async def _parts(
        self, path: str, asked: Mapping[str, str], body: dict[str, Any], content: bytes, name: str
    ) -> AsyncGenerator[Any, None]:
        """Yield status and headers of the answer, then its bytes."""
        road, profiles = ROADS[path], self._factory.config.providers
        chat = road.type is ModelType.CHAT
        client = (self._factory.create_completion_client if chat else self._factory.create_embedding_client)(name)
        tokens = estimate_tokens("\n".join(texts(body)), model=profiles[name].model)
        call = ForeignCall(
            partial(self._sent, path, asked, body, content, tokens),
            (tokens, longest(road, body) if chat else 0),
            lambda member: profiles[member].provider in road.providers,
            self._givers.get(str(body.get("previous_response_id"))),
            path,
        )
        async with aclosing(relayed(Member(name, client), call)) as parts:
            async for _, part in parts:
                yield part

    async def _sent(
        self,
        path: str,
        asked: Mapping[str, str],
        body: dict[str, Any],
        content: bytes,
        tokens: int,
        member: Member,
        left_s: float | None,
    ) -> AsyncGenerator[Any, None]:
        """Send the request through one profile, as often as its settings say."""
        road, profile = ROADS[path], self._factory.config.providers[member.name]
        url, model = address(profile, path)
        if body.get("model") != model:
            content = json.dumps({**body, "model": model}).encode()
        operation = "chat" if road.type is ModelType.CHAT else "embeddings"
        call = member.client.begin(operation, tokens, longest(road, body), 0, left_s)
        sent = headers_to(profile, asked)
        while True:
            async with call, self._http.stream("POST", url, content=content, headers=sent) as response:
                if response.status_code >= 400:
                    raise _UpstreamError(response.status_code, await response.aread(), response.headers)
                back = {**headers_back(response.headers), PROFILE_HEADER: member.name}
                if not back.get("content-type", "").startswith("text/event-stream"):
                    whole = await response.aread()  # before anything is handed on: it may break off and be asked again
                    answer = _json(whole)
                    call.note(_usage(answer), response.headers)
                    self._remember(answer, member)
                    yield response.status_code, back
                    yield whole
                    return
                tail, begun = bytearray(), False
                async for part in response.aiter_raw():
                    tail = (tail + part)[-65_536:]
                    call.begun(None, response.headers)
                    if not begun:
                        begun = True
                        yield response.status_code, back
                    yield part
                if not begun:
                    yield response.status_code, back
                last = _last_event(bytes(tail))
                call.note(_usage(last), response.headers)
                self._remember(last, member)
                return

    def _remember(self, answer: Any, member: Member) -> None:
        """Note who keeps a response, so that the conversation goes on where it is kept."""
        if isinstance(answer, dict) and answer.get("object") == "response" and isinstance(answer.get("id"), str):
            self._givers[answer["id"]] = member.name
            while len(self._givers) > _REMEMBERED:
                self._givers.popitem(last=False)


def problem(status: int, message: str, code: str = "invalid_request_error") -> Answer:
    """Return an answer that says what is wrong, in the form of both languages."""
    said = {"error": {"message": message, "type": code, "code": code}}
    return Answer(status, {"content-type": "application/json"}, json.dumps(said).encode())


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return content.decode(errors="replace")


def _usage(body: Any) -> Usage | None:
    """Return what an answer says of its tokens, in OpenAI's or Anthropic's words."""
    told = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(told, dict):
        return None
    read = _count(told, "prompt_tokens", "input_tokens")
    cached = sum(_count(told, name) or 0 for name in ("cache_read_input_tokens", "cache_creation_input_tokens"))
    return Usage(
        None if read is None else read + cached,
        _count(told, "completion_tokens", "output_tokens"),
        cached_input_tokens=_count(told, "cache_read_input_tokens"),
    )


def _last_event(tail: bytes) -> Any:
    """Return the last event of a stream that tells usage, or of a response's own events what they tell of it."""
    for line in reversed(tail.splitlines()):
        if line.startswith(b"data:") and b'"usage"' in line:
            event = _json(line[5:].strip())
            event = event.get("response") or event if isinstance(event, dict) else None
            if _usage(event) is not None:
                return event
    return None


def _count(told: dict[str, Any], *names: str) -> int | None:
    return next((told[name] for name in names if isinstance(told.get(name), int)), None)
