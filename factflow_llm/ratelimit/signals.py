"""The old door to ``factflow_llm.signals``; kept for programs that were written before it moved."""

from factflow_llm.signals import Axis, AxisLimit, Change, Outcome, RateLimitSignal, Reason

__all__ = ["Axis", "AxisLimit", "Change", "Outcome", "RateLimitSignal", "Reason"]
