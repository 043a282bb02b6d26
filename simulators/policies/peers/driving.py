"""Driving other people's limiters at the times of a simulation, without their clocks and without an event loop."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from factflow_llm.signals import Axis
from simulators.policies.published import Borrowed

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator
    from types import ModuleType

    from factflow_llm.ratelimit.line import Ticket
    from factflow_llm.signals import RateLimitSignal

_BREATH_S = 1e-6  # nobody is asked twice at one moment


class PeerClock:
    """The simulation's time, in the shape of the ``time`` module, of an event loop and of botocore's clock."""

    def __init__(self) -> None:
        self.now = 0.0

    def time(self) -> float:
        """Return the time."""
        return self.now

    monotonic = current_time = time

    def sleep(self, seconds: float) -> None:
        """Let no time pass: who would sleep is not asked again before it would wake."""

    def is_closed(self) -> bool:
        """Return that the loop runs on."""
        return False


@contextmanager
def as_its_own(module: ModuleType, **names: Any) -> Generator[None]:
    """Let a module's own names stand for others while it is called."""
    before = {name: getattr(module, name) for name in names}
    vars(module).update(names)
    try:
        yield
    finally:
        vars(module).update(before)


def finish(coroutine: Coroutine[Any, Any, Any] | Generator[Any, Any, Any]) -> Any:
    """Run a coroutine that does not have to wait; return what it returns.

    Raises:
        RuntimeError: it waited.
    """
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    coroutine.close()
    msg = f"{coroutine!r} waited, though it was asked when it need not have"
    raise RuntimeError(msg)


class PeerLine(Borrowed):
    """A limiter that either lets a call go when asked, or says when to ask again."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = PeerClock()
        self._leave: Any = None
        self._left: dict[Ticket, Any] = {}

    @abstractmethod
    def ask(self, now: float, ticket: Ticket) -> tuple[Any, float]:
        """Return leave to send (anything but ``None``), or when to ask again (``NEVER``: after the next settlement)."""

    @abstractmethod
    def hear(self, leave: Any, ticket: Ticket, signal: RateLimitSignal) -> None:
        """Tell the limiter how the call went that it gave leave to."""

    @override
    def turn_s(self, now: float, ticket: Ticket) -> float:
        if self._leave is None:
            self.clock.now = now
            self._leave, ask_again_s = self.ask(now, ticket)
            if self._leave is None:
                return max(ask_again_s, now + _BREATH_S)
        return now

    @override
    def admit(self, now: float, ticket: Ticket) -> None:
        super().admit(now, ticket)
        self._left[ticket], self._leave = self._leave, None

    @override
    def learn(self, now: float, ticket: Ticket, signal: RateLimitSignal) -> None:
        self.clock.now = now
        self.hear(self._left.pop(ticket), ticket, signal)


class RatePeer(PeerLine):
    """One whose limit is a rate."""

    axis = Axis.REQUESTS


class SlotPeer(PeerLine):
    """One whose limit is a number of calls in flight."""

    axis = Axis.CONCURRENCY
