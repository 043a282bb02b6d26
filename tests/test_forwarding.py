"""Pools and fallbacks for programs that speak a provider's language: by the proxy, whole and streamed."""

from __future__ import annotations

import json
import urllib.request
from typing import TYPE_CHECKING, Any

import openai
import pytest

from factflow_llm import LLMConfig
from tests.support.faces import anthropic_answer, openai_answer, openai_chunk
from tests.support.loopback import Asked, Drop, Events, Loopback, Reply
from tests.test_proxy import FAST, post, proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

ANSWER = Reply(openai_answer({"role": "assistant", "content": "Hi"}, finish="stop"))
SPENT = Reply({"error": {"message": "pay", "code": "insufficient_quota"}}, 429)
BUSY = Reply({"error": {"message": "slow down", "code": "rate_limit_exceeded"}}, 429)
HELLO: Any = {"model": "chat", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def hosts() -> Iterator[tuple[Loopback, Loopback]]:
    """Give two servers."""
    with Loopback(ANSWER) as one, Loopback(ANSWER) as other:
        yield one, other


def config(one: Loopback, other: Loopback, **chat: Any) -> LLMConfig:
    """Make profiles of two accounts and of another provider, and one that hands its calls on to them."""
    base = {"provider": "openai", "model": "gpt-4o-mini", "rate_limit": FAST}
    claude = {"provider": "anthropic", "model": "claude-opus-5", "base_url": other.url, "api_key": "sk-claude"}
    return LLMConfig.from_dict(
        {
            "providers": {
                "a": {**base, "api_key": "sk-of-a", "base_url": f"{one.url}/v1"},
                "b": {**base, "api_key": "sk-of-b", "base_url": f"{other.url}/v1", "model": "gpt-4o"},
                "claude": {**claude, "rate_limit": FAST},
                "chat": chat,
            }
        }
    )


def ask(url: str, **body: Any) -> tuple[str, Any]:
    """Ask for ``chat``; return whose answer it is, and the answer."""
    data = json.dumps({**HELLO, **body}).encode()
    asked = urllib.request.Request(f"{url}/v1/chat/completions", data, {"content-type": "application/json"})
    with urllib.request.urlopen(asked) as answer:
        return answer.headers["x-factflow-profile"], json.loads(answer.read())


def test_a_pool_answers_by_turns(hosts: tuple[Loopback, Loopback]) -> None:
    """Both accounts are asked, each by its own key and for its own model; the answer says whose it is."""
    one, other = hosts
    with proxy(config(one, other, pool=["a", "b"])) as url:
        assert {ask(url)[0] for _ in range(4)} == {"a", "b"}
    assert {asked.headers["authorization"] for asked in one.asked} == {"Bearer sk-of-a"}
    assert {(asked.headers["authorization"], asked.body["model"]) for asked in other.asked} == {
        ("Bearer sk-of-b", "gpt-4o")
    }


@pytest.mark.parametrize("trouble", [SPENT, BUSY, Drop()], ids=["spent", "busy", "gone"])
def test_a_refused_call_goes_on_with_the_other(hosts: tuple[Loopback, Loopback], trouble: Any) -> None:
    """A spent account, a 429 and a dropped connection send the call to the other member; the program sees a 200."""
    one, other = hosts
    one.script[:] = [trouble]
    with proxy(config(one, other, pool=["a", "b"])) as url:
        assert [ask(url)[0] for _ in range(3)] == ["b"] * 3


def test_a_fallback_is_asked_only_in_its_language(hosts: tuple[Loopback, Loopback]) -> None:
    """Anthropic cannot answer what is said in OpenAI's words: it is left out, and the next one is asked."""
    one, other = hosts
    one.script[:] = [SPENT]
    with proxy(config(one, other, extends="a", fallback=["claude", "b"])) as url:
        assert ask(url)[0] == "b"
        assert ask(url)[0] == "b"  # and the breaker of the first is open
    assert (len(one.asked), [asked.path for asked in other.asked]) == (1, ["/v1/chat/completions"] * 2)


def test_what_is_wrong_goes_nowhere_else(hosts: tuple[Loopback, Loopback]) -> None:
    """A 400 is the program's, whoever says it; nobody else is asked."""
    one, other = hosts
    one.script[:] = other.script[:] = [Reply({"error": {"message": "no such thing"}}, 400)]
    with proxy(config(one, other, pool=["a", "b"], fallback=["b"])) as url:
        status, said = post(f"{url}/v1/chat/completions", HELLO)
    assert (status, said["error"]["message"], len(one.asked) + len(other.asked)) == (400, "no such thing", 1)


def test_streams_are_handed_on_until_they_begin(hosts: tuple[Loopback, Loopback]) -> None:
    """A stream that is refused comes from the other; one that breaks off after its first piece is not begun anew."""
    pieces = [openai_chunk({"content": "H"}), openai_chunk({"content": "i"}), openai_chunk({}, "stop"), "[DONE]"]
    one, other = hosts
    one.script[:] = [BUSY]
    other.script[:] = [Events(pieces)]
    with proxy(config(one, other, pool=["a", "b"])) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)
        stream = client.chat.completions.create(stream=True, **HELLO)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "Hi"
        one.script[:] = other.script[:] = [Events(pieces[:1], cut=True)]
        before = len(one.asked) + len(other.asked)
        with pytest.raises(Exception, match=r"[Cc]onnection"):
            list(client.chat.completions.create(stream=True, **HELLO))
        assert len(one.asked) + len(other.asked) == before + 1


def test_a_response_that_is_kept_is_gone_on_with_where_it_is(hosts: tuple[Loopback, Loopback]) -> None:
    """What names a response before it goes to the account that keeps that response."""

    def kept(asked: Asked) -> Reply:
        usage = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
        name = asked.headers["authorization"].rpartition("-")[2]
        return Reply({"object": "response", "id": f"resp-of-{name}", "output": [], "usage": usage})

    one, other = hosts
    one.script[:] = other.script[:] = [kept]
    with proxy(config(one, other, pool=["a", "b"])) as url:
        said = [post(f"{url}/v1/responses", {"model": "chat", "input": "hello"})[1]["id"] for _ in range(2)]
        for first in said * 3:
            asked = {"model": "chat", "input": "and?", "previous_response_id": first}
            assert post(f"{url}/v1/responses", asked)[1]["id"] == first
    assert len(set(said)) == 2


def test_nobody_who_speaks_the_language_is_said() -> None:
    """A pool of OpenAI's accounts has nobody for a message in Anthropic's words."""
    with Loopback(Reply(anthropic_answer())) as one, proxy(config(one, one, extends="claude", fallback=["a"])) as url:
        message = {"model": "chat", "max_tokens": 5, "messages": HELLO["messages"]}
        assert post(f"{url}/v1/messages", message)[0] == 200
        status, said = post(f"{url}/v1/chat/completions", HELLO)
    assert (status, "no profile of this proxy has the model 'chat'" in said["error"]["message"]) == (404, True)
