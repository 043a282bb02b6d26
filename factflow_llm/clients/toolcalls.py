"""Tool calls that arrive in pieces, told apart by what a server says of them: index, id, name, or nothing.

A piece belongs to the call with its id, else to the one with its index, else to the last. It begins a new call when it
brings an id or a name that its call does not have. So calls stay apart without an index, with one index for all, and
with an id repeated on every piece.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from factflow_llm.clients.wire import Pieces, unreadable
from factflow_llm.types import ToolCall, ToolCallDelta

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from factflow_llm.types import ProviderState


@dataclass(slots=True)
class OpenCall:
    """A call under way."""

    place: int | None
    id: str | None = None
    name: str | None = None
    arguments: Pieces = field(default_factory=Pieces)


class OpenCalls:
    """All calls of one streamed answer, in the order in which they began."""

    __slots__ = ("calls",)

    def __init__(self) -> None:
        self.calls: list[OpenCall] = []

    def take(
        self,
        place: int | None,
        id: str | None,  # noqa: A002
        name: str | None,
        arguments: str,
        state: ProviderState | None = None,
    ) -> ToolCallDelta:
        """Take one piece and say which call, counted from 0, it belongs to.

        Args:
            place: the index the server gave.
            id: the call's id, on the first piece or on all.
            name: the tool's name, on the first piece or on all.
            arguments: a piece of JSON text.
            state: what the provider wants back with the call.
        """
        number = self._find(place, id, name)
        if number is None:
            return self.begin(place, id, name, arguments, state)
        call = self.calls[number]
        new_id = id if call.id is None else None
        new_name = name if call.name is None else None
        call.id, call.name = call.id or id, call.name or name
        return ToolCallDelta(number, new_id, new_name, call.arguments.add(arguments), state)

    def begin(
        self,
        place: int | None,
        id: str | None,  # noqa: A002
        name: str | None,
        arguments: str,
        state: ProviderState | None = None,
    ) -> ToolCallDelta:
        """Begin a call; arguments as for ``take``. An id that another call has is none."""
        if any(call.id == id for call in self.calls):
            id = None  # noqa: A001
        call = OpenCall(place, id, name)
        self.calls.append(call)
        return ToolCallDelta(len(self.calls) - 1, id, name, call.arguments.add(arguments), state)

    def go_on(self, number: int, arguments: str) -> ToolCallDelta:
        """Take a piece of arguments for a call that is known."""
        return ToolCallDelta(number, arguments=self.calls[number].arguments.add(arguments))

    def _find(self, place: int | None, id: str | None, name: str | None) -> int | None:  # noqa: A002
        """Find the call that a piece belongs to; ``None`` when it begins one."""
        if not self.calls:
            return None
        known = None if id is None else self._last(lambda call: call.id == id)
        last = len(self.calls) - 1
        at = known if known is not None else last if place is None else self._last(lambda call: call.place == place)
        if at is None:
            return last if id is None and name is None else None
        call = self.calls[at]
        new_id = known is None and id is not None and call.id is not None
        if name is None:
            return None if new_id and place is None else at  # beside an index, an id new on every piece says nothing
        if new_id or (call.name is not None and call.name != name):
            return None
        same_again = call.name is not None and call.id is None and _is_whole(str(call.arguments))
        return None if same_again else at

    def _last(self, fits: Callable[[OpenCall], bool]) -> int | None:
        return next((number for number in reversed(range(len(self.calls))) if fits(self.calls[number])), None)

    def missing(self, answer_id: str | None, inputs: Mapping[int, str] | None = None) -> tuple[ToolCallDelta, ...]:
        """Return the pieces that no event brought but a whole call has: an id, and arguments, if only ``{}``.

        Args:
            answer_id: goes into the ids made here.
            inputs: arguments that a server gave beside the pieces, by the call's number.

        Raises:
            BadResponseError: a call never got a name.
        """
        pieces = []
        for number, call in enumerate(self.calls):
            if call.name is None:
                unreadable(f"tool_calls[{number}].function.name", None, "a name")
            arguments = "" if str(call.arguments).strip() else (inputs or {}).get(number, "{}")
            made = call_id(number, answer_id, {call.id for call in self.calls}) if call.id is None else None
            call.id = call.id or made
            if arguments or made:
                pieces.append(ToolCallDelta(number, made, None, arguments))
        return tuple(pieces)


def call_id(number: int, answer_id: str | None, taken: Collection[str | None]) -> str:
    """Make an id for a call that the server gave none: unlike that of any other call in the conversation."""
    tail = "".join(character for character in answer_id or "" if character.isalnum() and character.isascii())[-24:]
    id_ = f"call_{tail}_{number}" if tail else f"call_{number}"
    while id_ in taken:
        id_ += "_"
    return id_


def _is_whole(arguments: str) -> bool:
    try:
        json.loads(arguments)
    except (ValueError, RecursionError):
        return False
    return True


def join_calls(deltas: Sequence[ToolCallDelta]) -> tuple[ToolCall, ...]:
    """Join the pieces of a stream to its calls."""
    joined: dict[int, list[Any]] = {}
    for delta in deltas:
        call = joined.setdefault(delta.index, [None, None, [], None])
        call[0], call[1] = call[0] or delta.id, call[1] or delta.name
        call[2].append(delta.arguments)
        call[3] = call[3] or delta.provider_state
    return tuple(
        ToolCall(id or call_id(number, None, ()), name or "", "".join(arguments) or "{}", state)
        for number, (id, name, arguments, state) in joined.items()  # noqa: A001
    )
