"""Chats on Bedrock, with any model that speaks Converse, one attempt per call."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from factflow_llm.clients.answers import AnswerContext
from factflow_llm.clients.anthropic_answers import MessageReader, read_message
from factflow_llm.clients.aws import BedrockConnection
from factflow_llm.clients.base import BaseLLMClient
from factflow_llm.clients.checks import check_options
from factflow_llm.clients.converse_answers import EventTranslator, said_as_message
from factflow_llm.clients.converse_messages import say_format, say_messages, say_tools, say_wishes
from factflow_llm.clients.turns import origin
from factflow_llm.errors import BadResponseError, InvalidRequestError
from factflow_llm.types import StreamChunk

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from factflow_llm.clients.chats import Chat
    from factflow_llm.types import CompletionResponse

_OURS = frozenset({"modelId", "messages", "system"})


class BedrockClient(BaseLLMClient):
    """A model on Bedrock, by the Converse API. It is bound to no event loop.

    Credentials come from where boto3 looks for them: environment, ``~/.aws``, container or instance role, or a Bedrock
    API key in ``AWS_BEARER_TOKEN_BEDROCK``. Bedrock reserves as many tokens of the quota as ``max_tokens`` allows, and
    the model's most where a call names none: name it.

    Args:
        model: a model's or an inference profile's id, such as ``eu.anthropic.claude-sonnet-4-6``, or
            the ARN of one.
        region: AWS region; by default what the environment or ``~/.aws/config`` says.
        endpoint_url: another address of the service, such as a VPC endpoint.
        max_concurrency: calls in flight, each on a thread and a connection of its own; a stream is one to its end.
        timeout_s: longest silence of the server and longest wait for a whole answer, per attempt, in seconds.
        connect_timeout_s: longest wait for a connection, in seconds.
        headers: sent with every request.
        proxy: URL of a proxy; by default what the environment says.
        aws_profile: a profile of ``~/.aws/config``.
        options: preset for every call: arguments of ours, and of boto3's ``converse`` (``guardrailConfig``,
            ``additionalModelRequestFields``…).

    Raises:
        ExtraMissingError: boto3 is not installed.
        ConfigurationError: no region, a malformed URL, or a time that is not above zero.
    """

    provider: ClassVar[str] = "bedrock"
    max_temperature: ClassVar[float] = 1.0

    def __init__(
        self,
        model: str,
        *,
        region: str | None = None,
        endpoint_url: str | None = None,
        max_concurrency: int = 64,
        timeout_s: float = 600.0,
        connect_timeout_s: float = 5.0,
        headers: Mapping[str, str] | None = None,
        proxy: str | None = None,
        aws_profile: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(model, options=options)
        self.timeout_s = timeout_s
        self._connection = BedrockConnection(
            region=region,
            endpoint_url=endpoint_url,
            max_concurrency=max_concurrency,
            timeout_s=timeout_s,
            connect_timeout_s=connect_timeout_s,
            headers=headers,
            proxy=proxy,
            aws_profile=aws_profile,
        )
        self.origin = origin("bedrock", self._connection.address)
        self._accepted = self._connection.accepted("Converse") - _OURS

    def _too_slow(self, words: str) -> Exception:
        return self._connection.too_slow(words)

    async def _close(self) -> None:
        self._connection.close()

    def _request(self, call: Chat) -> dict[str, Any]:
        check_options(call.options, accepted=self._accepted, sdk=self._connection.sdk)
        system, turns = say_messages(call.messages, self.origin)
        inference, fields = say_wishes(call, model=self.model)
        if call.temperature is not None:
            inference["temperature"] = call.temperature
        if call.stop:
            inference["stopSequences"] = call.stop
        said: dict[str, Any] = {"inferenceConfig": inference, "additionalModelRequestFields": fields}
        if call.tools:
            said["toolConfig"] = say_tools(call.tools, call.wishes)
        if call.response_format is not None:
            said["outputConfig"] = say_format(call.response_format)
            if "outputConfig" not in self._accepted:
                raise InvalidRequestError(
                    f"response_format: {self._connection.sdk} cannot ask Bedrock for a schema; install a newer one"
                )
        for name, value in call.options.items():
            said[name] = {**said[name], **value} if isinstance(value, dict) and name in said else value
        request = {"modelId": self.model, "messages": turns, **{name: value for name, value in said.items() if value}}
        return request | ({"system": system} if system else {})

    async def _complete(self, request: dict[str, Any]) -> CompletionResponse:
        answer = await self._connection.call("converse", request)
        known, request_id = self._known(answer)
        if not isinstance(answer.get("output"), dict):
            raise BadResponseError("Bedrock's answer holds no message: check endpoint_url", headers=known.headers)
        return read_message(said_as_message(answer, request_id=request_id), known, answer)

    async def _stream(self, request: dict[str, Any]) -> AsyncGenerator[StreamChunk, None]:
        events = self._connection.stream("converse_stream", "stream", request)
        try:
            known, request_id = self._known(await anext(events))
            reader, translator, event = MessageReader(known), EventTranslator(request_id=request_id), None
            async for event in events:
                for said in translator.translate(event):
                    piece = reader.read(said)
                    if piece is not None:
                        yield StreamChunk(piece.text, piece.calls, piece.reasoning, headers=known.headers, raw=event)
        finally:
            await events.aclose()
        if not reader.ended:
            raise self._connection.cut_stream()
        yield replace(reader.last(), raw=event)

    def _known(self, response: Mapping[str, Any]) -> tuple[AnswerContext, str | None]:
        meta = response["ResponseMetadata"]
        return AnswerContext(self.model, self.origin, meta["HTTPHeaders"]), meta.get("RequestId")
