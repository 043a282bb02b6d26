"""What an application says about its models: named profiles, from TOML, JSON, a dict or the environment.

A key that is not known is an error, never ignored. What a profile may say is in ``profile.py``.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

from pydantic import Field, SecretStr, model_validator

from factflow_llm.errors import ConfigurationError, UnknownProfileError, WrongModelTypeError
from factflow_llm.files import write_new
from factflow_llm.profile import LLMProviderConfig, Settings, referenced
from factflow_llm.providers import PROVIDERS, ModelType, ProviderName
from factflow_llm.ratelimit.config import RateLimitConfig
from factflow_llm.routes import check_routes, with_members_model
from factflow_llm.secrecy import is_telling, shown_address
from factflow_llm.tables import EXTENDS, anchor, from_environment, inherit, nearest, toml_key, toml_value

__all__ = ["DEFAULT", "LLMConfig", "LLMProviderConfig", "ModelType", "ProviderName"]

DEFAULT = "default"
"""The profile name that stands for ``LLMConfig.default``."""

_FILE_KEYS = ("rate_limit", "api_key_file")


class LLMConfig(Settings):
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
                    if referenced(value) is None:
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
        variable = referenced(profile.api_key.get_secret_value())
    if variable is not None and not (prefix and variable.startswith(prefix)):
        raise ConfigurationError(f"profile {name!r}: the environment variable {variable} is not allowed here; {may}")
