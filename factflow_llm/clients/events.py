"""Server-sent events out of bytes, as they come: names and data, undecoded, for data may be anything.

Lines end in LF, CR LF or CR; an event that the end of the stream cuts short of its empty line is given nevertheless.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator


class Event(NamedTuple):
    """One event: its name, empty for most, and its data."""

    name: bytes
    data: bytes


class EventDecoder:
    """Cut a stream of bytes into events."""

    __slots__ = ("_data", "_name", "_rest")

    def __init__(self) -> None:
        self._rest = b""
        self._name = b""
        self._data: list[bytes] = []

    def feed(self, received: bytes) -> Iterator[Event]:
        """Take what was received; give each event that it completes."""
        if self._rest:
            received = self._rest + received
        if b"\r" in received:
            held = received.endswith(b"\r")  # its LF may be on the way
            received = received.removesuffix(b"\r").replace(b"\r\n", b"\n").replace(b"\r", b"\n") + b"\r" * held
        *lines, self._rest = received.split(b"\n")
        for line in lines:
            if line[:5] == b"data:":
                self._data.append(line[6:] if line[5:6] == b" " else line[5:])
            elif not line:
                if self._data or self._name:
                    yield self._event()
            elif line[:6] == b"event:":
                self._name = line[6:].strip()

    def end(self) -> Iterator[Event]:
        """Give what is left when the stream has ended."""
        yield from self.feed(b"\n\n")

    def _event(self) -> Event:
        event = Event(self._name, self._data[0] if len(self._data) == 1 else b"\n".join(self._data))
        self._name, self._data = b"", []
        return event
