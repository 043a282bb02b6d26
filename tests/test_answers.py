"""Answers as servers really send them: fields absent, null, misplaced, misspelt, or of another type."""

from __future__ import annotations

from typing import Any

import pytest

from factflow_llm import BadResponseError, CompletionResponse, ErrorReason, FinishReason, Usage, get_error_metadata
from tests.support.calling import ask, call, follow, message
from tests.support.faces import ANTHROPIC, anthropic_answer, openai_answer, openai_chunk
from tests.support.loopback import Reply


def test_text_comes_in_many_shapes() -> None:
    """Parts, a number, a bare text for the message, and a content of thoughts and words are all read as text."""
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "6 x 7"}]}
    assert ask(message(content=[{"type": "text", "text": "4"}, "2"])).text == "42"
    assert ask(message(content=42)).text == "42"
    assert ask(message(content={"type": "text", "text": "42"})).text == "42"
    assert ask(openai_answer(choices={"index": "0", "message": "42", "finish_reason": "stop"})).text == "42"
    answer = ask(message(content=[thought, {"type": "text", "text": "42"}, {"type": "chart", "rows": [1]}]))
    assert (answer.text, answer.reasoning) == ("42", "6 x 7")


def test_a_filtered_choice_needs_no_message() -> None:
    """A choice that says why it is empty is an answer; one that says nothing is none, and names the field."""
    filtered = {"index": 0, "finish_reason": "content_filter: PROHIBITED_CONTENT"}
    assert ask(openai_answer(choices=[filtered])).finish_reason is FinishReason.CONTENT_FILTER
    azure = {"index": 0, "content_filter_results": {"hate": {"filtered": True, "severity": "high"}}}
    assert ask(openai_answer(choices=[azure])).finish_reason is FinishReason.CONTENT_FILTER
    refused = ask(anthropic_answer(finish="refusal") | {"content": None}, ANTHROPIC)
    assert (refused.text, refused.finish_reason) == ("", FinishReason.CONTENT_FILTER)
    with pytest.raises(BadResponseError, match=r"choices\[0\].message is null or missing where an object belongs"):
        ask(openai_answer(choices=[{"index": 0, "finish_reason": None}]))


def test_arguments_are_json_text() -> None:
    """An object is written out, nothing is no arguments, and what the model wrote stays as it is."""
    given = [{"city": "Köln"}, None, "", '{"city": ']
    calls = ask(message(tool_calls=[call(f"c{at}", arguments=one) for at, one in enumerate(given)])).tool_calls
    assert [one.arguments for one in calls] == ['{"city": "K\\u00f6ln"}', "{}", "{}", '{"city": ']


def test_calls_without_or_with_one_id_are_told_apart() -> None:
    """Ids are derived where there is none or one for all; a call beside its function, and the old form, are read."""
    calls = ask(message(tool_calls=[call(""), call("c1"), call("c1"), {"id": 7, "name": "now"}])).tool_calls
    assert len({one.id for one in calls}) == 4
    assert (calls[1].id, calls[3].id, calls[3].name, calls[3].arguments) == ("c1", "7", "now", "{}")
    old = ask(message(function_call={"name": "now", "arguments": {}}))
    assert (old.tool_calls[0].name, old.finish_reason) == ("now", FinishReason.TOOL_CALLS)


def test_empty_fields_beside_a_call_are_nothing() -> None:
    """A server that fills every field of the schema with nothing means the call, and gets no empty fields back."""
    empty = {"custom": {"name": "", "input": ""}}
    answer = ask(message(tool_calls=[call(**empty)], function_call={"name": "", "arguments": ""}, refusal=""))
    assert [one.name for one in answer.tool_calls] == ["weather"]
    assert answer.message.provider_state is answer.tool_calls[0].provider_state is None
    delta = {"tool_calls": [call(index=0, **empty)], "function_call": {"name": "", "arguments": ""}}
    _, streamed = follow(openai_chunk(delta), "[DONE]")
    assert streamed.tool_calls == answer.tool_calls


@pytest.mark.parametrize(
    ("answer", "field"),
    [
        (message(tool_calls=[call(), {"id": "c2", "function": None}]), r"tool_calls\[1\].function is null or missing"),
        (message(tool_calls=[call(name={})]), r"tool_calls\[0\].function.name is an object"),
        (message(tool_calls=[call(arguments=[1])]), r"function.arguments is a list where JSON text"),
        (message(tool_calls="none"), r"message.tool_calls is text where a list belongs"),
        (message(content=True), r"message.content is true or false"),
        (openai_answer(choices=7), "choices is a number where a list belongs"),
        (openai_answer(choices=["secret"]), r"choices\[0\] is text where an object belongs"),
    ],
)
def test_what_has_no_meaning_is_named(answer: Any, field: str) -> None:
    """A field that cannot be read is named with what came; nothing else of the answer is shown, and it is retryable."""
    with pytest.raises(BadResponseError, match=field) as caught:
        ask(answer)
    metadata = get_error_metadata(caught.value)
    assert (metadata.reason, metadata.fatal) == (ErrorReason.BAD_RESPONSE, False)
    assert "secret" not in str(caught.value)


WORDS = {
    **dict.fromkeys(["eos_token", "COMPLETE", "end-turn", "Stop"], FinishReason.STOP),
    **dict.fromkeys(["MAX_TOKENS", "model_length", "max_output_tokens"], FinishReason.LENGTH),
    **dict.fromkeys(["tool_use", "FunctionCall"], FinishReason.TOOL_CALLS),
    **dict.fromkeys(["RECITATION", "sensitive", "content_filter: OTHER", "Reason.SAFETY"], FinishReason.CONTENT_FILTER),
    **dict.fromkeys(["function_call_filter: MALFORMED_FUNCTION_CALL", "tomorrow's"], FinishReason.OTHER),
    "": None,
}


def test_finish_words_of_all_servers() -> None:
    """Words are normalised whatever their case and punctuation; what no table has is ``OTHER``, an empty one none."""
    with_words = {word: ask(openai_answer({"content": "x"}, finish=word)) for word in WORDS}
    assert {word: answer.finish_reason for word, answer in with_words.items()} == WORDS
    assert with_words["MAX_TOKENS"].provider_finish_reason == "MAX_TOKENS"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (openai_answer({"content": "half"}, finish="network_error"), ErrorReason.SERVER),
        (openai_answer({"content": "half"}, finish="insufficient_system_resource"), ErrorReason.SERVER),
        (
            openai_answer(choices=[{"message": {}, "error": {"code": 429, "message": "slow"}}]),
            "rate_limit",
        ),
        ({"choices": None, "base_resp": {"status_code": 1002, "status_msg": "rate limit"}}, ErrorReason.RATE_LIMIT),
        ({"error_code": 336007, "error_msg": "too long"}, ErrorReason.CONTEXT_LENGTH),
        ({"success": False, "code": 500, "msg": "404 NOT_FOUND"}, ErrorReason.SERVER),
    ],
)
def test_failures_inside_an_answer_are_raised(answer: Any, reason: str) -> None:
    """A choice that failed and a failure in an answer's place are errors that classify as the failure they tell."""
    with pytest.raises(BadResponseError) as caught:
        ask(answer)
    assert get_error_metadata(caught.value).reason == reason


USAGES = {
    "thoughts outside": (
        {
            "prompt_tokens": 40,
            "completion_tokens": 12,
            "total_tokens": 140,
            "completion_tokens_details": {"reasoning_tokens": 88},
        },
        Usage(40, 100, reasoning_tokens=88),
    ),
    "thoughts only in the total": ({"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 50}, Usage(9, 41)),
    "cache hits outside": (
        {"prompt_tokens": 20, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 300}},
        Usage(320, 5, cached_input_tokens=300),
    ),
    "hits and misses": (
        {"prompt_tokens": 50, "completion_tokens": 5, "prompt_cache_hit_tokens": 30},
        Usage(50, 5, cached_input_tokens=30),
    ),
    "cached at the top": ({"prompt_tokens": 50, "completion_tokens": 5, "cached_tokens": 7}, Usage(50, 5, 7)),
    "other names": ({"input_tokens": 3, "output_tokens": "4"}, Usage(3, 4)),
    "a total and one part": ({"total_tokens": 30, "completion_tokens": 10.0}, Usage(20, 10)),
    "nonsense": ({"prompt_tokens": -3, "completion_tokens": [1], "total_tokens": True}, Usage()),
    "text": ("many", Usage()),
}


@pytest.mark.parametrize("case", USAGES)
def test_usage_by_one_rule(case: str) -> None:
    """Wherever a server counts what, input is all that was read, output all that was written, the total is both."""
    told, usage = USAGES[case]
    answer = ask(openai_answer(usage=told))
    assert answer.usage == usage
    if usage.input_tokens is not None and usage.output_tokens is not None:
        assert answer.usage.total_tokens == usage.input_tokens + usage.output_tokens


@pytest.mark.parametrize("body", [b"upstream connect error", b'{"choices": [', b"[" * 5_000, b"\xff\xfe\x00"])
@pytest.mark.parametrize("streamed", [False, True], ids=["complete", "stream"])
def test_a_server_that_speaks_no_json(body: bytes, streamed: bool) -> None:
    """Plain text, broken JSON, an abyss of brackets and noise are bad responses, whatever type they claim."""
    reply = Reply(body, content_type="application/json")
    with pytest.raises(BadResponseError) as caught:
        follow(reply=reply) if streamed else ask(reply)
    assert get_error_metadata(caught.value).reason is ErrorReason.BAD_RESPONSE


def test_cost_is_the_list_price_or_unknown() -> None:
    """A known host's price is counted with its cache discount; another host's, or of untold tokens, is unknown."""
    usage = Usage(1_000_000, 100_000, cached_input_tokens=400_000)
    named = {"text": "", "finish_reason": None, "usage": usage, "model": "gpt-4o-mini-2024-07-18"}
    dear = CompletionResponse(**named, origin="openai api.openai.com").cost_usd
    assert dear is not None
    assert 0.1 < dear < 0.3
    assert CompletionResponse(**named, origin="openai 127.0.0.1").cost_usd is None
    assert CompletionResponse(**named | {"usage": Usage(5)}, origin="openai api.openai.com").cost_usd is None
    odd = Usage(5, 5, cached_input_tokens=9)
    assert CompletionResponse(**named | {"usage": odd}, origin="openai api.openai.com").cost_usd is None
