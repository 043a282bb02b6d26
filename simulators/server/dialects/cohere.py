"""Cohere by its compatibility path: a sentence, and nothing about when."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from simulators.server.dialects.compatible import OVERLOADED, Compatible, routes_under

if TYPE_CHECKING:
    from simulators.providers.catalogue import Provider
    from simulators.providers.machine import RejectionDetail, Verdict
    from simulators.server.dialects.base import ApiRoute, Json


class Cohere(Compatible):
    """Cohere by its compatibility path: a sentence, and nothing about when."""

    routes: ClassVar[tuple[ApiRoute, ...]] = routes_under("/compatibility/v1")

    def rejection(self, provider: Provider, verdict: Verdict, detail: RejectionDetail | None, operation: str) -> Json:
        """Say which key is limited to what."""
        if verdict.status != 429 or detail is None:
            return {"message": OVERLOADED}
        message = (
            f"You are using a Trial key, which is limited to {detail.limit:.0f} API calls / minute. You can continue "
            "to use the Trial key for free or upgrade to a Production key with higher rate limits at "
            "'https://dashboard.cohere.com/api-keys'."
        )
        return {"message": message}


DIALECT = Cohere()
