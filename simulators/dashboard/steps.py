"""What undo goes back to: every move is a step, but all moves of a slider while it is in somebody's hand are one."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from simulators.dashboard.choices import remember

if TYPE_CHECKING:
    from simulators.dashboard.choices import Choices, Step


@dataclass
class _Drag:
    """A slider in somebody's hand: what it moved, and whether the last run of it was coarse."""

    key: str = ""
    coarse: bool = False


class Steps:
    """The steps taken so far."""

    def __init__(self) -> None:
        self._taken: tuple[Step, ...] = ()
        self._drag: _Drag | None = None

    @property
    def dragging(self) -> bool:
        """Whether a slider is in somebody's hand."""
        return self._drag is not None

    def take_slider(self) -> None:
        """Note that a slider was taken."""
        self._drag = _Drag()

    def let_go(self) -> bool:
        """Note that the slider was let go; return whether its last run was coarse, and so has to be made whole."""
        drag, self._drag = self._drag, None
        if drag is None or not drag.key:
            return False
        *earlier, last = self._taken  # the page may send the drag's last value after this
        self._taken = (*earlier, replace(last, time_s=time.monotonic()))
        return drag.coarse

    def note(self, before: Choices, key: str, *, coarse: bool) -> bool:
        """Note a move of ``key`` away from ``before``; return whether it is a step of its own."""
        drag, taken = self._drag, self._taken
        if drag is None or drag.key != key:
            now_s = math.inf if drag is not None else time.monotonic()
            self._taken = remember(taken, before, key, now_s)
        if drag is not None:
            drag.key, drag.coarse = key, coarse
        return len(self._taken) > len(taken)

    def back(self) -> Choices | None:
        """Take the last step back; return what was chosen before it, ``None`` when there was none."""
        if not self._taken:
            return None
        *earlier, last = self._taken
        self._taken = tuple(earlier)
        return last.before
