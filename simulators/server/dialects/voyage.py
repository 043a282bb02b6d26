"""Voyage: embeddings, and a ``detail`` for an error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulators.server.dialects.compatible import OVERLOADED, Compatible

if TYPE_CHECKING:
    from simulators.providers.catalogue import Provider
    from simulators.providers.machine import RejectionDetail, Verdict
    from simulators.server.dialects.base import Json


class Voyage(Compatible):
    """Voyage: embeddings, and a ``detail`` for an error."""

    def problem(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> Json:
        """Return a mistake."""
        return {"detail": message}

    def rejection(self, provider: Provider, verdict: Verdict, detail: RejectionDetail | None, operation: str) -> Json:
        """Say that it was too much."""
        if verdict.status != 429:
            return {"detail": OVERLOADED}
        return {"detail": "You have exceeded your rate limits. Please wait and try again later."}


DIALECT = Voyage()
