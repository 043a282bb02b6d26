"""Every way to ask, by an example, and where each provider's request shows that it was said."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from factflow_llm.errors import InvalidRequestError
from factflow_llm.types import AudioPart, DocumentPart, ImagePart, Message, TextPart, Tool, ToolCall
from tests.support.loopback import Loopback, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.support.faces import Face

PDF = b"%PDF-1.7 /Type /Page"
LOOKUP = Tool("lookup", "Looks a part up", {"type": "object", "properties": {"number": {"type": "string"}}})
CALL = Message.assistant(tool_calls=(ToolCall("c1", "lookup", '{"number": "7"}'),))


class Gear(BaseModel):
    """What an answer has to fit."""

    teeth: int
    maker: str | None = None


def user(*parts: Any) -> list[Message]:
    """Make a conversation of one turn."""
    return [Message.user([TextPart("What is this?"), *parts])]


@dataclass(frozen=True)
class Way:
    """One way to ask.

    Attributes:
        name: as the documentation has it.
        code: how it is written.
        messages: the conversation.
        asked: the arguments beside it.
        signs: by language, a path into the request and what stands there; a language not named does without.
        own: by language, the example in the provider's own words.
    """

    name: str
    code: str
    messages: Sequence[Message] = (Message.user("What is this?"),)
    asked: Mapping[str, Any] = field(default_factory=dict)
    signs: Mapping[str, tuple[str, Any]] = field(default_factory=dict)
    own: Mapping[str, tuple[Sequence[Message], Mapping[str, Any]]] = field(default_factory=dict)


OPENAI, RESPONSES, ANTHROPIC, BEDROCK = "openai", "responses", "anthropic", "bedrock"
LANGUAGES = {
    "openai": OPENAI,
    "responses": RESPONSES,
    "azure": OPENAI,
    "anthropic": ANTHROPIC,
    "bedrock": BEDROCK,
}
"""The language each face speaks."""
MODELS = {
    OPENAI: "gpt-5.6",
    RESPONSES: "gpt-5.6",
    ANTHROPIC: "claude-haiku-4-5",
    BEDROCK: "anthropic.claude-haiku-4-5-20251001-v1:0",
}

WAYS = (
    Way(
        "image by URL",
        "ImagePart(url=…)",
        user(ImagePart(url="https://x.org/a.png")),
        signs={
            RESPONSES: ("input.0.content.1.image_url", "https://x.org/a.png"),
            OPENAI: ("messages.0.content.1.image_url.url", "https://x.org/a.png"),
            ANTHROPIC: ("messages.0.content.1.source", {"type": "url", "url": "https://x.org/a.png"}),
        },
    ),
    Way(
        "image by bytes",
        "ImagePart(data=…, media_type=…)",
        user(ImagePart(data=b"png", media_type="image/png")),
        signs={
            RESPONSES: ("input.0.content.1.image_url", "data:image/png;base64,cG5n"),
            BEDROCK: ("messages.0.content.1.image.source.bytes", "cG5n"),
            OPENAI: ("messages.0.content.1.image_url.url", "data:image/png;base64,cG5n"),
            ANTHROPIC: ("messages.0.content.1.source.data", "cG5n"),
        },
    ),
    Way(
        "image by file id",
        "ImagePart(file_id=…)",
        user(ImagePart(file_id="file_1")),
        signs={
            RESPONSES: ("input.0.content.1.file_id", "file_1"),
            ANTHROPIC: ("messages.0.content.1.source", {"type": "file", "file_id": "file_1"}),
        },
    ),
    Way(
        "image detail",
        'ImagePart(…, detail="low")',
        user(ImagePart(data=b"png", media_type="image/png", detail="low")),
        signs={
            RESPONSES: ("input.0.content.1.detail", "low"),
            OPENAI: ("messages.0.content.1.image_url.detail", "low"),
        },
    ),
    Way(
        "document by bytes",
        "DocumentPart(data)",
        user(DocumentPart(PDF, name="gear.pdf")),
        signs={
            RESPONSES: ("input.0.content.1.filename", "gear.pdf"),
            BEDROCK: ("messages.0.content.1.document.name", "gear pdf"),
            OPENAI: ("messages.0.content.1.file.filename", "gear.pdf"),
            ANTHROPIC: ("messages.0.content.1.source.media_type", "application/pdf"),
        },
    ),
    Way(
        "document by URL",
        "DocumentPart(url=…)",
        user(DocumentPart(url="https://x.org/a.pdf")),
        signs={
            RESPONSES: ("input.0.content.1.file_url", "https://x.org/a.pdf"),
            ANTHROPIC: ("messages.0.content.1.source.url", "https://x.org/a.pdf"),
        },
    ),
    Way(
        "document by file id",
        "DocumentPart(file_id=…)",
        user(DocumentPart(file_id="file-1")),
        signs={
            RESPONSES: ("input.0.content.1.file_id", "file-1"),
            OPENAI: ("messages.0.content.1.file", {"file_id": "file-1"}),
            ANTHROPIC: ("messages.0.content.1.source", {"type": "file", "file_id": "file-1"}),
        },
    ),
    Way(
        "citations",
        "DocumentPart(data, citations=True)",
        user(DocumentPart(PDF, citations=True)),
        signs={
            BEDROCK: ("messages.0.content.1.document.citations", {"enabled": True}),
            ANTHROPIC: ("messages.0.content.1.citations", {"enabled": True}),
        },
    ),
    Way(
        "recording",
        "AudioPart(data)",
        user(AudioPart(b"riff")),
        signs={
            BEDROCK: ("messages.0.content.1.audio.format", "wav"),
            OPENAI: ("messages.0.content.1.input_audio", {"data": "cmlmZg==", "format": "wav"}),
        },
    ),
    Way(
        "a part in the provider's words",
        '{"type": "…", …}',
        user({"type": "made_up", "made_up": 1}),
        signs={
            RESPONSES: ("input.0.content.1.made_up", 1),
            OPENAI: ("messages.0.content.1.made_up", 1),
            ANTHROPIC: ("messages.0.content.1.made_up", 1),
            BEDROCK: ("messages.0.content.1.guardContent.text.text", "private"),
        },
        own={BEDROCK: (user({"type": "guardContent", "text": {"text": "private"}}), {})},
    ),
    Way(
        "cache breakpoint",
        "TextPart(text, cache=True)",
        [Message.system([TextPart("long rules", cache=True)]), Message.user("What is this?")],
        signs={
            RESPONSES: ("input.0.content.0.prompt_cache_breakpoint", {"mode": "explicit"}),
            BEDROCK: ("system.1.cachePoint", {"type": "default"}),
            OPENAI: ("messages.0.content.0.prompt_cache_breakpoint", {"mode": "explicit"}),
            ANTHROPIC: ("system.0.cache_control", {"type": "ephemeral"}),
        },
    ),
    Way(
        "cache lifetime",
        'TextPart(text, cache="1h")',
        [Message.system([TextPart("long rules", cache="1h")]), Message.user("What is this?")],
        signs={
            BEDROCK: ("system.1.cachePoint.ttl", "1h"),
            ANTHROPIC: ("system.0.cache_control", {"type": "ephemeral", "ttl": "1h"}),
        },
    ),
    Way(
        "strict tool",
        "Tool(…, strict=True)",
        asked={"tools": [Tool("lookup", parameters=LOOKUP.parameters, strict=True)]},
        signs={
            RESPONSES: ("tools.0.strict", True),
            BEDROCK: ("toolConfig.tools.0.toolSpec.strict", True),
            OPENAI: ("tools.0.function.strict", True),
            ANTHROPIC: ("tools.0.strict", True),
        },
    ),
    Way(
        "cached tools",
        "Tool(…, cache=True)",
        asked={"tools": [Tool("lookup", cache=True)]},
        signs={
            BEDROCK: ("toolConfig.tools.1.cachePoint", {"type": "default"}),
            ANTHROPIC: ("tools.0.cache_control", {"type": "ephemeral"}),
        },
    ),
    Way(
        "the provider's own tool",
        'tools=[{"type": "…", …}]',
        asked={"tools": [{"type": "made_up_1"}]},
        signs={
            RESPONSES: ("tools.0", {"type": "made_up_1"}),
            OPENAI: ("tools.0", {"type": "made_up_1"}),
            ANTHROPIC: ("tools.0", {"type": "made_up_1"}),
            BEDROCK: ("toolConfig.tools.0.systemTool.name", "nova_grounding"),
        },
        own={
            BEDROCK: (
                [Message.user("What is this?")],
                {"tools": [{"type": "systemTool", "name": "nova_grounding"}]},
            )
        },
    ),
    Way(
        "a tool must be called",
        'tool_choice="required"',
        asked={"tools": [LOOKUP], "tool_choice": "required"},
        signs={
            RESPONSES: ("tool_choice", "required"),
            BEDROCK: ("toolConfig.toolChoice", {"any": {}}),
            OPENAI: ("tool_choice", "required"),
            ANTHROPIC: ("tool_choice", {"type": "any"}),
        },
    ),
    Way(
        "this tool must be called",
        'tool_choice="lookup"',
        asked={"tools": [LOOKUP], "tool_choice": "lookup"},
        signs={
            RESPONSES: ("tool_choice", {"type": "function", "name": "lookup"}),
            BEDROCK: ("toolConfig.toolChoice", {"tool": {"name": "lookup"}}),
            OPENAI: ("tool_choice", {"type": "function", "function": {"name": "lookup"}}),
            ANTHROPIC: ("tool_choice", {"type": "tool", "name": "lookup"}),
        },
    ),
    Way(
        "one tool at a time",
        "parallel_tool_calls=False",
        asked={"tools": [LOOKUP], "parallel_tool_calls": False},
        signs={
            RESPONSES: ("parallel_tool_calls", False),
            OPENAI: ("parallel_tool_calls", False),
            ANTHROPIC: ("tool_choice", {"type": "auto", "disable_parallel_tool_use": True}),
        },
    ),
    Way(
        "tool result with an image",
        "Message.tool([ImagePart(…)], tool_call_id=…)",
        [
            Message.user("Which?"),
            CALL,
            Message.tool([TextPart("seen"), ImagePart(data=b"png", media_type="image/png")], tool_call_id="c1"),
        ],
        signs={
            RESPONSES: ("input.2.output.1.image_url", "data:image/png;base64,cG5n"),
            BEDROCK: ("messages.2.content.0.toolResult.content.1.image.format", "png"),
            OPENAI: ("messages.3.content.1.image_url.url", "data:image/png;base64,cG5n"),
            ANTHROPIC: ("messages.2.content.0.content.1.source.data", "cG5n"),
        },
    ),
    Way(
        "tool result with a document",
        "Message.tool([DocumentPart(…)], tool_call_id=…)",
        [Message.user("Which?"), CALL, Message.tool([DocumentPart(PDF)], tool_call_id="c1")],
        signs={
            RESPONSES: ("input.2.output.0.type", "input_file"),
            BEDROCK: ("messages.2.content.0.toolResult.content.0.document.format", "pdf"),
            OPENAI: ("messages.3.content.1.file.filename", "document.pdf"),
            ANTHROPIC: ("messages.2.content.0.content.0.source.media_type", "application/pdf"),
        },
    ),
    Way(
        "failed tool",
        "Message.tool(…, is_error=True)",
        [Message.user("Which?"), CALL, Message.tool("no such part", tool_call_id="c1", is_error=True)],
        signs={
            RESPONSES: ("input.2.output", "Error: no such part"),
            BEDROCK: ("messages.2.content.0.toolResult.status", "error"),
            OPENAI: ("messages.2.content", "Error: no such part"),
            ANTHROPIC: ("messages.2.content.0.is_error", True),
        },
    ),
    Way(
        "effort",
        'reasoning="high"',
        asked={"reasoning": "high"},
        signs={
            RESPONSES: ("reasoning.effort", "high"),
            BEDROCK: ("additionalModelRequestFields.thinking.budget_tokens", 16_384),
            OPENAI: ("reasoning_effort", "high"),
            ANTHROPIC: ("thinking.budget_tokens", 16_384),
        },
    ),
    Way(
        "thinking budget",
        "reasoning=3000",
        asked={"reasoning": 3000},
        signs={
            RESPONSES: ("reasoning.effort", "medium"),
            BEDROCK: ("additionalModelRequestFields.thinking.budget_tokens", 3000),
            OPENAI: ("reasoning_effort", "medium"),
            ANTHROPIC: ("thinking.budget_tokens", 3000),
        },
    ),
    Way(
        "structured output",
        "response_format=Model",
        asked={"response_format": Gear},
        signs={
            RESPONSES: ("text.format.strict", True),
            BEDROCK: ("outputConfig.textFormat.type", "json_schema"),
            OPENAI: ("response_format.json_schema.strict", True),
            ANTHROPIC: ("output_config.format.type", "json_schema"),
        },
    ),
    Way("seed", "seed=7", asked={"seed": 7}, signs={OPENAI: ("seed", 7)}),
    Way("several answers", "n=2", asked={"n": 2}, signs={OPENAI: ("n", 2)}),
    Way(
        "log probabilities",
        "logprobs=3",
        asked={"logprobs": 3},
        signs={
            RESPONSES: ("top_logprobs", 3),
            OPENAI: ("top_logprobs", 3),
        },
    ),
)

SAID, LEFT_OUT, REFUSED = "yes", "left out", "refused"


def at(value: Any, path: str) -> Any:
    """Follow a path of names and numbers into JSON; ``None`` where it ends before."""
    for step in path.split("."):
        if isinstance(value, list):
            value = value[int(step)] if int(step) < len(value) else None
        else:
            value = value.get(step) if isinstance(value, dict) else None
    return value


def hear(face: Face, ways: Sequence[Way] = WAYS) -> dict[str, str]:
    """Ask in each of the ways over a loopback server; tell what became of it."""
    language = LANGUAGES[face.name]

    async def ask(server: Loopback) -> dict[str, str]:
        heard = {}
        async with face.make(server.url, model=MODELS[language]) as client:
            for way in ways:
                try:
                    messages, asked = way.own.get(language, (way.messages, way.asked))
                    await client.complete(list(messages), **asked)
                except InvalidRequestError:
                    heard[way.name] = REFUSED
                    continue
                path, value = way.signs.get(language, ("", None))
                said = bool(path) and at(server.asked[-1].body, path) == value
                heard[way.name] = SAID if said else LEFT_OUT
        return heard

    with Loopback(Reply(face.answer)) as server:
        return asyncio.run(ask(server))


def table(heard: Mapping[str, Mapping[str, str]], named: Callable[[str], str] = str) -> str:
    """Write down what became of each way, a column for each provider."""
    names = list(heard)
    lines = [
        f"| what | how | {' | '.join(map(named, names))} |",
        "| --- " * (len(names) + 2) + "|",
        *(f"| {w.name} | `{w.code}` | {' | '.join(heard[name][w.name] for name in names)} |" for w in WAYS),
    ]
    return "\n".join(lines)
