"""What an answer costs, by the price lists of the ``genai-prices`` package (extra ``prices``).

A price belongs to who answered and to the model: the same open model costs something at one host and nothing at home.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from factflow_llm.types import Usage


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
