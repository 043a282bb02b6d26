"""Panels for notebooks: the dashboard to tune by hand, and the live view of a limiter at work."""

from simulators.dashboard.live import watch
from simulators.dashboard.panel import Dashboard

__all__ = ["Dashboard", "watch"]
