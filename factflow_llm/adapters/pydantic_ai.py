"""Models for pydantic-ai, paced by a profile's limiter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from factflow_llm.adapters.sdks import anthropic_client, needs, openai_client
from factflow_llm.providers import ModelType, ProviderName
from factflow_llm.settings import DEFAULT

if TYPE_CHECKING:
    from factflow_llm.factory import LLMClientFactory


def model(factory: LLMClientFactory, provider_name: str = DEFAULT, **arguments: Any) -> Any:
    """Make a pydantic-ai model of a chat profile of OpenAI, Azure or Anthropic.

    ::

        agent = Agent(model(factory, "chat"), instructions="Say what is wrong.")

    Args:
        factory: it must stay open while the model is used.
        provider_name: the profile; ``api = "responses"`` there holds here, too.
        **arguments: further arguments of the model: ``settings``, ``profile``.

    Raises:
        ExtraMissingError: pydantic-ai is not installed.
        ConfigurationError: no such profile, or one of another provider.
    """
    name, profile = factory.config.find(provider_name, ModelType.CHAT)
    if profile.provider is ProviderName.ANTHROPIC:
        models: Any = needs("pydantic-ai", "pydantic_ai.models.anthropic")
        providers: Any = needs("pydantic-ai", "pydantic_ai.providers.anthropic")
        theirs = providers.AnthropicProvider(anthropic_client=anthropic_client(factory, name))
        return models.AnthropicModel(profile.model, provider=theirs, **arguments)
    models = needs("pydantic-ai", "pydantic_ai.models.openai")
    providers = needs("pydantic-ai", "pydantic_ai.providers.openai")
    theirs = providers.OpenAIProvider(openai_client=openai_client(factory, name))
    kind = models.OpenAIResponsesModel if profile.api == "responses" else models.OpenAIChatModel
    return kind(profile.model, provider=theirs, **arguments)
