"""Models for the OpenAI Agents SDK, paced by a profile's limiter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from factflow_llm.adapters.sdks import needs, openai_client
from factflow_llm.providers import ModelType
from factflow_llm.settings import DEFAULT

if TYPE_CHECKING:
    from factflow_llm.factory import LLMClientFactory


def model(factory: LLMClientFactory, provider_name: str = DEFAULT) -> Any:
    """Make an ``agents.Model`` of a chat profile of OpenAI or Azure; ``api = "responses"`` there holds here, too.

    ::

        agent = Agent("Critic", instructions="Say what is wrong.", model=model(factory, "chat"))

    Raises:
        ExtraMissingError: openai-agents is not installed.
        ConfigurationError: no such profile, or one of another provider.
    """
    agents: Any = needs("openai-agents", "agents")
    name, profile = factory.config.find(provider_name, ModelType.CHAT)
    kind = agents.OpenAIResponsesModel if profile.api == "responses" else agents.OpenAIChatCompletionsModel
    return kind(model=profile.model, openai_client=openai_client(factory, name))
