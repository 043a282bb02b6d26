"""Counting and estimating tokens: exact only with the vocabulary at hand, never by way of the network."""

from __future__ import annotations

import hashlib
import socket
from importlib.util import find_spec
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from factflow_llm import tokens
from factflow_llm.errors import ConfigurationError, InvalidRequestError
from factflow_llm.tokens import (
    count_message_tokens,
    count_tokens,
    estimate_message_tokens,
    estimate_tokens,
    fetch_vocabulary,
)
from factflow_llm.types import ImagePart, Message, Role, TextPart, Tool, ToolCall

ENGLISH = (
    "The committee met on Tuesday to consider the proposal, which had been revised twice since the spring. "
    "Most members agreed that the new wording was clearer, although two of them asked for a further hearing before "
    "any vote was taken."
)
CODE = (
    "def total(items: list[Item], *, tax: float = 0.2) -> float:\n"
    "    subtotal = sum(item.price * item.count for item in items)\n"
    "    if subtotal < 0:\n"
    '        raise ValueError(f"negative subtotal: {subtotal}")\n'
    "    return subtotal * (1 + tax)\n"
)
GERMAN = (
    "Die Bundesregierung hat am Mittwoch einen Gesetzentwurf beschlossen, der die Genehmigung neuer Anlagen "
    "beschleunigen soll. Verbände begrüßten den Schritt, forderten aber schnellere Entscheidungen."
)
CHINESE = "委员会于星期二开会审议该提案，自春季以来该提案已修订两次。大多数成员认为新的措辞更加清晰，但有两位成员要求在表决之前再举行一次听证会。"  # noqa: RUF001, E501
NUMBERS = "2024-11-05,1020,129,0.536,844\n2024-11-06,2734,424,1.144,4517\n2024-11-07,4142,601,2.169,7010\n"

COUNTED = [  # by tiktoken 0.14, o200k_base and cl100k_base
    pytest.param(ENGLISH, 44, 44, id="english"),
    pytest.param(CODE, 63, 62, id="code"),
    pytest.param(GERMAN, 40, 52, id="german"),
    pytest.param(CHINESE, 51, 76, id="chinese"),
    pytest.param(NUMBERS, 56, 56, id="numbers"),
]


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make any attempt to connect fail the test."""

    def refuse(*_: object) -> None:
        pytest.fail("reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give tiktoken an empty cache."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    tokens._load.cache_clear()
    return tmp_path


@pytest.fixture
def tiny_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Publish a small file as the vocabulary of gpt-4o, in which every byte is a token."""
    content = b"a tiny vocabulary"
    source = tmp_path / "published"
    source.write_bytes(content)
    vocabulary = tokens._Vocabulary("o200k_base", source.as_uri(), hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(tokens._VOCABULARIES, "o200k_base", vocabulary)
    ranks = {bytes([byte]): byte for byte in range(256)}
    encoding = tiktoken.Encoding("o200k_base", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens={})
    monkeypatch.setattr(tiktoken, "get_encoding", lambda _: encoding)
    return content


@pytest.mark.parametrize(("text", "o200k", "cl100k"), COUNTED)
def test_estimate_is_near_the_count(text: str, o200k: int, cl100k: int) -> None:
    """The estimate is within a third of what the vocabulary says, whatever the kind of text."""
    assert estimate_tokens(text, "gpt-4o") == pytest.approx(o200k, rel=0.33)
    assert estimate_tokens(text, "gpt-4") == pytest.approx(cl100k, rel=0.33)


@given(st.text(), st.text())
def test_estimate_grows_with_the_text(one: str, other: str) -> None:
    """A text costs something unless it is empty, and two texts cost no more together than apart."""
    both = estimate_tokens(one + other)
    assert max(estimate_tokens(one), estimate_tokens(other)) <= both <= estimate_tokens(one) + estimate_tokens(other)
    assert (estimate_tokens(one) == 0) == (one == "")


def test_estimate_takes_a_lone_surrogate() -> None:
    """Text cut in the middle of a UTF-16 pair is estimated, not refused."""
    assert estimate_tokens("\ud83d") > 0


def test_estimate_refuses_bytes() -> None:
    """What is no text is an error of ours that says what to do."""
    with pytest.raises(InvalidRequestError, match="must be a str, not bytes; decode"):
        estimate_tokens(b"hello")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("gpt-4o-mini", "gpt-4o and later"),
        ("openai/gpt-6.1-sol", "gpt-4o and later"),
        ("ft:gpt-4.1:team", "gpt-4o and later"),
        ("o3-mini", "gpt-4o and later"),
        ("gpt-4-turbo", "gpt-4"),
        ("gpt-35-turbo", "gpt-4"),
        ("text-embedding-3-small", "gpt-4"),
        ("us.anthropic.claude-sonnet-4-6", "claude"),
        ("amazon.titan-embed-text-v2:0", "titan"),
        ("sentence-transformers/all-MiniLM-L6-v2", "wordpiece"),
        ("solo", "an unknown model"),
    ],
)
def test_estimate_says_what_it_is(model: str, family: str, cache: Path, no_network: None) -> None:
    """Without a vocabulary the count is an estimate, names the family, and reaches for no network."""
    count = count_tokens(ENGLISH, model)
    assert (count.estimated, count.source) == (True, f"estimate for {family}")
    assert count.tokens == estimate_tokens(ENGLISH, model)


def test_count_is_exact_with_the_vocabulary(cache: Path, tiny_vocabulary: bytes) -> None:
    """Once the vocabulary is fetched, its count replaces the estimate in the same process."""
    before = count_tokens("four", "gpt-4o")
    fetch_vocabulary("gpt-4o")
    after = count_tokens("four", "gpt-4o")
    assert before.estimated
    assert (after.tokens, after.estimated, after.source) == (4, False, "tiktoken o200k_base")


def test_special_tokens_are_plain_text(cache: Path, tiny_vocabulary: bytes) -> None:
    """Text that spells a special token is counted, not refused."""
    fetch_vocabulary("gpt-4o")
    assert count_tokens("<|endoftext|>", "gpt-4o").tokens == len("<|endoftext|>")


def test_damaged_vocabulary_is_left_alone(cache: Path, tiny_vocabulary: bytes, no_network: None) -> None:
    """A cached file that is not the vocabulary leads to an estimate; tiktoken would delete it and download."""
    path = fetch_vocabulary("gpt-4o")
    path.write_bytes(b"half of i")
    assert count_tokens("four", "gpt-4o").estimated
    assert path.read_bytes() == b"half of i"


def test_fetch_downloads_once(cache: Path, tiny_vocabulary: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second fetch finds the file where the first one put it, under the name tiktoken looks for."""
    path = fetch_vocabulary("gpt-4o")
    assert path.parent == cache
    assert path.name == hashlib.sha1(tokens._VOCABULARIES["o200k_base"].url.encode()).hexdigest()
    assert path.read_bytes() == tiny_vocabulary
    monkeypatch.setattr(tokens, "_download", lambda *_: pytest.fail("downloaded again"))
    assert fetch_vocabulary("gpt-4o") == path


def test_fetch_refuses_another_page(cache: Path, tiny_vocabulary: bytes) -> None:
    """A proxy's page in place of the vocabulary is named as such and not kept."""
    Path(cache, "published").write_bytes(b"<html>log in</html>")
    with pytest.raises(ConfigurationError, match="did not answer with the vocabulary"):
        fetch_vocabulary("gpt-4o")
    assert [file.name for file in cache.iterdir()] == ["published"]


def test_fetch_gives_up_in_time(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that accepts and says nothing ends in an error that says how to do without it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        monkeypatch.setitem(tokens._VOCABULARIES, "o200k_base", tokens._Vocabulary("o200k_base", url, ""))
        with pytest.raises(ConfigurationError, match=r"cannot be downloaded .*copy the file"):
            fetch_vocabulary("gpt-4o", timeout_s=0.05)


def test_fetch_names_what_is_impossible(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No vocabulary for the model, and no cache to put it in, are errors before any download."""
    with pytest.raises(ConfigurationError, match="no public vocabulary exists for 'claude-haiku-4-5'"):
        fetch_vocabulary("claude-haiku-4-5")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    with pytest.raises(ConfigurationError, match="switches tiktoken's cache off"):
        fetch_vocabulary("gpt-4o")


@pytest.mark.parametrize(("text", "o200k", "cl100k"), COUNTED)
def test_count_with_the_real_vocabulary(
    text: str, o200k: int, cl100k: int, monkeypatch: pytest.MonkeyPatch, no_network: None
) -> None:
    """The real tiktoken, offline, gives the recorded counts."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(_real_vocabularies()))
    tokens._load.cache_clear()
    assert count_tokens(text, "gpt-4o") == tokens.TokenCount(o200k, estimated=False, source="tiktoken o200k_base")
    assert count_tokens(text, "gpt-4") == tokens.TokenCount(cl100k, estimated=False, source="tiktoken cl100k_base")


def _real_vocabularies() -> Path:
    folders = [path.parent for path in [tokens._cache_file(tokens._VOCABULARIES["o200k_base"])] if path is not None]
    for package, inside in (
        ("llama_index", "core/_static/tiktoken_cache"),
        ("litellm", "litellm_core_utils/tokenizers"),
    ):
        spec = find_spec(package)
        folders += [Path(place, inside) for place in (spec.submodule_search_locations or ())] if spec else []
    names = [hashlib.sha1(vocabulary.url.encode()).hexdigest() for vocabulary in tokens._VOCABULARIES.values()]
    for folder in folders:
        if all((folder / name).exists() for name in names):
            return folder
    pytest.skip("no tiktoken vocabulary on this machine (neither its cache nor llama-index-core nor litellm)")


def test_message_overhead_is_the_providers(cache: Path, tiny_vocabulary: bytes) -> None:
    """A captured request of one message with a three-token text was billed 10 input tokens."""
    fetch_vocabulary("gpt-4o")
    assert count_message_tokens([Message.user("abc")], "gpt-4o").tokens == 10


def test_name_costs_its_text_and_one_token(cache: Path, tiny_vocabulary: bytes) -> None:
    """A named speaker costs the name and its framing."""
    fetch_vocabulary("gpt-4o")
    plain, named = (Message(Role.USER, "abc", name=name) for name in (None, "ann"))
    extra = count_message_tokens([named], "gpt-4o").tokens - count_message_tokens([plain], "gpt-4o").tokens
    assert extra == len("ann") + 1


def test_tools_and_images_make_an_estimate(cache: Path, tiny_vocabulary: bytes) -> None:
    """What no vocabulary counts is estimated, and the count says so."""
    fetch_vocabulary("gpt-4o")
    picture = Message.user([TextPart("abc"), ImagePart(url="https://example.org/cat.png")])
    tool = Tool("weather", "Tells the weather", {"type": "object"})
    seen = count_message_tokens([picture], "gpt-4o")
    assert (seen.tokens, seen.estimated) == (10 + tokens.TOKENS_PER_IMAGE, True)
    assert seen.source == "tiktoken o200k_base, tools and images estimated"
    assert count_message_tokens([Message.user("abc")], "gpt-4o", tools=[tool]).estimated


def test_message_estimate_counts_every_text() -> None:
    """Parts, tool calls and tools all add to the estimate of a chat."""
    bare = estimate_message_tokens([Message.user(ENGLISH)], "gpt-4o")
    call = Message.assistant(tool_calls=(ToolCall("1", "weather", '{"city": "Wien"}'),))
    tool = Tool("weather", "Tells the weather", {"type": "object"})
    assert bare == estimate_tokens(ENGLISH, "gpt-4o") + tokens.TOKENS_PER_MESSAGE + tokens.TOKENS_OF_REPLY_PRIMING
    assert estimate_message_tokens([Message.user([TextPart(ENGLISH)])], "gpt-4o") == bare
    assert estimate_message_tokens([Message.user(ENGLISH), call], "gpt-4o") > bare + tokens.TOKENS_PER_MESSAGE
    assert estimate_message_tokens([Message.user(ENGLISH)], "gpt-4o", tools=[tool]) > bare + tokens.TOKENS_PER_TOOL
