"""The live view: the dashboard's plots following a production limiter while it works, and sliders that retune it."""

from __future__ import annotations

import asyncio
import html
from collections import Counter, deque
from typing import TYPE_CHECKING, NamedTuple

import ipywidgets as widgets
import numpy as np

from factflow_llm.errors import ConfigurationError
from factflow_llm.signals import Axis, Change, Reason
from simulators.dashboard.curves import Curves, finite
from simulators.dashboard.knobs import Knobs
from simulators.dashboard.page import CSS, Messages, close_tree, leave_place, put_on_page, take_place
from simulators.dashboard.view import RunView
from simulators.plots.series import MOVES, per_minute

if TYPE_CHECKING:
    from collections.abc import Sequence

    from factflow_llm.ratelimit.limiter import AdaptiveRateLimiter
    from factflow_llm.ratelimit.metrics import AIMDMetrics

_MOST_WINDOWS = 120
_COUNTERS = {"succeeded": "succeeded", "rate_limited": "rate_limited", "overloaded": "overloaded", "other": "ignored"}


class LiveSample(NamedTuple):
    """What a limiter showed at a moment of the event loop's clock."""

    time_s: float
    metrics: AIMDMetrics


def watch(limiter: AdaptiveRateLimiter, *, every_s: float = 1.0, span_s: float = 600.0) -> Watch:
    """Follow a limiter at work, in the notebook in which it works; the last expression of a cell shows the view.

    Args:
        limiter: yours; it goes on when the view is closed.
        every_s: how often to look at it and redraw.
        span_s: how much of the past to show.

    Raises:
        ConfigurationError: outside an event loop, or for a number out of bounds.
    """
    return Watch(limiter, every_s=every_s, span_s=span_s)


class Watch:
    """A view of a limiter at work; see ``watch``.

    Attributes:
        limiter: the one that is watched.
        sliders: one per setting; moving one retunes the limiter at once.
        messages: what the view says.
    """

    def __init__(self, limiter: AdaptiveRateLimiter, *, every_s: float, span_s: float) -> None:
        if not 0 < every_s < span_s:
            msg = f"watch(): every_s = {every_s!r} must be above 0 and below span_s = {span_s!r}"
            raise ConfigurationError(msg)
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            msg = "watch() needs a running event loop; call it in a notebook's cell, or inside an async function"
            raise ConfigurationError(msg) from None
        self.limiter = limiter
        self.messages = Messages()
        self._every_s = every_s
        self._began_s = self._loop.time()
        self._samples: deque[LiveSample] = deque(maxlen=round(span_s / every_s) + 1)
        self._changes: deque[Change] = deque(maxlen=5000)
        self._unsubscribe = limiter.subscribe(self._changes.append)
        self._view = RunView()
        self._knobs = Knobs(limiter.config, self.messages.guard(self._retune))
        self.sliders = self._knobs.sliders
        self._picture = widgets.Image(format="png", layout={"width": "100%", "max_width": "740px", "display": "none"})
        self._picture.add_class("ff-picture")
        self._state = widgets.HTML()
        self.stop_button = widgets.Button(description="stop watching", tooltip="the limiter goes on")
        self.stop_button.on_click(lambda _: self.stop())
        self.widget = self._laid_out()
        take_place(self)
        self._look()
        self._task = self._loop.create_task(self._follow())

    def _ipython_display_(self) -> None:
        put_on_page(self)

    def __repr__(self) -> str:
        state = "stopped" if self._task.done() else "watching"
        return f"<Watch {state} {self.limiter!r}>"

    def stop(self) -> None:
        """Stop following; the last picture stays, and the limiter goes on."""
        if not self._loop.is_closed():
            # widgets speak from another thread than the one the limiter lives in
            self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        if not self._task.done():
            self._task.cancel()
            self._unsubscribe()
            self.messages.say("No longer watching. The limiter goes on.")

    def close(self) -> None:
        """Stop following and take all widgets away."""
        self.stop()
        close_tree(self.widget)
        leave_place(self)

    def curves(self) -> Curves:
        """Return the numbers of what was seen so far."""
        return curves_of_samples(tuple(self._samples), tuple(self._changes), self._began_s)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            self._look()
            try:
                # in a thread: the calls that are watched must not wait for a picture
                picture = await asyncio.to_thread(self._drawn, self.curves())
            except Exception as error:
                self.messages.fail(error)
                continue
            self._picture.value = picture
            self._picture.layout.display = ""

    def _look(self) -> None:
        self._samples.append(LiveSample(self._loop.time(), self.limiter.metrics))
        self._state.value = f"<code>{html.escape(repr(self.limiter))}</code>"

    def _drawn(self, curves: Curves) -> bytes:
        self._view.show(curves)
        return self._view.png()

    def _retune(self, name: str) -> None:
        retune = self.messages.guard(self.limiter.retune)
        self._loop.call_soon_threadsafe(retune, self._knobs.config())
        self.messages.say(f"Retuned: {name}, now {self.sliders[name].label}.", done=True)

    def _laid_out(self) -> widgets.VBox:
        left = widgets.VBox([self.stop_button, self._knobs.widget], layout={"flex": "0 0 300px"})
        right = widgets.VBox(
            [self.messages.widget, self._state, self._picture], layout={"flex": "1 1 0", "min_width": "0"}
        )
        panel = widgets.VBox([widgets.HTML(CSS), widgets.HBox([left, right])])
        panel.add_class("ff-panel")
        return panel


def curves_of_samples(samples: Sequence[LiveSample], changes: Sequence[Change], began_s: float) -> Curves:
    """Return the numbers of a limiter that was looked at twice or more; times count from ``began_s``.

    Nobody tells a limiter's view how long each call waited: the wait is estimated as the line's length divided by how
    fast it moves (Little's law).
    """
    axis = _axis_of(changes)
    first_s = samples[0].time_s
    shown = [change for change in changes if change.axis is axis and change.time_s >= first_s]
    seen = [(sample.time_s, _limit(sample.metrics, axis)) for sample in samples]
    seen += [(change.time_s, change.new) for change in shown]
    times, limits = (np.array(column, dtype=np.float64) for column in zip(*sorted(seen), strict=True))
    windows = samples[:: -(-len(samples) // _MOST_WINDOWS)]
    edges = np.array([sample.time_s for sample in windows]) - began_s
    ends = [sample.metrics for sample in windows[1:]]
    rates = {
        outcome: np.diff([getattr(sample.metrics, counter) for sample in windows]) * 60.0 / np.diff(edges)
        for outcome, counter in _COUNTERS.items()
    }
    waiting = np.array([metrics.queued for metrics in ends], dtype=np.float64)
    in_flight = np.array([metrics.in_flight for metrics in ends], dtype=np.float64)
    moved = np.sum(list(rates.values()), axis=0) / 60.0
    marks: dict[str, tuple[list[float], list[float]]] = {}
    for change in shown:
        if change.reason not in MOVES:
            at, height = marks.setdefault(str(change.reason), ([], []))
            at.append(change.time_s - began_s)
            height.append(change.new * per_minute(axis))
    used = {Axis.REQUESTS: rates["succeeded"], Axis.CONCURRENCY: in_flight}.get(axis, np.zeros(len(ends)))
    return Curves(
        axis=axis,
        span_s=(float(edges[0]), float(edges[-1])),
        limit=(times - began_s, finite(limits * per_minute(axis))),
        capacity=(np.empty(0), np.empty(0)),
        marks={reason: (np.array(at), np.array(height)) for reason, (at, height) in marks.items()},
        edges_s=edges,
        used=used,
        outcomes=rates,
        waiting=waiting,
        in_flight=in_flight,
        waits={"estimated": np.divide(waiting, moved, out=np.full(len(ends), np.nan), where=moved > 0)},
    )


def _axis_of(changes: Sequence[Change]) -> Axis:
    cuts = Counter(change.axis for change in changes if change.reason is Reason.RATE_LIMITED)
    return max(sorted(cuts), key=lambda axis: cuts[axis], default=Axis.REQUESTS)


def _limit(metrics: AIMDMetrics, axis: Axis) -> float:
    return {
        Axis.REQUESTS: metrics.requests_per_s,
        Axis.INPUT_TOKENS: metrics.input_tokens_per_s,
        Axis.OUTPUT_TOKENS: metrics.output_tokens_per_s,
        Axis.TOKENS: metrics.tokens_per_s,
        Axis.CONCURRENCY: metrics.concurrency_limit,
    }[axis]
