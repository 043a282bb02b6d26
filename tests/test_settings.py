"""Profiles from files, dicts and the environment: what is accepted, what is refused and with which words."""

from __future__ import annotations

import json
import os
import pickle
import stat
import tomllib
from typing import TYPE_CHECKING, Any

import pytest

from factflow_llm.errors import (
    ConfigurationError,
    LLMErrorClassification,
    UnknownProfileError,
    WrongModelTypeError,
    classify_llm_error,
)
from factflow_llm.ratelimit.config import RateLimitConfig
from factflow_llm.settings import LLMConfig, LLMProviderConfig, ModelType, ProviderName

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "sk-very-secret-0123456789"
CHAT = {"provider": "openai", "model": "gpt-4o-mini", "api_key": "${TEAM_KEY}"}
EMBED = {"provider": "openai", "type": "embedding", "model": "text-embedding-3-small", "dimensions": 256}


def config(_default: str | None = None, **profiles: Any) -> LLMConfig:
    """Build a configuration of some profiles."""
    return LLMConfig.from_dict({"providers": profiles, "default": _default})


def one(**keys: Any) -> LLMProviderConfig:
    """Build the one profile of a configuration."""
    return config(chat={**CHAT, **keys}).providers["chat"]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Give the example, written to a file."""
    path = tmp_path / "llm.toml"
    LLMConfig.example(path)
    return path


def test_example_is_a_working_configuration(written: Path) -> None:
    """The commented example loads, covers every provider, and looks up no secret until asked."""
    loaded = LLMConfig.from_toml(written)
    assert {profile.provider for profile in loaded.providers.values()} == set(ProviderName)
    assert loaded.default == "chat"
    assert loaded.providers["embed"].dimensions == 512
    assert written.read_text(encoding="utf-8") == LLMConfig.example()


def test_example_explains_every_key() -> None:
    """Each key of a profile appears in the example, set or commented out."""
    text = LLMConfig.example()
    assert [key for key in (*LLMProviderConfig.model_fields, "extends", "default") if f"{key} = " not in text] == [
        "options"  # written as a table
    ]
    assert "[providers.chat.options]" in text


def test_example_never_overwrites(written: Path) -> None:
    """A file that exists is an error unless overwriting is allowed."""
    with pytest.raises(ConfigurationError, match="file exists"):
        LLMConfig.example(written)
    LLMConfig.example(written, overwrite=True)


def test_round_trip_through_toml(written: Path, tmp_path: Path) -> None:
    """What to_toml writes reads back as the same configuration, inheritance flattened."""
    loaded = LLMConfig.from_toml(written)
    loaded.to_toml(tmp_path / "again.toml")
    again = (tmp_path / "again.toml").read_text(encoding="utf-8")
    assert LLMConfig.from_toml(tmp_path / "again.toml") == loaded
    assert 'api_key = "${OPENAI_API_KEY}"' in again
    assert "extends" not in again


@pytest.mark.parametrize(
    "keys",
    [
        {"options": {"stop": ["a", 'quo"te', "line\nbreak", "\x7f"], "deep": {"x y": 1.5, "on": True}, "empty": {}}},
        {"rate_limit": {"requests_per_minute": 500, "retry": {"max_attempts": 3}}},
        {"rate_limit": {}},
        {"rate_limit": False, "quota_group": "team", "base_url": "http://localhost:8000/v1", "timeout_s": 1e-3},
    ],
    ids=["options", "limits", "default limits", "no limits"],
)
def test_round_trip_of_values(keys: dict[str, Any]) -> None:
    """Every kind of value survives TOML."""
    given = config("my chat", **{"my chat": {**CHAT, **keys}})
    assert LLMConfig.from_dict(tomllib.loads(given.to_toml())) == given


def test_values_without_a_toml_form_are_named() -> None:
    """A callable among the options works in code, and cannot be written."""
    with pytest.raises(ConfigurationError, match="a builtin_function_or_method has no TOML form"):
        config(chat={**CHAT, "options": {"token_provider": print}}).to_toml()


def test_json_and_toml_say_the_same(written: Path, tmp_path: Path) -> None:
    """The same tables in JSON give the same configuration; an editor's $schema is no key."""
    tables = tomllib.loads(written.read_text(encoding="utf-8"))
    path = tmp_path / "llm.json"
    path.write_text(json.dumps({"$schema": "llm.schema.json", **tables}), encoding="utf-8")
    assert LLMConfig.from_json(path) == LLMConfig.from_toml(written)


def test_environment_says_the_same() -> None:
    """Two underscores separate levels; numbers, false and options are read as what they are."""
    environ = {
        "FACTFLOW_LLM__DEFAULT": "my_chat",
        "FACTFLOW_LLM__PROVIDERS__MY_CHAT__PROVIDER": "openai",
        "FACTFLOW_LLM__PROVIDERS__MY_CHAT__MODEL": "gpt-4o-mini",
        "FACTFLOW_LLM__PROVIDERS__MY_CHAT__API_KEY": "1234",
        "FACTFLOW_LLM__PROVIDERS__MY_CHAT__TIMEOUT_S": "30",
        "FACTFLOW_LLM__PROVIDERS__MY_CHAT__RATE_LIMIT__REQUESTS_PER_MINUTE": "500",
        "FACTFLOW_LLM__PROVIDERS__MY_CHAT__OPTIONS__TEMPERATURE": "0.2",
        "FACTFLOW_LLM__PROVIDERS__MY_CHAT__OPTIONS__USER": "facts team",
        "FACTFLOW_LLM__PROVIDERS__LOCAL__PROVIDER": "huggingface",
        "FACTFLOW_LLM__PROVIDERS__LOCAL__TYPE": "embedding",
        "FACTFLOW_LLM__PROVIDERS__LOCAL__MODEL": "all-MiniLM-L6-v2",
        "FACTFLOW_LLM__PROVIDERS__LOCAL__RATE_LIMIT": "False",
        "FACTFLOW_LLMS": "not ours",
    }
    chat = {
        "provider": "openai",
        "model": "gpt-4o-mini",
        "api_key": "1234",
        "timeout_s": 30,
        "rate_limit": {"requests_per_minute": 500},
        "options": {"temperature": 0.2, "user": "facts team"},
    }
    local = {"provider": "huggingface", "type": "embedding", "model": "all-MiniLM-L6-v2", "rate_limit": False}
    assert LLMConfig.from_env(environ) == config("my_chat", my_chat=chat, local=local)


def test_environment_is_the_processs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a mapping the process's own environment is read, and an empty one says what to set."""
    for name in [name for name in os.environ if name.startswith("FACTFLOW_LLM__")]:
        monkeypatch.delenv(name)
    with pytest.raises(ConfigurationError, match="set FACTFLOW_LLM__PROVIDERS__CHAT__MODEL"):
        LLMConfig.from_env()
    monkeypatch.setenv("FACTFLOW_LLM__PROVIDERS__CHAT__PROVIDER", "openai")
    monkeypatch.setenv("FACTFLOW_LLM__PROVIDERS__CHAT__MODEL", "gpt-4o")
    assert LLMConfig.from_env().providers["chat"].model == "gpt-4o"


def test_environment_with_a_value_and_a_table_is_refused() -> None:
    """A variable cannot be a value and hold others."""
    environ = {"FACTFLOW_LLM__PROVIDERS__CHAT": "x", "FACTFLOW_LLM__PROVIDERS__CHAT__MODEL": "y"}
    with pytest.raises(ConfigurationError, match="chat already has a value"):
        LLMConfig.from_env(environ)


def test_inheritance_merges_tables_and_overrides_values() -> None:
    """A chain of bases is merged key by key, nested tables too; the nearest wins."""
    loaded = LLMConfig.from_dict(
        {
            "bases": {
                "ours": {"provider": "openai", "timeout_s": 10, "options": {"seed": 1, "headers": {"x-team": "a"}}},
                "slow": {"extends": "ours", "timeout_s": 100},
            },
            "providers": {
                "chat": {"extends": "slow", "model": "gpt-4o", "options": {"headers": {"x-app": "b"}}},
                "mini": {"extends": "chat", "model": "gpt-4o-mini"},
            },
        }
    )
    mini = loaded.providers["mini"]
    assert (mini.provider, mini.model, mini.timeout_s) == (ProviderName.OPENAI, "gpt-4o-mini", 100)
    assert mini.options == {"seed": 1, "headers": {"x-team": "a", "x-app": "b"}}
    assert list(loaded.providers) == ["chat", "mini"]


@pytest.mark.parametrize(
    ("tables", "complaint"),
    [
        ({"providers": {"a": {"extends": "b", **CHAT}, "bb": CHAT}}, "extends = 'b' names neither base nor profile"),
        ({"providers": {"a": {"extends": "b"}, "b": {"extends": "a"}}}, "circle: a → b → a"),
        ({"providers": {"a": {"extends": "a"}}}, "circle: a → a"),
        ({"bases": {"b": {"modle": "x"}}, "providers": {"a": {"extends": "b", **CHAT}}}, "did you mean 'model'"),
    ],
    ids=["unknown", "circle", "itself", "key of a base"],
)
def test_bad_inheritance_is_named(tables: dict[str, Any], complaint: str) -> None:
    """Every way to inherit wrongly is an error that names the profile."""
    with pytest.raises(ConfigurationError, match=f"profile 'a': .*{complaint}"):
        LLMConfig.from_dict(tables)


def test_file_names_are_relative_to_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limiter file and key file are found beside the configuration, wherever the process runs."""
    RateLimitConfig(requests_per_minute=77).to_toml(tmp_path / "limiter.toml")
    (tmp_path / "team.key").write_text(f"{SECRET}\n", encoding="utf-8")
    (tmp_path / "llm.toml").write_text(
        '[bases.b]\napi_key_file = "team.key"\n[providers.chat]\nextends = "b"\nprovider = "openai"\n'
        'model = "gpt-4o"\nrate_limit = "limiter.toml"\n',
        encoding="utf-8",
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    chat = LLMConfig.from_toml(tmp_path / "llm.toml").providers["chat"]
    assert chat.rate_limit == RateLimitConfig(requests_per_minute=77)
    assert chat.resolve_api_key() == SECRET


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"modle": "x"}, "unknown key 'modle'; did you mean 'model'"),
        ({"zzz": 1}, "unknown key 'zzz'; known: api, api_key, "),
        ({"provider": "opnai"}, "provider: Input should be 'openai'.* not 'opnai'"),
        ({"type": "chatt"}, "type: Input should be 'chat' or 'embedding', not 'chatt'"),
        ({"timeout_s": 0}, "timeout_s: Input should be greater than 0, not 0"),
        ({"timeout_s": float("nan")}, "timeout_s: .*finite.*nan"),
        ({"model": ""}, "model: String should have at least 1 character"),
        ({"base_url": "api.openai.com/v1"}, "'api.openai.com/v1' needs a scheme"),
        ({"rate_limit": True}, "rate_limit: write a table .* or false"),
        ({"rate_limit": {"requests_per_minut": 3}}, "did you mean 'requests_per_minute'"),
        ({"rate_limit": "nowhere.toml"}, "rate_limit: nowhere.toml: cannot be read"),
        ({"dimensions": 256}, 'dimensions is for embeddings: write type = "embedding"'),
        ({"region": "eu-west-1"}, "region does not apply to openai, only to bedrock"),
        ({"deployment": "d"}, "deployment does not apply to openai, only to azure"),
        ({"provider": "anthropic", "type": "embedding"}, 'anthropic runs chat models here: write type = "chat"'),
        (
            {"provider": "huggingface", "api_key": None},
            'huggingface runs embedding models here: write type = "embedding"',
        ),
        ({"api_key_file": "k"}, "api_key and api_key_file are both given"),
        ({"api_key": "${TEAM_KEY}/more"}, "a reference stands alone"),
        ({"api_key": ""}, "api_key: it is empty; write"),
    ],
    ids=lambda value: ",".join(f"{key}" for key in value) if isinstance(value, dict) else "",
)
def test_bad_keys_are_errors_with_a_remedy(keys: dict[str, Any], complaint: str) -> None:
    """Each mistake names the profile, the key and what to write; the classifier calls it terminal."""
    with pytest.raises(ConfigurationError, match=f"profile 'chat': .*{complaint}") as caught:
        one(**keys)
    assert classify_llm_error(caught.value) is LLMErrorClassification.TERMINAL


def test_missing_keys_are_all_named() -> None:
    """A profile without provider and model says both."""
    with pytest.raises(ConfigurationError, match=r"'provider' is missing; write provider = .*'model' is missing"):
        LLMProviderConfig()  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("tables", "complaint"),
    [
        ({}, "'providers' is missing"),
        ({"provider": {"chat": CHAT}}, "unknown key 'provider'; did you mean 'providers'"),
        ({"providers": {"chat": CHAT}, "default": "chatt"}, "default = 'chatt' names no profile; did you mean 'chat'"),
        ({"providers": {"chat": "gpt-4o"}}, "profile 'chat': a profile is a table"),
        ({"providers": ["gpt-4o"]}, "providers: Input should be a valid dict"),
        ({"providers": {"chat": CHAT}, "bases": "b"}, "bases is a table of tables"),
    ],
    ids=["empty", "misspelt", "default", "no table", "list", "bases"],
)
def test_bad_shapes_are_errors(tables: dict[str, Any], complaint: str) -> None:
    """A configuration of another shape is refused as a whole."""
    with pytest.raises(ConfigurationError, match=complaint):
        LLMConfig.from_dict(tables)


@pytest.mark.parametrize("text", ["providers = [", "[]", '"text"'], ids=["toml", "list", "text"])
@pytest.mark.parametrize("read", [LLMConfig.from_toml, LLMConfig.from_json], ids=["from_toml", "from_json"])
def test_files_that_are_no_configuration_are_named(read: Any, text: str, tmp_path: Path) -> None:
    """An error in a file names the file."""
    path = tmp_path / "llm.conf"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"llm\.conf: "):
        read(path)


def test_missing_file_says_how_to_begin(tmp_path: Path) -> None:
    """No file: the error names the call that writes one."""
    with pytest.raises(ConfigurationError, match=r"LLMConfig\.example\("):
        LLMConfig.from_toml(tmp_path / "llm.toml")


def test_azure_takes_its_model_from_the_deployment() -> None:
    """A deployment without a model is named after it."""
    azure = config(azure={"provider": "azure", "deployment": "gpt-4o", "base_url": "https://r.openai.azure.com"})
    assert azure.providers["azure"].model == "gpt-4o"


@pytest.mark.parametrize("key", [f"{SECRET}\n", f" {SECRET}", f"{SECRET}\x00", f"{SECRET}é"])
def test_malformed_key_is_refused_and_not_shown(key: str) -> None:
    """A key that HTTP cannot carry is an error that does not show it."""
    with pytest.raises(ConfigurationError, match=r"api_key: .*strip") as caught:
        one(api_key=key)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("keys", [{"timeout_s": -1}, {"api_key_file": "k"}, {"modle": 1}, {"api_key": [SECRET]}])
def test_no_error_shows_a_secret(keys: dict[str, Any]) -> None:
    """Whatever is wrong with a profile, its key does not appear."""
    with pytest.raises(ConfigurationError) as caught:
        one(**{"api_key": SECRET, "options": {"headers": {"authorization": SECRET}}, **keys})
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value)


def test_secrets_are_shown_nowhere() -> None:
    """Neither repr nor str nor TOML nor JSON of a configuration shows a key; a comment in the TOML says so."""
    given = config(chat={**CHAT, "api_key": SECRET, "options": {"headers": {"x-key": SECRET}}})
    assert SECRET not in f"{given!r} {given!s} {given.providers}"
    plain = config(chat={**CHAT, "api_key": SECRET})
    assert SECRET not in plain.model_dump_json()
    assert SECRET not in (written := plain.to_toml())
    assert "# api_key: a literal key is not written" in written


def test_key_comes_from_where_the_profile_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reference, a file, a literal, the usual variable, or nothing."""
    (tmp_path / "key").write_text("from-file\n", encoding="utf-8")
    monkeypatch.setenv("TEAM_KEY", "from-reference")
    monkeypatch.setenv("OPENAI_API_KEY", "from-usual")
    assert one().resolve_api_key() == "from-reference"
    assert one(api_key=None, api_key_file=tmp_path / "key").resolve_api_key() == "from-file"
    assert one(api_key=SECRET).resolve_api_key() == SECRET
    assert one(api_key=None).resolve_api_key() == "from-usual"
    local = config(local={"provider": "huggingface", "type": "embedding", "model": "m"}).providers["local"]
    assert local.resolve_api_key() is None


def test_key_that_cannot_be_found_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unset variable, a missing and an empty file are named."""
    monkeypatch.delenv("TEAM_KEY", raising=False)
    with pytest.raises(ConfigurationError, match="set the environment variable TEAM_KEY"):
        one().resolve_api_key()
    with pytest.raises(ConfigurationError, match=r"api_key_file .*nowhere: No such file"):
        one(api_key=None, api_key_file=tmp_path / "nowhere").resolve_api_key()
    (tmp_path / "empty").touch(mode=stat.S_IRUSR | stat.S_IWUSR)
    with pytest.raises(ConfigurationError, match="no API key"):
        one(api_key=None, api_key_file=tmp_path / "empty").resolve_api_key()


@pytest.mark.parametrize(
    ("given", "asked", "kind", "found"),
    [
        (config(chat=CHAT, embed=EMBED), "chat", ModelType.CHAT, "chat"),
        (config(chat=CHAT, embed=EMBED), "default", ModelType.CHAT, "chat"),
        (config(chat=CHAT, embed=EMBED), "default", ModelType.EMBEDDING, "embed"),
        (config("b", a=CHAT, b=CHAT), "default", ModelType.CHAT, "b"),
        (config(a=CHAT, default=CHAT), "default", ModelType.CHAT, "default"),
    ],
    ids=["by name", "only chat", "only embedding", "named default", "called default"],
)
def test_find(given: LLMConfig, asked: str, kind: ModelType, found: str) -> None:
    """The default is the profile of that name, else the one named, else the only one of its type."""
    assert given.find(asked, kind) == (found, given.providers[found])


@pytest.mark.parametrize(
    ("given", "asked", "kind", "error", "complaint"),
    [
        (config(chat=CHAT), "caht", ModelType.CHAT, UnknownProfileError, "no profile 'caht'; did you mean 'chat'"),
        (config(a=CHAT, b=CHAT), "default", ModelType.CHAT, UnknownProfileError, "write default = NAME.*: a, b"),
        (config(), "default", ModelType.CHAT, UnknownProfileError, r"none is configured \(LLMConfig\.example"),
        (config(chat=CHAT, e=EMBED), "chat", ModelType.EMBEDDING, WrongModelTypeError, "of type chat.*that type: e"),
        (config("chat", chat=CHAT, e=EMBED), "default", ModelType.EMBEDDING, WrongModelTypeError, "'chat' is"),
    ],
    ids=["misspelt", "ambiguous", "empty", "wrong type", "default of wrong type"],
)
def test_find_says_what_to_write(
    given: LLMConfig,
    asked: str,
    kind: ModelType,
    error: type[Exception],
    complaint: str,
) -> None:
    """Each miss names what there is."""
    with pytest.raises(error, match=f"(?i){complaint}"):
        given.find(asked, kind)


def test_profiles_on_one_quota_share_their_limits() -> None:
    """Provider, account and model make a quota; the profile that sets limits sets them for all, false opts out."""
    limits = {"requests_per_minute": 500}
    given = config(
        plain=CHAT,
        creative={**CHAT, "rate_limit": limits, "options": {"temperature": 1}},
        free={**CHAT, "rate_limit": False},
        other={**CHAT, "api_key": "${OTHER_KEY}"},
    )
    limits_of = {name: given.rate_limit_of(profile) for name, profile in given.providers.items()}
    assert limits_of == {
        "plain": RateLimitConfig(requests_per_minute=500),
        "creative": RateLimitConfig(requests_per_minute=500),
        "free": None,
        "other": RateLimitConfig(),
    }


def test_usual_variable_is_the_same_account_as_no_key() -> None:
    """Leaving the key out and naming the provider's usual variable is the same account."""
    assert one(api_key=None).quota == one(api_key="${OPENAI_API_KEY}").quota != one().quota


def test_contradicting_limits_on_one_quota_are_refused() -> None:
    """Two profiles cannot set different limits for what they share, unless groups part them."""
    slow, fast = ({**CHAT, "rate_limit": {"requests_per_minute": rate}} for rate in (5, 50))
    with pytest.raises(ConfigurationError, match="'slow' and 'fast' draw on one quota but set different rate_limit"):
        config(slow=slow, fast=fast)
    assert config(slow=slow, fast={**fast, "quota_group": "fast"}).providers["fast"].quota == ("fast",)


def test_profiles_are_frozen_and_picklable() -> None:
    """A configuration is a value."""
    given = config(chat={**CHAT, "rate_limit": {"requests_per_minute": 5}})
    assert pickle.loads(pickle.dumps(given)) == given
    with pytest.raises(ValueError, match="frozen"):
        given.default = "chat"  # type: ignore[misc]


def test_profiles_may_be_built_in_code() -> None:
    """Objects work where tables do, and inherit like them."""
    chat = LLMProviderConfig(provider=ProviderName.OPENAI, model="gpt-4o", timeout_s=9)
    given = LLMConfig(providers={"chat": chat})
    assert given.providers["chat"] == chat
    derived = LLMConfig.from_dict({"providers": {"chat": chat, "mini": {"extends": "chat", "model": "gpt-4o-mini"}}})
    assert derived.providers["mini"].timeout_s == 9


def test_json_schema_accepts_what_the_loader_accepts() -> None:
    """The example fits the schema; a misspelt key, a missing model and a wrong type do not."""
    jsonschema = pytest.importorskip("jsonschema", reason="comes with the lab extra")
    schema = LLMConfig.json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    tables = tomllib.loads(LLMConfig.example())
    validator.validate(tables)
    validator.validate({"providers": {"chat": {**CHAT, "rate_limit": "limiter.toml"}}})
    for wrong in (
        {"modle": "x", **CHAT},
        {"provider": "openai"},
        {**CHAT, "timeout_s": "x"},
        {**CHAT, "provider": "x"},
    ):
        assert not validator.is_valid({"providers": {"chat": wrong}}), wrong
    assert schema["$defs"]["LLMProviderConfig"]["properties"]["model"]["description"]
