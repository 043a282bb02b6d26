"""What an application says about its models: named profiles, from TOML, JSON, a dict or the environment.

A key that is not known is an error, never ignored. Secrets are references (``${ENV_NAME}``, a key file) or
``SecretStr``; they are looked up when a client is made, and shown nowhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_serializer,
    model_validator,
)

from factflow_llm.clients.checks import check_api_key, check_url
from factflow_llm.errors import ConfigurationError, UnknownProfileError, WrongModelTypeError
from factflow_llm.files import write_new
from factflow_llm.prices import Prices  # noqa: TC001 - pydantic reads it
from factflow_llm.providers import PROVIDERS, ModelType, ProviderName
from factflow_llm.ratelimit.config import RateLimitConfig
from factflow_llm.routes import check_routes, read_names, with_members_model
from factflow_llm.secrecy import is_telling, masked, shown_address, shown_options
from factflow_llm.tables import EXTENDS, anchor, from_environment, inherit, nearest, toml_key, toml_value
from factflow_llm.unfit import Unfit, unfit

__all__ = ["DEFAULT", "LLMConfig", "LLMProviderConfig", "ModelType", "ProviderName"]

DEFAULT = "default"
"""The profile name that stands for ``LLMConfig.default``."""

_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_FILE_KEYS = ("rate_limit", "api_key_file")


_NARROW_KEYS = frozenset().union(*(entry.keys for entry in PROVIDERS.values()))
"""The profile keys that apply to some providers only."""


class _Settings(BaseModel):
    """A frozen model whose errors are ours: they name key and remedy, and never show a value that may be secret."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
            return
        except ValidationError as error:
            problems = "; ".join(_explain(problem, type(self)) for problem in unfit(error))
        raise ConfigurationError(problems)  # out here it carries no context, which would hold the values


def _explain(problem: Unfit, model: type[BaseModel]) -> str:
    key = problem.key
    if problem.unknown:
        return f"unknown key {key!r}{nearest(key, model.model_fields)}"
    if problem.missing:
        return f"{key!r} is missing; write {key} = …"
    if problem.kind == "value_error":
        return f"{key}: {problem.text}" if key else problem.text
    secret = key.startswith("api_key") or not isinstance(problem.given, str | int | float)
    return masked(f"{key}: {problem.text}" + ("" if secret else f", not {problem.given!r}"))


def _check_secret(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    if not text:
        raise ValueError("it is empty; write ${ENV_NAME}, or leave it out for the provider's usual variable")
    if "${" not in text:
        check_api_key(text, variable="")
    elif not _REFERENCE.fullmatch(text):
        raise ValueError("a reference stands alone and names a variable: write ${ENV_NAME}")
    return secret


def _read_rate_limit(value: Any) -> Any:
    if isinstance(value, str) and value.lower() == "false":  # as the environment says it
        return False
    if isinstance(value, str | Path):
        return RateLimitConfig.from_toml(value)
    if isinstance(value, Mapping):
        return RateLimitConfig(**value)
    if value is None or value is False or isinstance(value, RateLimitConfig):
        return value
    raise ValueError("write a table of limiter settings, the name of a file that holds them, or false for no limiter")


Names = Annotated[tuple[str, ...], BeforeValidator(read_names)]


class LLMProviderConfig(_Settings):
    """One profile: a model, who runs it and how it is reached."""

    provider: ProviderName = Field(description="Who runs the model.")
    type: ModelType = Field(default=ModelType.CHAT, description="What the model does.")
    model: str = Field(min_length=1, description="The model's name; Azure: the model behind the deployment.")
    api_key: Annotated[SecretStr, AfterValidator(_check_secret)] | None = Field(
        default=None,
        description="${ENV_NAME}, or the key itself; by default the provider's usual environment variable.",
    )
    api_key_file: Path | None = Field(default=None, description="A file that holds the key, relative to this one.")
    base_url: Annotated[str, AfterValidator(lambda url: check_url(url, name="base_url"))] | None = Field(
        default=None, description="Where the API lives, with its scheme; Azure: the resource."
    )
    deployment: str | None = Field(default=None, description="Azure: the deployment's name; by default the model's.")
    api_version: str | None = Field(default=None, description="Azure: a dated API version; without it, the v1 API.")
    api: Literal["chat_completions", "responses"] | None = Field(
        default=None, description="OpenAI and Azure: the language of chats; by default chat_completions."
    )
    region: str | None = Field(default=None, description="Bedrock: the AWS region.")
    device: str | None = Field(default=None, description="Hugging Face: cpu, cuda, cuda:1, mps…")
    dimensions: int | None = Field(default=None, ge=1, description="Length of embedding vectors.")
    timeout_s: float | None = Field(
        default=None,
        gt=0,
        description="Longest silence of the server and longest wait for a whole answer, per attempt, in seconds.",
    )
    rate_limit: Annotated[RateLimitConfig | Literal[False] | None, BeforeValidator(_read_rate_limit)] = Field(
        default=None,
        description="Limiter settings, the name of a file that holds them (relative to this one), or false for none. "
        "Left out: the adaptive limiter with its defaults.",
    )
    quota_group: str | None = Field(
        default=None,
        description="Profiles of one group share one limiter; by default those of one provider, account and model.",
    )
    pool: Names = Field(
        default=(),
        description="Profiles that answer for this one, whichever has room first; itself only if it is among them.",
    )
    pool_by: Literal["room", "price"] = Field(
        default="room", description="Whom of the pool to ask where several have room: in turn, or the cheapest."
    )
    fallback: Names = Field(default=(), description="Profiles to ask, in this order, when this one cannot answer.")
    prices: Prices | None = Field(
        default=None,
        description="US dollars for a million tokens: { input = 0.15, output = 0.60 }; by default as listed.",
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        repr=False,
        description="Further arguments of the client (headers, proxy, connect_timeout_s, batch_size…) and arguments "
        "preset for every call (temperature, max_tokens, seed…).",
    )

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, shown_address(value) if name == "base_url" and value else value

    @field_serializer("base_url")
    def _show_base_url(self, url: str | None) -> str | None:
        return url and shown_address(url)

    @field_serializer("options")
    def _show_options(self, options: dict[str, Any]) -> dict[str, Any]:
        return shown_options(options)

    @model_validator(mode="before")
    @classmethod
    def _name_model_by_deployment(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and "model" not in values and "deployment" in values:
            return {**values, "model": values["deployment"]}
        return values

    @model_validator(mode="after")
    def _keys_agree(self) -> Self:
        entry = PROVIDERS[self.provider]
        if self.type not in entry.clients:
            (offered,) = entry.clients
            raise ValueError(f'{self.provider} runs {offered} models here: write type = "{offered}"')
        for key in sorted(_NARROW_KEYS - entry.keys):
            if getattr(self, key) is not None:
                fitting = sorted(name for name, other in PROVIDERS.items() if key in other.keys)
                raise ValueError(f"{key} does not apply to {self.provider}, only to {', '.join(fitting)}")
        if self.dimensions is not None and self.type is not ModelType.EMBEDDING:
            raise ValueError('dimensions is for embeddings: write type = "embedding" or leave it out')
        if self.api is not None and self.type is not ModelType.CHAT:
            raise ValueError('api is for chats: write type = "chat" or leave it out')
        if self.api_key is not None and self.api_key_file is not None:
            raise ValueError("api_key and api_key_file are both given; keep one")
        return self

    @property
    def quota(self) -> tuple[object, ...]:
        """What the profile draws on; equal for profiles that share a limiter."""
        if self.quota_group is not None:
            return (self.quota_group,)
        usual = PROVIDERS[self.provider].key_variable
        key = self.api_key or self.api_key_file or SecretStr(f"${{{usual}}}")
        address = None if self.base_url is None else SecretStr(self.base_url)
        account = (key, address, self.region, self.options.get("aws_profile"))
        return (self.provider, *account, self.deployment or self.model)

    @property
    def quota_name(self) -> str:
        """The quota as other processes name it: the same words for the same account and model, and no secret."""
        if self.quota_group is not None:
            return self.quota_group
        shown = [str(part.get_secret_value() if isinstance(part, SecretStr) else part) for part in self.quota]
        digest = hashlib.sha256("\0".join(shown).encode()).hexdigest()[:12]
        return f"{self.provider.value}-{self.deployment or self.model}-{digest}"

    def resolve_api_key(self) -> str | None:
        """Look the secret up: key file, ``${ENV_NAME}``, literal, or the provider's usual variable.

        Returns:
            ``None`` when nothing is configured and the usual variable is not set, or the provider takes no key.

        Raises:
            ConfigurationError: the file cannot be read, the variable is not set, or what they hold is no key.
        """
        usual = PROVIDERS[self.provider].key_variable or ""
        if self.api_key_file is not None:
            try:
                return check_api_key(self.api_key_file.read_text(encoding="utf-8").strip(), variable=usual)
            except OSError as error:
                raise ConfigurationError(f"api_key_file {self.api_key_file}: {error.strerror}") from None
        if self.api_key is None:
            return os.environ.get(usual)
        text = self.api_key.get_secret_value()
        if reference := _REFERENCE.fullmatch(text):
            return check_api_key(os.environ.get(reference[1]), variable=reference[1])
        return text


class LLMConfig(_Settings):
    """All profiles of an application. ``bases`` are tables from which profiles inherit by ``extends = "NAME"``."""

    providers: dict[str, LLMProviderConfig] = Field(description="Profiles by name.")
    default: str | None = Field(default=None, description="The profile used when none is named.")

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, values: Any) -> Any:
        """Flatten ``extends``, and build each profile here so that an error carries its name."""
        if not isinstance(values, Mapping) or not isinstance(values.get("providers"), Mapping):
            return values
        bases, profiles = values.get("bases") or {}, {}
        if not isinstance(bases, Mapping):
            raise ValueError("bases is a table of tables: write [bases.NAME]")
        tables = {name: _plain(table) for name, table in {**bases, **values["providers"]}.items()}
        for name in values["providers"]:
            try:
                profiles[name] = LLMProviderConfig(**with_members_model(inherit(name, tables), tables))
            except ConfigurationError as error:
                raise ValueError(f"profile {name!r}: {error}") from None
        return {key: value for key, value in values.items() if key != "bases"} | {"providers": profiles}

    @model_validator(mode="after")
    def _default_exists(self) -> Self:
        if self.default is not None and self.default not in self.providers:
            raise ValueError(f"default = {self.default!r} names no profile{nearest(self.default, self.providers)}")
        return self

    @model_validator(mode="after")
    def _routes_lead_somewhere(self) -> Self:
        for name, profile in self.providers.items():
            check_routes(name, profile, self.providers)
        return self

    @model_validator(mode="after")
    def _limits_agree(self) -> Self:
        by_quota: dict[object, tuple[str, RateLimitConfig]] = {}
        for name, profile in self.providers.items():
            if isinstance(profile.rate_limit, RateLimitConfig):
                first, limits = by_quota.setdefault(profile.quota, (name, profile.rate_limit))
                if limits != profile.rate_limit:
                    raise ValueError(
                        f"profiles {first!r} and {name!r} draw on one quota but set different rate_limit; "
                        "set it in one of them, or give each a quota_group of its own"
                    )
        return self

    def rate_limit_of(self, profile: LLMProviderConfig) -> RateLimitConfig | None:
        """Return the settings of the limiter a profile shares; ``None`` when it wants none."""
        if profile.rate_limit is False:
            return None
        sharing = (other.rate_limit for other in self.providers.values() if other.quota == profile.quota)
        return next((limits for limits in sharing if isinstance(limits, RateLimitConfig)), RateLimitConfig())

    def find(self, name: str, type: ModelType) -> tuple[str, LLMProviderConfig]:  # noqa: A002
        """Return the name and the profile meant by ``name``.

        ``"default"`` is a profile of that name, else the one ``default`` names, else the only one of its type.

        Raises:
            UnknownProfileError: with the nearest known name.
            WrongModelTypeError: with the profiles of the right type.
        """
        if not isinstance(name, str):
            raise UnknownProfileError(f"a profile's name is text, not {name!r}{nearest('', self.providers)}")
        fitting = [known for known, profile in self.providers.items() if profile.type is type]
        if name == DEFAULT and name not in self.providers:
            if self.default is not None:
                name = self.default
            elif len(fitting) == 1:
                name = fitting[0]
            else:
                raise UnknownProfileError(
                    f"which {type} profile is the default? Write default = NAME in the configuration, or name one of: "
                    f"{', '.join(fitting) or 'none is configured (LLMConfig.example() shows how)'}"
                )
        if name not in self.providers:
            raise UnknownProfileError(f"no profile {name!r}{nearest(name, self.providers)}")
        profile = self.providers[name]
        if profile.type is not type:
            raise WrongModelTypeError(
                f"profile {name!r} is of type {profile.type}, not {type}; of that type: {', '.join(fitting) or 'none'}"
            )
        return name, profile

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from plain values; file names are relative to the working directory."""
        return cls(**values)

    @classmethod
    def from_toml(cls, path: str | Path, *, secrets: str | None = None) -> Self:
        """Read a TOML file; file names in it are relative to it.

        Args:
            path: the file.
            secrets: what a file from someone else may name. ``"environment-prefix:APP_"`` allows environment variables
                that begin so, and no key file; ``"none"`` allows neither. By default it may name any: whoever writes
                the file then reads every variable, for ``base_url`` says where a key is sent.

        Raises:
            ConfigurationError: naming the file, the profile and the key.
        """
        return cls._read(Path(path), tomllib.loads, secrets)

    @classmethod
    def from_json(cls, path: str | Path, *, secrets: str | None = None) -> Self:
        """Read a JSON file of the same shape; a ``$schema`` in it is for editors. Arguments as for ``from_toml``.

        Raises:
            ConfigurationError: naming the file, the profile and the key.
        """
        return cls._read(Path(path), json.loads, secrets)

    @classmethod
    def _read(cls, path: Path, parse: Callable[[str], Any], secrets: str | None) -> Self:
        prefix = _allowed_prefix(secrets)
        try:
            values = parse(path.read_text(encoding="utf-8"))
            if not isinstance(values, dict):
                raise ValueError("a table is needed, with a table 'providers' in it")
            values.pop("$schema", None)
            config = cls(**anchor(values, _FILE_KEYS, path.parent))
            if secrets is not None:
                for name, profile in config.providers.items():
                    _check_allowed(name, profile, prefix)
            return config
        except OSError as error:
            raise ConfigurationError(f"{path}: {error.strerror}; LLMConfig.example({str(path)!r}) writes one") from None
        except ValueError as error:
            raise ConfigurationError(f"{path}: {error}") from None

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, *, prefix: str = "FACTFLOW_LLM") -> Self:
        """Build from variables such as ``FACTFLOW_LLM__PROVIDERS__CHAT__MODEL=gpt-4o``.

        Two underscores separate levels; names are lower-cased. Below ``OPTIONS`` a value is read as TOML if it is some.

        Raises:
            ConfigurationError: naming the profile and the key, or the prefix when no variable carries it.
        """
        values = from_environment(os.environ if environ is None else environ, prefix)
        return cls(**values)

    def to_toml(self, path: str | Path | None = None, *, overwrite: bool = False) -> str:
        """Write the profiles as TOML, inheritance flattened, and return the text.

        A key that is a reference is written as such; a literal key is left out, and so are an address that carries a
        user or a query, and options that may hold a secret (headers, proxies). A comment says so for each.

        Args:
            path: where to write; nothing is written without it.
            overwrite: an existing file is an error unless this is true.

        Raises:
            ConfigurationError: a value has no TOML form, or the file exists or cannot be written.
        """
        lines = [] if self.default is None else [f"default = {toml_value(self.default)}", ""]
        for name, profile in self.providers.items():
            lines.append(f"[providers.{toml_key(name)}]")
            for key in LLMProviderConfig.model_fields:
                value: Any = getattr(profile, key) if key in profile.model_fields_set else None
                if isinstance(value, SecretStr):
                    value = value.get_secret_value()
                    if not _REFERENCE.fullmatch(value):
                        lines.append('# api_key: a literal key is not written; write api_key = "${ENV_NAME}"')
                        continue
                if key == "base_url" and value is not None and shown_address(value) != value:
                    lines.append("# base_url: it carries a user or a query; write it by hand")
                    continue
                if key == "options" and value:
                    telling = [option for option in value if is_telling(option)]
                    lines += [f"# options.{option}: it may be secret; write it by hand" for option in telling]
                    value = {option: one for option, one in value.items() if option not in telling} or None
                if value is not None:
                    lines.append(f"{key} = {toml_value(value)}")
            lines.append("")
        text = "\n".join(lines)
        if path is not None:
            write_new(Path(path), text, overwrite=overwrite)
        return text

    @staticmethod
    def example(path: str | Path | None = None, *, overwrite: bool = False) -> str:
        """Return a commented configuration file to start from, and write it when a path is given."""
        text = files("factflow_llm").joinpath("llm.example.toml").read_text(encoding="utf-8")
        if path is not None:
            write_new(Path(path), text, overwrite=overwrite)
        return text

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON schema of the file, ``extends`` and ``bases`` included, for completion in editors."""
        schema = cls.model_json_schema()
        profile = schema["$defs"]["LLMProviderConfig"]
        profile["properties"]["rate_limit"]["anyOf"].insert(0, {"type": "string"})
        profile["properties"][EXTENDS] = {"type": "string", "description": "A base or a profile to inherit from."}
        base = profile | {"required": [], "title": "Base", "description": "Keys that profiles inherit."}
        schema["$defs"]["Base"] = base
        profile["anyOf"] = [{"required": [EXTENDS]}, {"required": profile.pop("required")}]
        schema["properties"]["bases"] = {"type": "object", "additionalProperties": {"$ref": "#/$defs/Base"}}
        schema["properties"]["$schema"] = {"type": "string"}
        return schema


def _plain(table: Any) -> Any:
    """Return the keys given to a profile built in code; a table from a file is plain already."""
    if isinstance(table, LLMProviderConfig):
        return {key: getattr(table, key) for key in table.model_fields_set}
    return table


def _allowed_prefix(secrets: str | None) -> str | None:
    """Read ``secrets``: the prefix of the variables that a file may name, ``None`` for no variable at all."""
    if secrets is None or secrets == "none":
        return None
    kind, _, prefix = secrets.partition(":") if isinstance(secrets, str) else ("", "", "")
    if kind != "environment-prefix" or not prefix:
        raise ConfigurationError(f'secrets = {secrets!r}: write "environment-prefix:NAME_", "none", or leave it out')
    return prefix


def _check_allowed(name: str, profile: LLMProviderConfig, prefix: str | None) -> None:
    """Raise unless a profile from someone else takes its secret from where the caller allowed it."""
    may = f'write api_key = "${{{prefix}…}}"' if prefix else "write the key itself"
    if profile.api_key_file is not None:
        raise ConfigurationError(f"profile {name!r}: api_key_file is not allowed in this file; {may}")
    variable = PROVIDERS[profile.provider].key_variable
    if profile.api_key is not None:
        reference = _REFERENCE.fullmatch(profile.api_key.get_secret_value())
        variable = reference[1] if reference else None
    if variable is not None and not (prefix and variable.startswith(prefix)):
        raise ConfigurationError(f"profile {name!r}: the environment variable {variable} is not allowed here; {may}")
