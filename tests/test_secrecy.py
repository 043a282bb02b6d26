"""A canary in every place where a secret can be written: it reaches the wire and comes out nowhere else."""

from __future__ import annotations

import asyncio
import logging
import pickle
import traceback
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from factflow_llm import LLMClientFactory, LLMConfig, Message, Recorder
from factflow_llm.errors import ConfigurationError, UnknownProfileError, get_error_metadata
from factflow_llm.secrecy import HIDDEN, enrol, masked, shown_address, shown_options
from tests.support.loopback import Loopback, Reply
from tests.test_factory import ANSWER

if TYPE_CHECKING:
    from pathlib import Path

CANARY = "canary4f1b9c"  # in the tables; each test has one of its own, which no other test made known
HELLO = [Message.user("hello")]
PLACES: dict[str, dict[str, Any]] = {
    "literal key": {"api_key": CANARY},
    "key by reference": {"api_key": "${CANARY_KEY}"},
    "key file": {"api_key_file": "FILE"},
    "user of the address": {"api_key": "none", "base_url": f"http://{CANARY}:{CANARY}@HOST/v1"},
    "query of the address": {"api_key": "none", "base_url": f"http://HOST/v1?signature={CANARY}"},
    "header": {"api_key": "none", "options": {"headers": {"x-gateway-key": CANARY}}},
    "extra header": {"api_key": "none", "options": {"extra_headers": {"x-gateway-key": CANARY}}},
    "extra query": {"api_key": "none", "options": {"extra_query": {"signature": CANARY}}},
    "proxy": {"api_key": "none", "options": {"proxy": f"http://u:{CANARY}@HOST"}},
}
MISTAKES: dict[str, dict[str, Any]] = {
    "scheme": {"base_url": f"ftp://u:{CANARY}@host/v1"},
    "space": {"base_url": f"http://u:{CANARY}@host /v1"},
    "port": {"base_url": f"http://u:{CANARY}@host:99999999/v1"},
    "type of an address": {"base_url": [CANARY]},
    "key with a line break": {"api_key": f"{CANARY}\nx"},
    "half a reference": {"api_key": f"${{{CANARY}"},
    "list of keys": {"api_key": [CANARY]},
    "misspelt key": {"api_kee": CANARY},
    "proxy": {"options": {"proxy": f"gopher://u:{CANARY}@host"}},
    "header with a line break": {"options": {"headers": {"x-key": f"{CANARY}\n"}}},
}


def own_canary(*names: object) -> str:
    """Make a secret that is this test's alone, the same in every run."""
    return f"canary{zlib.crc32(repr(names).encode()):08x}"


def refusal(canary: str) -> Reply:
    """Make the answer of a server that says the key again."""
    return Reply({"error": {"message": "no", "code": f"key-{canary}", "type": "t", "param": canary}}, status=401)


def shown(config: LLMConfig) -> list[str]:
    """Show a configuration in every way there is."""
    return [repr(config), str(config), repr(config.model_dump()), config.model_dump_json(), config.to_toml(),
            repr(config.providers["default"].quota)]  # fmt: skip


def errors_of(error: BaseException, canary: str) -> list[str]:
    """Show an error in every way there is."""
    metadata = get_error_metadata(error)
    texts = [repr(error), repr(metadata), str(metadata), *traceback.format_exception(error)]
    with suppress(TypeError, AttributeError, pickle.PicklingError):
        texts.append(pickle.dumps(error).replace(b"key-" + canary.encode(), b"").decode("latin-1"))
    return [
        text for text in texts if "'message': 'no'" not in text
    ]  # the provider's own words, which it has to answer for


@pytest.mark.parametrize("refused", [False, True], ids=["answered", "refused"])
@pytest.mark.parametrize("place", PLACES)
def test_a_secret_comes_out_nowhere(
    place: str, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Reprs, dumps, TOML, logs at DEBUG, verdicts, tracebacks, rows and status are free of it; the server got it."""
    canary = own_canary(place, refused)
    monkeypatch.setenv("CANARY_KEY", canary)
    (tmp_path / "key").write_text(f"{canary}\n", encoding="utf-8")
    caplog.set_level(logging.DEBUG)
    texts: list[str] = []

    async def main(server: Loopback) -> None:
        keys = {"base_url": f"{server.url}/v1", **PLACES[place]}
        written = (
            repr(keys)
            .replace(CANARY, canary)
            .replace("HOST", server.url.removeprefix("http://"))
            .replace("FILE", str(tmp_path / "key"))
        )
        config = LLMConfig(providers={"default": {"provider": "openai", "model": "gpt-4o", **eval(written)}})
        texts.extend(shown(config))
        with Recorder(tmp_path / "rows.jsonl") as recorder:
            async with LLMClientFactory(config, recorder=recorder) as factory:
                client: Any = factory.create_completion_client()
                texts.extend([repr(factory), repr(client), repr(client.client), repr(factory.status())])
                try:
                    response = await client.complete(HELLO)
                    texts.extend([repr(response), repr(response.message), response.origin])
                    texts.append(pickle.dumps(response.message).decode("latin-1"))
                except Exception as error:
                    texts.extend(errors_of(error, canary))

    with Loopback(refusal(canary) if refused else ANSWER) as server:
        asyncio.run(main(server))
        assert len(server.asked) == 1
    texts.append((tmp_path / "rows.jsonl").read_text(encoding="utf-8"))
    texts.extend(record.getMessage() for record in caplog.records)
    assert [text for text in texts if canary in text] == []


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_does_not_tell_the_secret(mistake: str) -> None:
    """What is wrong with a setting is said without its value."""
    canary = own_canary(mistake)
    profile = {"provider": "openai", "model": "m", "api_key": "none"}
    profile |= eval(repr(MISTAKES[mistake]).replace(CANARY, canary))

    async def make() -> None:
        LLMClientFactory(LLMConfig(providers={"default": profile})).create_completion_client()

    with pytest.raises(ConfigurationError) as caught:
        asyncio.run(make())
    assert [text for text in errors_of(caught.value, canary) if canary in text] == []
    behind = caught.value.__context__
    while behind is not None:  # `from None` only hides it: what pickles whole errors, as Dask does, sends it along
        assert canary not in f"{behind!r} {getattr(behind, 'errors', list)()}"
        behind = behind.__context__


def test_metadata_masks_what_is_configured() -> None:
    """A machine's word that holds a secret of this process is left out, whatever the secret looks like."""
    error: Any = Exception("…")
    error.status_code, error.body = 400, {"code": "plain_word", "param": "tulip-nine", "type": "x:tulip-nine"}

    assert get_error_metadata(error).param == "tulip-nine"
    enrol("tulip-nine", "abc", None, "")
    metadata = get_error_metadata(error)

    assert (metadata.code, metadata.param, metadata.type) == ("plain_word", None, None)
    assert masked("abc tulip-nine") == f"abc {HIDDEN}"


def test_what_is_shown_of_addresses_and_options() -> None:
    """User, password and query go; telling keys hide what stands under them, however deep; the rest stays."""
    assert shown_address("https://u:p@host:1/v1?sig=x#y") == f"https://{HIDDEN}@host:1/v1?{HIDDEN}"
    assert shown_address("https://host/v1") == "https://host/v1"
    given = {
        "headers": {"a": "b", "n": 1},
        "proxy": "http://u:p@h",
        "max_tokens": 5,
        "prompt_cache_key": "team-a",
        "reasoning_effort": "low",
        "metadata": {"api_key": "x", "team": "a"},
        "endpoint": "http://u:p@h/x",
        "stop": ["a", "b"],
    }
    assert shown_options(given) == {
        "headers": {"a": HIDDEN, "n": 1},
        "proxy": HIDDEN,
        "max_tokens": 5,
        "prompt_cache_key": "team-a",
        "reasoning_effort": "low",
        "metadata": {"api_key": HIDDEN, "team": "a"},
        "endpoint": f"http://{HIDDEN}@h/x",
        "stop": ["a", "b"],
    }


# --- a configuration from someone else ------------------------------------------------------------------------------

BASE = 'provider = "openai"\nmodel = "m"\n'


def read(tmp_path: Path, profile: str, secrets: str | None) -> LLMConfig:
    """Read one profile from a file."""
    path = tmp_path / "llm.toml"
    path.write_text(f"[providers.default]\n{BASE}{profile}\n", encoding="utf-8")
    return LLMConfig.from_toml(path, secrets=secrets)


@pytest.mark.parametrize(
    ("profile", "secrets"),
    [
        ('api_key = "${APP_KEY}"', "environment-prefix:APP_"),
        ('api_key = "literal"', "environment-prefix:APP_"),
        ('api_key = "literal"', "none"),
        ('api_key = "${ANY}"', None),
        ("", None),
        ("", "environment-prefix:OPENAI_"),
    ],
)
def test_what_a_file_may_name(profile: str, secrets: str | None, tmp_path: Path) -> None:
    """Variables with the prefix and literal keys are allowed; without a policy, anything is."""
    assert list(read(tmp_path, profile, secrets).providers) == ["default"]


@pytest.mark.parametrize(
    ("profile", "secrets", "told"),
    [
        ('api_key = "${AWS_SECRET_ACCESS_KEY}"', "environment-prefix:APP_", "AWS_SECRET_ACCESS_KEY is not allowed"),
        ('api_key = "${XAPP_KEY}"', "environment-prefix:APP_", "XAPP_KEY is not allowed here; write api_key"),
        ('api_key_file = "/etc/passwd"', "environment-prefix:APP_", "api_key_file is not allowed"),
        ('base_url = "https://elsewhere.example"', "environment-prefix:APP_", "OPENAI_API_KEY is not allowed"),
        ('api_key = "${APP_KEY}"', "none", "APP_KEY is not allowed here; write the key itself"),
        ("", "anything", 'write "environment-prefix:NAME_", "none", or leave it out'),
        ("", "environment-prefix:", "write"),
    ],
)
def test_what_a_file_may_not_name(profile: str, secrets: str, told: str, tmp_path: Path) -> None:
    """Other variables, key files and the provider's usual variable are refused, with what to write."""
    with pytest.raises(ConfigurationError, match=told):
        read(tmp_path, profile, secrets)


@pytest.mark.parametrize(
    "values",
    [
        {"providers": {"a": {"extends": {"a": 1}}}},
        {"providers": {"a": {"extends": ["b"]}}},
        {"providers": {"a": {"extends": 7}}},
        {"providers": {"a": {1: 2}}},
        {"providers": {1: {"provider": "openai", "model": "m"}}},
        {"providers": {"a": {"extends": "b"}}, "bases": {1: {}}},
        {"providers": {"a": 5}},
        {"providers": []},
        {"providers": {"a": {"provider": "openai", "model": "m"}}, "default": {"a": 1}},
        {"providers": {"a": {"provider": {"x": 1}, "model": "m"}}},
        {"providers": {"a": {"provider": "openai", "model": "m", "quota_group": {"x": 1}}}},
        {"providers": {"a": {"provider": "openai", "model": "m", "rate_limit": {"retry": [1]}}}},
        {"providers": {"a": {"provider": "openai", "model": "m", "options": [1]}}},
    ],
    ids=repr,
)
def test_names_that_are_no_text(values: Any) -> None:
    """Whatever stands where a name should, the error is one of ours."""
    with pytest.raises(ConfigurationError):
        LLMConfig.from_dict(values)


@pytest.mark.parametrize("name", [{"a": 1}, ["a"], 7, None])
def test_profiles_are_asked_for_by_text(name: Any) -> None:
    """A client of a profile whose name is no text is refused in words."""
    config = LLMConfig(providers={"a": {"provider": "openai", "model": "m"}})
    with pytest.raises(UnknownProfileError, match="a profile's name is text"):
        LLMClientFactory(config).create_completion_client(name)
