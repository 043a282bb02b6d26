"""The two languages in which OpenAI chats: chat completions, which others copy, and Responses, which keeps thoughts.

Each says how a call is worded, which method of the SDK sends it, and how its answers are read.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from factflow_llm.clients import responses_messages
from factflow_llm.clients.checks import check_options
from factflow_llm.clients.openai_answers import ChatReader, read_completion
from factflow_llm.clients.openai_messages import say_format, say_messages, say_tools, say_wishes
from factflow_llm.clients.reading import Answers
from factflow_llm.clients.responses_answers import ResponseReader, read_response
from factflow_llm.clients.stainless import accepted_options
from factflow_llm.clients.turns import fill_chat_gaps, origin
from factflow_llm.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    from factflow_llm.clients.chats import Chat

OpenAIApi = Literal["chat_completions", "responses"]

# o1, o3-mini, gpt-5.1, ft:o4-mini:…, openai/gpt-6; not gpt-4o, gpt-35-turbo, gpt-oss-20b
_REASONING = re.compile(r"(?:^|[/:])(?:o[1-9]|gpt-(?:[5-9]|1\d))(?!\d)")
# those that reason only when asked: gpt-5.1 to gpt-5.4, and the chat models
_SILENT = re.compile(r"(?:^|[/:])gpt-5\.[1-4](?!\d)|-chat")
# since gpt-5.6 the end of what is to be cached can be marked; before, OpenAI chooses by itself
_MARKED = re.compile(r"(?:^|[/:])gpt-(?:5\.(?:[6-9]|\d\d)|[6-9]|1\d)(?!\d)")


class Language(ABC):
    """One of OpenAI's languages, for one model.

    Args:
        sdk: the openai package.
        client: a client of it, which tells the address and the options that its version knows.
        model: name of the model, which tells the options it takes.
        target: what goes into the request as ``model``.
    """

    name: ClassVar[str]

    def __init__(self, sdk: ModuleType, client: Any, *, model: str, target: str) -> None:
        self.origin = origin(self.name, client.base_url)
        self.answers = self._answers(sdk)
        self._sdk = sdk
        self._model = model
        self._target = target
        self._accepted = accepted_options(self.method(client))
        self._reasons = _REASONING.search(model) is not None
        self._marks = _MARKED.search(model) is not None

    @abstractmethod
    def _answers(self, sdk: ModuleType) -> Answers: ...

    @abstractmethod
    def method(self, client: Any) -> Any:
        """Return the method of the SDK's client that sends a request."""

    @abstractmethod
    def say(self, call: Chat) -> dict[str, Any]:
        """Say a call as the arguments of that method."""

    @abstractmethod
    def streamed(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the request with the wish to have its answer in pieces."""

    def _check_options(self, call: Chat) -> None:
        check_options(call.options, accepted=self._accepted, sdk=f"openai {self._sdk.__version__}")

    def _check_temperature(self, call: Chat) -> None:
        effort = call.options.get("reasoning_effort", call.wishes.reasoning)
        silent = {None, "none"} if _SILENT.search(self._model) else {"none"}
        fixed = self._reasons and effort not in silent
        if fixed and call.temperature not in {None, 1}:
            raise InvalidRequestError(
                f"temperature={call.temperature!r}: {self._model} reasons, and a reasoning model takes only 1; leave "
                "it out, or write reasoning_effort='none' where the model can do without"
            )


class ChatCompletions(Language):
    """OpenAI's chat completions, which every server that copies OpenAI speaks."""

    name: ClassVar[str] = "openai"

    def _answers(self, sdk: ModuleType) -> Answers:
        chat = sdk.types.chat
        return Answers(
            sdk=sdk,
            origin=self.origin,
            wanted=("choices",),
            every="choices",
            read=read_completion,
            reader=ChatReader,
            model=chat.ChatCompletion,
            event=lambda _: chat.ChatCompletionChunk,
            failed=_failed(sdk),
        )

    def method(self, client: Any) -> Any:
        """Return ``chat.completions.create``."""
        return client.chat.completions.with_raw_response.create

    def say(self, call: Chat) -> dict[str, Any]:
        """Say a call in the words of chat completions."""
        self._check_options(call)
        self._check_temperature(call)
        messages = say_messages(call.messages, self.origin, marks=self._marks)
        request: dict[str, Any] = {
            "model": self._target,
            "messages": fill_chat_gaps(messages, self.origin, self._model),
        }
        if call.max_tokens is not None:
            request["max_completion_tokens" if self._reasons else "max_tokens"] = call.max_tokens
        if call.temperature is not None:
            request["temperature"] = call.temperature
        if call.stop:
            request["stop"] = call.stop
        if call.tools:
            request["tools"] = say_tools(call.tools)
        if call.response_format is not None:
            request["response_format"] = say_format(call.response_format)
        return request | say_wishes(call.wishes) | call.options

    def streamed(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Ask for usage at the end, too; ``stream_options=None`` leaves that out."""
        options = request.get("stream_options", {})
        wishes = {} if options is None else {"stream_options": {"include_usage": True, **options}}
        asked = {name: value for name, value in request.items() if name != "stream_options"}
        return {**asked, **wishes, "stream": True}


class Responses(Language):
    """OpenAI's Responses API: thoughts go back with the turn they belong to, and tools of OpenAI's own work here."""

    name: ClassVar[str] = "responses"

    def _answers(self, sdk: ModuleType) -> Answers:
        types = sdk.types.responses
        kinds = {
            "response.created": types.ResponseCreatedEvent,
            "response.output_text.delta": types.ResponseTextDeltaEvent,
            "response.output_item.added": types.ResponseOutputItemAddedEvent,
            "response.output_item.done": types.ResponseOutputItemDoneEvent,
            "response.function_call_arguments.delta": types.ResponseFunctionCallArgumentsDeltaEvent,
            "response.completed": types.ResponseCompletedEvent,
            "response.incomplete": types.ResponseIncompleteEvent,
        }
        return Answers(
            sdk=sdk,
            origin=self.origin,
            wanted=("output",),
            every="type",
            read=read_response,
            reader=ResponseReader,
            model=types.Response,
            event=lambda event: kinds.get(str(event.get("type")), sdk.BaseModel),
            failed=_failed(sdk),
        )

    def method(self, client: Any) -> Any:
        """Return ``responses.create``."""
        return client.responses.with_raw_response.create

    def say(self, call: Chat) -> dict[str, Any]:
        """Say a call in the words of the Responses API.

        Where the model reasons, its thoughts are asked for in encrypted form, so that they can go back even to a
        server that stores nothing.
        """
        self._check_options(call)
        self._check_temperature(call)
        if call.stop:
            raise InvalidRequestError(f"stop={call.stop!r}: the Responses API has none; use chat completions, or cut")
        said = responses_messages.say_wishes(call.wishes)
        said["input"] = responses_messages.say_input(call.messages, self.origin, marks=self._marks)
        if call.max_tokens is not None:
            said["max_output_tokens"] = call.max_tokens
        if call.temperature is not None:
            said["temperature"] = call.temperature
        if call.tools:
            said["tools"] = responses_messages.say_tools(call.tools)
        if call.response_format is not None:
            said["text"] = {"format": responses_messages.say_format(call.response_format)}
        if self._reasons:
            said["include"] = [*said.get("include", ()), "reasoning.encrypted_content"]
        for name, value in call.options.items():
            said[name] = {**said[name], **value} if isinstance(value, dict) and name in said else value
        return {"model": self._target, **said}

    def streamed(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Usage comes unasked."""
        return {**request, "stream": True}


def _failed(sdk: ModuleType) -> Any:
    def failed(message: str, http: Any, body: Any) -> Exception:
        error: Exception = sdk.APIError(message, http.request, body=body)
        return error

    return failed


LANGUAGES: Mapping[OpenAIApi, type[Language]] = {"chat_completions": ChatCompletions, "responses": Responses}
"""The languages by the name a profile calls them."""
