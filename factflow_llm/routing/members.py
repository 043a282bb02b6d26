"""A profile among others that may answer instead of it, and for how long it is passed over when it cannot."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, TypeVar

from factflow_llm.errors import ErrorMetadata, ErrorReason, LLMErrorClassification

if TYPE_CHECKING:
    from collections.abc import Sequence

    from factflow_llm.types import Message, ProviderState

MemberT = TypeVar("MemberT", bound="Member")

_log = logging.getLogger(__name__)

SHUNNED_S = 30.0
"""How long a member that failed for its own sake is passed over, before it is tried again."""
_STUMBLES = 5
"""So many failures of its host in a row, and no answer among them, and a member is passed over, too."""
_REMEMBERED = 10_000
_OURS = frozenset({ErrorReason.CONFIGURATION, ErrorReason.CLOSED, ErrorReason.MISUSE, ErrorReason.BUDGET})


class Member:
    """One profile's client among those that may answer.

    Attributes:
        name: the profile's.
        client: its client, or the pool that it is.
        log: where it is told that the member is passed over, and answers again.
        shunned_until_s: until when it is passed over, on the event loop's clock.
        stumbles: failures of its host since it last answered.
    """

    def __init__(self, name: str, client: Any, *, log: logging.Logger = _log) -> None:
        self.name = name
        self.client = client
        self.log = log
        self.shunned_until_s = 0.0
        self.stumbles = 0
        self._told = False

    def __repr__(self) -> str:
        return f"<member {self.name!r}{' passed over' if self.shunned else ''}>"

    @property
    def shunned(self) -> bool:
        """Whether it is passed over now."""
        return asyncio.get_running_loop().time() < self.shunned_until_s

    def shun(self, error: ErrorMetadata) -> None:
        """Pass it over for a while; the log says so once, until it answers again."""
        if not self._told:
            self._told = True
            self.log.warning("profile %r is passed over, and tried again every %.0f s: %s", self.name, SHUNNED_S, error)
        self.shunned_until_s = asyncio.get_running_loop().time() + SHUNNED_S

    def stumble(self, error: ErrorMetadata) -> None:
        """Note a failure that the next call need not meet; pass it over when there are too many in a row."""
        self.stumbles += 1
        if self.stumbles >= _STUMBLES:
            self.shun(error)

    def attempt_failed(self, error: ErrorMetadata) -> bool:
        """Note it; return whether the call had better be made elsewhere than be repeated here."""
        if error.classification is LLMErrorClassification.RETRYABLE:
            self.stumble(error)
        return self.shunned

    def answered(self) -> None:
        """Note an answer."""
        self.stumbles = 0
        if self._told and not self.shunned:
            self._told = False
            self.log.info("profile %r answers again", self.name)

    def welcome(self) -> None:
        """Pass it over no longer: it has answered."""
        self.shunned_until_s = 0.0
        self.answered()


def is_members_fault(error: ErrorMetadata) -> bool:
    """Tell whether another account or provider may do what this one could not; never for a request that is wrong."""
    if error.reason in _OURS:
        return False
    return error.fatal or error.classification is not LLMErrorClassification.TERMINAL


def open_first(members: Sequence[MemberT]) -> list[MemberT]:
    """Return those that are not passed over; where all are, the one whose time is over first, so that nobody storms."""
    open_ = [member for member in members if not member.shunned]
    return open_ or [min(members, key=lambda member: member.shunned_until_s)]


class Memory:
    """Who gave which opaque state, so that a conversation goes on where it began."""

    def __init__(self) -> None:
        self._givers: OrderedDict[int, str] = OrderedDict()

    def note(self, name: str, answer: Any) -> None:
        """Remember who gave the states of an answer, or of its last chunk."""
        states = [getattr(answer, "provider_state", None)]
        states += [call.provider_state for call in getattr(answer, "tool_calls", ()) if hasattr(call, "arguments")]
        for state in states:
            if state is not None:
                self._givers[_mark(state)] = name
                while len(self._givers) > _REMEMBERED:
                    self._givers.popitem(last=False)

    def giver(self, messages: Sequence[Message]) -> str | None:
        """Return who gave the latest state in a conversation; ``None`` where there is none, or nobody knows."""
        for message in reversed(messages):
            states = [getattr(message, "provider_state", None)]
            states += [call.provider_state for call in getattr(message, "tool_calls", ())]
            for state in states:
                if state is not None and (name := self._givers.get(_mark(state))) is not None:
                    return name
        return None


def _mark(state: ProviderState) -> int:
    return hash((state.origin, state.data))
