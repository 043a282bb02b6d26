"""Who waits for a calibration: they see how far it is, and when they have seen enough, what was found is kept."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def _nobody() -> None:
    """Tell nobody."""


@dataclass
class Watch:
    """One who watches.

    Attributes:
        one_more: is called after each currency whose quotas were tried.
        cancelled: they interrupted (Ctrl-C, the notebook's stop button).
    """

    one_more: Callable[[], None] = field(default=_nobody)
    cancelled: bool = False

    @contextmanager
    def patience(self) -> Iterator[None]:
        """Take an interruption for the end of what is done inside, not of everything."""
        try:
            yield
        except KeyboardInterrupt:
            self.cancelled = True
