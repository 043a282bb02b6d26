"""From a profile to its bare client: which class, which arguments, which of its options go where."""

from __future__ import annotations

import inspect
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from factflow_llm.clients.addresses import check_api_key
from factflow_llm.errors import ConfigurationError
from factflow_llm.providers import PROVIDERS
from factflow_llm.settings import LLMProviderConfig

if TYPE_CHECKING:
    from collections.abc import Callable

_SECRETS = frozenset({"api_key", "api_key_file"})  # looked up together, by resolve_api_key


def prepared(profile: LLMProviderConfig) -> Callable[[], Any]:
    """Return what makes the bare client: ``options`` that its constructor knows go there, others are preset.

    Raises:
        ConfigurationError: an option is unknown, or the key cannot be found.
    """
    entry = PROVIDERS[profile.provider]
    make = getattr(import_module("factflow_llm"), entry.clients[profile.type])
    known = inspect.signature(make).parameters
    given = {key: getattr(profile, key) for key in (*(entry.keys - _SECRETS), "dimensions")}
    arguments = {entry.renamed.get(key, key): value for key, value in given.items() if value is not None}
    if (key := profile.resolve_api_key()) is not None:
        arguments["api_key"] = key
    presets = {}
    for option, value in profile.options.items():
        if option in LLMProviderConfig.model_fields:
            raise ConfigurationError(f"options.{option} is a key of the profile itself; move it out of options")
        if option in known:
            arguments[option] = value
        elif "options" in known:
            presets[option] = value
        else:
            near = get_close_matches(option, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise ConfigurationError(f"options.{option} is unknown to {profile.provider}; {hint}")
    if presets:
        arguments["options"] = presets
    if entry.key_variable is not None and arguments.keys().isdisjoint({"api_key", "token_provider"}):
        check_api_key(None, variable=entry.key_variable)
    return partial(make, profile.model, **arguments)
