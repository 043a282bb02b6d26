"""What befell a member that all others should hear of; it is said until a grant shows that it has arrived."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from factflow_llm.ratelimit.rejections import Reopened
    from factflow_llm.signals import Axis


class News:
    """What has not arrived yet, as far as is known.

    Attributes:
        rejected: when a rejected call was sent, and the axis that was named; ``None`` when none was.
        reopened: that the provider was seen to admit again.
        breaker: whether the breaker opened or was closed; ``None`` when neither.
    """

    __slots__ = ("_said", "breaker", "rejected", "reopened")

    def __init__(self) -> None:
        self.rejected: tuple[float, Axis | None] | None = None
        self.reopened: Reopened | None = None
        self.breaker: bool | None = None
        self._said: tuple[tuple[float, Axis | None] | None, Reopened | None, bool | None] = (None, None, None)

    def say(self) -> None:
        """Note that all of it is in the report that leaves now."""
        self._said = self.rejected, self.reopened, self.breaker

    def arrived(self) -> None:
        """Forget what was in the last report; what came after it is still to be said."""
        rejected, reopened, breaker = self._said
        if self.rejected is rejected:
            self.rejected = None
        if self.reopened is reopened:
            self.reopened = None
        if self.breaker is breaker:
            self.breaker = None
