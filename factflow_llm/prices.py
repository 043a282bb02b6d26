"""What an answer costs: by a profile's own prices, else by the lists of ``genai-prices`` (extra ``prices``).

A price belongs to who answered and to the model: the same open model costs something at one host and nothing at home.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from factflow_llm.types import Usage

_MILLION = 1_000_000


class Prices(BaseModel):
    """A contract's own prices, in US dollars for a million tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    input: float = Field(ge=0, description="What is read.")
    output: float = Field(default=0.0, ge=0, description="What is written.")
    cached_input: float | None = Field(default=None, ge=0, description="What a cache served; by default as input.")

    def cost_usd(self, usage: Usage) -> float | None:
        """Return what a call costs; ``None`` where a count that matters was not told."""
        if usage.input_tokens is None or (usage.output_tokens is None and self.output):
            return None
        cached = 0 if self.cached_input is None else usage.cached_input_tokens or 0
        read = (usage.input_tokens - cached) * self.input + cached * (self.cached_input or 0.0)
        return (read + (usage.output_tokens or 0) * self.output) / _MILLION


def cost_usd(usage: Usage, *, model: str, origin: str) -> float | None:
    """Return the list price of a call, in US dollars.

    Args:
        usage: what the call consumed; cached and cache-write tokens have prices of their own.
        model: the model that answered.
        origin: who answered, such as ``openai api.openai.com``.

    Returns:
        ``None`` where it is unknown: a count that was not told, a host or a model without a listed price, or the extra
        not installed.
    """
    if usage.input_tokens is None or usage.output_tokens is None:
        return None
    try:
        import genai_prices
    except ImportError:
        return None
    counts = genai_prices.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cached_input_tokens,
        cache_write_tokens=usage.cache_write_tokens,
    )
    try:
        price = genai_prices.calc_price(counts, model, provider_api_url=f"https://{origin.partition(' ')[2]}")
    except (LookupError, ValueError):
        return None
    return float(price.total_price)
