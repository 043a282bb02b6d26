"""Providers' batch APIs, by the clients that know their words: submit requests, ask how they do, read the answers.

Both take a day at half the price. OpenAI and Azure want a file of lines, Anthropic a list; answers come in any order.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from factflow_llm.clients.answers import AnswerContext
from factflow_llm.clients.schemas import fitted
from factflow_llm.errors import BadResponseError, ConfigurationError, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from factflow_llm.types import CompletionResponse

_NOT_IN_BODIES = ("timeout", "extra_query", "extra_body")
_LEFT_OUT = ("NotGiven", "Omit")


class Offline(NamedTuple):
    """One request of a batch: its name there, and its body."""

    name: str
    body: dict[str, Any]


class BatchAnswer(NamedTuple):
    """What came of one request: an answer's body, or an error."""

    name: str
    answer: dict[str, Any] | None
    error: Exception | None = None


class BatchApi:
    """A provider's batches.

    Args:
        client: the bare chat client, ``OpenAIClient``, ``AzureOpenAIClient`` or ``AnthropicClient``.

    Attributes:
        most: requests that one batch takes.
        most_bytes: bytes that it takes; a tenth is kept back for what wraps them.
    """

    most = 50_000
    most_bytes = 180 * 10**6

    def __init__(self, client: Any) -> None:
        self._client = client

    @property
    def _sdk(self) -> Any:
        return self._client._client

    def body(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return a request's body as it goes over the wire.

        Raises:
            InvalidRequestError: it has headers of its own, which a batch cannot send.
        """
        if request.get("extra_headers"):
            raise InvalidRequestError("extra_headers cannot go into a batch: send this request live, or leave them out")
        plain = {
            name: value
            for name, value in request.items()
            if name not in (*_NOT_IN_BODIES, "extra_headers") and type(value).__name__ not in _LEFT_OUT
        }
        return plain | dict(request.get("extra_body") or {})

    def read(self, answer: dict[str, Any], form: Any) -> CompletionResponse:
        """Read an answer's body; errors as of a live answer."""
        answers = self._answers
        return fitted(answers.read(answer, AnswerContext(self._client.model, self._client.origin, {}), answer), form)

    @property
    def _answers(self) -> Any:
        return self._client._chats.answers

    async def submit(self, requests: Sequence[Offline]) -> str:
        """Hand in a batch; return the provider's name for it."""
        path = "/v1/responses" if "input" in requests[0].body else "/v1/chat/completions"
        lines = (
            json.dumps({"custom_id": one.name, "method": "POST", "url": path, "body": one.body}) + "\n"
            for one in requests
        )
        file = await self._sdk.files.create(file=("requests.jsonl", "".join(lines).encode()), purpose="batch")
        batch = await self._sdk.batches.create(input_file_id=file.id, endpoint=path, completion_window="24h")
        return str(batch.id)

    async def has_ended(self, batch_id: str) -> bool:
        """Tell whether there is nothing more to wait for."""
        batch = await self._sdk.batches.retrieve(batch_id)
        return batch.status in ("completed", "failed", "expired", "cancelled")

    async def results(self, batch_id: str) -> AsyncIterator[BatchAnswer]:
        """Yield what came of each request of a batch that has ended; those that it did not come to are left out."""
        batch = await self._sdk.batches.retrieve(batch_id)
        if batch.status == "failed":
            listed = getattr(batch.errors, "data", None) or []
            told = next((str(error.message) for error in listed if error.message), "no reason told")
            raise InvalidRequestError(f"the provider refused batch {batch_id} as a whole: {told}")
        for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
            content = await self._sdk.files.content(file_id)
            for line in content.text.splitlines():
                yield _read_line(json.loads(line))


class AnthropicBatchApi(BatchApi):
    """Anthropic's message batches."""

    most = 100_000
    most_bytes = 230 * 10**6

    @property
    def _answers(self) -> Any:
        return self._client._answers

    async def submit(self, requests: Sequence[Offline]) -> str:
        """Hand in a batch; return the provider's name for it."""
        listed = [{"custom_id": one.name, "params": one.body} for one in requests]
        return str((await self._sdk.messages.batches.create(requests=listed)).id)

    async def has_ended(self, batch_id: str) -> bool:
        """Tell whether there is nothing more to wait for."""
        return bool((await self._sdk.messages.batches.retrieve(batch_id)).processing_status == "ended")

    async def results(self, batch_id: str) -> AsyncIterator[BatchAnswer]:
        """Yield what came of each request of a batch that has ended; those that it did not come to are left out."""
        async for line in await self._sdk.messages.batches.results(batch_id):
            result = line.result
            if result.type == "succeeded":
                yield BatchAnswer(line.custom_id, result.message.to_dict())
            elif result.type == "errored":
                error = result.error.to_dict()
                yield BatchAnswer(line.custom_id, None, _refused(_STATUS.get(_kind(error), 500), error))


_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "rate_limit_error": 429,
    "overloaded_error": 529,
}


def batch_api(client: Any, provider: str) -> BatchApi:
    """Return the batches of a bare client's provider.

    Raises:
        ConfigurationError: it has none that we speak.
    """
    if provider in ("openai", "azure"):
        return BatchApi(client)
    if provider == "anthropic":
        return AnthropicBatchApi(client)
    raise ConfigurationError(
        f"{provider} has no batch API here: use factory.map(), or a profile of openai or anthropic"
    )


def _read_line(line: dict[str, Any]) -> BatchAnswer:
    response = line.get("response") or {}
    body, status = response.get("body"), response.get("status_code")
    if status == 200 and isinstance(body, dict):
        return BatchAnswer(line["custom_id"], body)
    if isinstance(status, int) and status >= 400:
        return BatchAnswer(line["custom_id"], None, _refused(status, body))
    error = line.get("error") or {}
    if error.get("code") == "batch_expired":
        return BatchAnswer(line["custom_id"], None, TimeoutError("the batch expired before this request's turn"))
    return BatchAnswer(line["custom_id"], None, _refused(500, {"error": error}))


def _refused(status: int, body: Any) -> BadResponseError:
    return BadResponseError(f"refused with status {status} inside a batch", status_code=status, body=body)


def _kind(error: dict[str, Any]) -> str:
    inner = error.get("error")
    return str((inner if isinstance(inner, dict) else error).get("type"))
