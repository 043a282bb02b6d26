"""The old door to ``factflow_llm.headers``; kept for programs that were written before it moved."""

from factflow_llm.headers import LimitHeaders, parse_duration, parse_limits, parse_retry_after

__all__ = ["LimitHeaders", "parse_duration", "parse_limits", "parse_retry_after"]
