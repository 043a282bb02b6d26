"""A LiteLLM gateway that limits keys: words for null, and the moment of the reset in the message."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from factflow_llm.signals import Axis
from simulators.server.dialects.compatible import Compatible

if TYPE_CHECKING:
    from simulators.providers.catalogue import Provider
    from simulators.providers.machine import RejectionDetail, Verdict
    from simulators.server.dialects.base import Json


class LiteLLM(Compatible):
    """A LiteLLM gateway that limits keys: words for null, and the moment of the reset in the message."""

    def rejection(self, provider: Provider, verdict: Verdict, detail: RejectionDetail | None, operation: str) -> Json:
        """Name the key's limit."""
        if verdict.status != 429 or detail is None:
            return super().rejection(provider, verdict, detail, operation)
        kind = "requests" if verdict.axis is Axis.REQUESTS else "tokens"
        left = max(math.floor(detail.limit - detail.used), 0)
        message = (
            f"Rate limit exceeded for api_key: sk-XXXX. Limit type: {kind}. Current limit: {detail.limit:.0f}, "
            f"Remaining: {left}."
        )
        return {"error": {"message": message, "type": "None", "param": "None", "code": "429"}}


DIALECT = LiteLLM()
