"""Who runs models, one entry each: its clients, the package they need, its key and the profile keys that apply to it.

Whoever adds a provider adds an entry here. Settings, factory and errors ask the entry and know no provider by name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class ModelType(StrEnum):
    """What a model does."""

    CHAT = "chat"
    EMBEDDING = "embedding"


class ProviderName(StrEnum):
    """Who runs a model."""

    OPENAI = "openai"
    AZURE = "azure"
    ANTHROPIC = "anthropic"
    BEDROCK = "bedrock"
    HUGGINGFACE = "huggingface"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderEntry:
    """What the rest of the package knows about one provider.

    Attributes:
        clients: the public name of the client for each type of model it runs.
        package: the package whose import the clients need.
        imported_when_made: whether making a client imports the package; otherwise its first call does, in a thread.
        install: what ``pip install`` is told to get it.
        key_variable: the environment variable that usually holds the key; ``None`` when it takes none.
        keys: the keys of a profile that apply to it, beside those that apply to all.
        renamed: the client's argument for a profile's key, where the two differ.
        cache_is_free: whether its limits leave out the input tokens that a cache served.
        raised_by: top-level packages whose exceptions come from this provider, whatever client raised them.
    """

    clients: Mapping[ModelType, str]
    package: str
    imported_when_made: bool = True
    install: str = "factflow-llm"
    key_variable: str | None = None
    keys: frozenset[str]
    renamed: Mapping[str, str] = field(default_factory=dict)
    cache_is_free: bool = False
    raised_by: tuple[str, ...] = ()


_KEY = ("api_key", "api_key_file")
_WIRE = ("base_url", "timeout_s")

PROVIDERS: Mapping[ProviderName, ProviderEntry] = {
    ProviderName.OPENAI: ProviderEntry(
        clients={ModelType.CHAT: "OpenAIClient", ModelType.EMBEDDING: "OpenAIClient"},
        package="openai",
        key_variable="OPENAI_API_KEY",
        keys=frozenset({*_KEY, *_WIRE, "api"}),
        raised_by=("openai",),
    ),
    ProviderName.AZURE: ProviderEntry(
        clients={ModelType.CHAT: "AzureOpenAIClient", ModelType.EMBEDDING: "AzureOpenAIClient"},
        package="openai",
        key_variable="AZURE_OPENAI_API_KEY",
        keys=frozenset({*_KEY, *_WIRE, "deployment", "api_version", "api"}),
    ),
    ProviderName.ANTHROPIC: ProviderEntry(
        clients={ModelType.CHAT: "AnthropicClient"},
        package="anthropic",
        key_variable="ANTHROPIC_API_KEY",
        keys=frozenset({*_KEY, *_WIRE}),
        cache_is_free=True,
        raised_by=("anthropic",),
    ),
    ProviderName.BEDROCK: ProviderEntry(
        clients={ModelType.CHAT: "BedrockClient", ModelType.EMBEDDING: "BedrockEmbeddingClient"},
        package="boto3",
        install="factflow-llm[bedrock]",
        keys=frozenset({*_WIRE, "region"}),
        renamed={"base_url": "endpoint_url"},
        cache_is_free=True,
        raised_by=("botocore",),
    ),
    ProviderName.HUGGINGFACE: ProviderEntry(
        clients={ModelType.EMBEDDING: "HuggingFaceEmbeddingClient"},
        package="sentence_transformers",
        imported_when_made=False,
        install="factflow-llm[huggingface]",
        keys=frozenset({"device"}),
        raised_by=("huggingface_hub", "sentence_transformers", "transformers", "torch"),
    ),
}
"""Every provider's entry."""
