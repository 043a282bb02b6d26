"""How each provider speaks HTTP, one file each: what it reads, what it answers, and in which words it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulators.providers.limit_headers import Api
from simulators.server.dialects.anthropic import Anthropic
from simulators.server.dialects.azure import Azure
from simulators.server.dialects.bedrock import Bedrock
from simulators.server.dialects.compatible import Cohere, Gemini, Groq, LiteLLM, Mistral, Nginx, OpenRouter, Voyage
from simulators.server.dialects.openai import OpenAI

if TYPE_CHECKING:
    from collections.abc import Mapping

    from simulators.server.dialects.base import Dialect

DIALECTS: Mapping[Api, Dialect] = {
    Api.OPENAI: OpenAI(),
    Api.AZURE: Azure(),
    Api.ANTHROPIC: Anthropic(),
    Api.BEDROCK: Bedrock(),
    Api.GEMINI: Gemini(),
    Api.GROQ: Groq(),
    Api.MISTRAL: Mistral(),
    Api.OPENROUTER: OpenRouter(),
    Api.COHERE: Cohere(),
    Api.VOYAGE: Voyage(),
    Api.LITELLM: LiteLLM(),
    Api.NGINX: Nginx(),
}
"""The dialect of each api that has one; a local model has no HTTP face."""
