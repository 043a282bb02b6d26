"""One profile: a model, who runs it, how it is reached, and what it draws on.

Secrets are references (``${ENV_NAME}``, a key file) or ``SecretStr``; they are looked up when a client is made, and
shown nowhere.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
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

from factflow_llm.clients.addresses import check_api_key, check_url
from factflow_llm.errors import ConfigurationError
from factflow_llm.prices import Prices  # noqa: TC001 - pydantic reads it
from factflow_llm.providers import PROVIDERS, ModelType, ProviderName
from factflow_llm.ratelimit.config import RateLimitConfig
from factflow_llm.routes import read_names
from factflow_llm.secrecy import masked, shown_address, shown_options
from factflow_llm.tables import nearest
from factflow_llm.unfit import Unfit, unfit

_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NARROW_KEYS = frozenset().union(*(entry.keys for entry in PROVIDERS.values()))
"""The profile keys that apply to some providers only."""


class Settings(BaseModel):
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


def referenced(secret: str) -> str | None:
    """Return the variable that ``${ENV_NAME}`` names; ``None`` when that is no reference."""
    reference = _REFERENCE.fullmatch(secret)
    return reference and reference[1]


def _check_secret(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    if not text:
        raise ValueError("it is empty; write ${ENV_NAME}, or leave it out for the provider's usual variable")
    if "${" not in text:
        check_api_key(text, variable="")
    elif referenced(text) is None:
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


class LLMProviderConfig(Settings):
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
        if (variable := referenced(text)) is not None:
            return check_api_key(os.environ.get(variable), variable=variable)
        return text
