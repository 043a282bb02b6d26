"""The laboratory's event loop in virtual time, where tests look for it."""

from __future__ import annotations

from simulators.engine.virtual_loop import VirtualLoop, run_virtually

__all__ = ["VirtualLoop", "run_virtually"]
