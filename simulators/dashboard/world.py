"""The controls that choose the world a run happens in: workload, provider, events, length, luck."""

from __future__ import annotations

import math
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from factflow_llm.signals import Axis
from simulators.dashboard.choices import EVENTS, Catalogue, Choices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

AUTOMATIC = "automatic"
_CHOSEN = ("workload", "provider", "events", "length_s", "seed", "clients")
_WIDE = {"width": "auto", "min_width": "220px", "flex": "1 1 0"}
_WRAP = {"flex_flow": "row wrap"}


class WorldControls:
    """Controls for all of ``Choices`` but the limiter's settings.

    Args:
        catalogue: what can be chosen.
        choices: what is chosen at first.
        moved: called with the name of a control that was moved.

    Attributes:
        controls: by name; ``axis`` says which limit is drawn, ``trace`` takes a file's path.
        widget: all of them.
    """

    def __init__(self, catalogue: Catalogue, choices: Choices, moved: Callable[[str], None]) -> None:
        self._catalogue = catalogue
        self._moved = moved
        self._quiet = False
        axes = [(AUTOMATIC, AUTOMATIC), *((str(axis).replace("_", " "), axis) for axis in Axis)]
        self.controls: dict[str, Any] = {
            "workload": _dropdown("workload", catalogue.workloads),
            "provider": _dropdown("provider", catalogue.providers),
            "events": _dropdown("events", EVENTS),
            "length_s": _dropdown("length", catalogue.lengths(choices.workload)),
            "trace": widgets.Text(
                placeholder="trace [--columns …], Enter",
                description="open trace",
                continuous_update=False,
                layout=_WIDE,
            ),
            "axis": _dropdown("limit shown", axes),
            "seed": widgets.BoundedIntText(choices.seed, 0, 10**9, description="seed", layout={"width": "180px"}),
            "clients": widgets.BoundedIntText(choices.clients, 1, 16, description="clients", layout={"width": "160px"}),
        }
        for name in _CHOSEN:
            self.controls[name].observe(partial(self._told, name), "value")
        rows = (("workload", "provider", "events", "length_s"), ("trace", "axis", "seed", "clients"))
        self.widget = widgets.VBox(
            [widgets.HBox([self.controls[name] for name in names], layout=_WRAP) for names in rows]
        )

    def chosen(self) -> Choices:
        """Return what the controls say, with the limiter's settings at their defaults."""
        return Choices(**{name: self.controls[name].value for name in _CHOSEN})

    def stand_at(self, choices: Choices) -> None:
        """Set all controls without telling anybody."""
        with self._quietly():
            self._offer_lengths(choices.workload)
            for name in _CHOSEN:
                self.controls[name].value = getattr(choices, name)

    def offer_file(self, name: str) -> None:
        """Add a trace that was read, and choose it."""
        with self._quietly():
            chosen = self.controls["workload"].value
            self.controls["workload"].options = self._catalogue.workloads
            self.controls["workload"].value = chosen
        self.controls["workload"].value = name

    def _told(self, name: str, change: object) -> None:
        if self._quiet:
            return
        if name == "workload":
            with self._quietly():
                self._offer_lengths(self.controls["workload"].value)
        self._moved(name)

    def _offer_lengths(self, workload: str) -> None:
        self.controls["length_s"].options = self._catalogue.lengths(workload)
        self.controls["length_s"].value = math.inf

    @property
    def axis(self) -> Axis | None:
        """Which limit to draw; ``None`` for the one that was cut most."""
        chosen = self.controls["axis"].value
        return None if chosen == AUTOMATIC else chosen

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False


def _dropdown(description: str, options: Any) -> Any:
    return widgets.Dropdown(options=options, description=description, layout=_WIDE)
