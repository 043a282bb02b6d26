"""Sliders for every setting of the limiter, to be moved by hand, by keyboard or by program."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from simulators.dashboard.parameters import UNSET, Parameter, Value, config_of, parameters, values_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from factflow_llm.ratelimit.config import RateLimitConfig

_OPEN_GROUP = "How it learns"


class Knobs:
    """One slider per setting, in groups.

    Args:
        config: where they stand at first.
        moved: called with a setting's name when its slider was moved.

    Attributes:
        sliders: by name.
        widget: all of them.
    """

    def __init__(self, config: RateLimitConfig, moved: Callable[[str], None]) -> None:
        self._moved = moved
        self._quiet = False
        values = values_of(config)
        self.sliders: dict[str, Any] = {
            parameter.name: self._slider(parameter, values[parameter.name]) for parameter in parameters()
        }
        groups: dict[str, list[Any]] = {_OPEN_GROUP: []}
        for parameter in parameters():
            hint = widgets.HTML(f"<div class='ff-hint'>{parameter.description}</div>")
            groups.setdefault(parameter.group, []).append(widgets.VBox([self.sliders[parameter.name], hint]))
        boxes = [widgets.VBox(rows) for rows in groups.values()]
        self.widget = widgets.Accordion(children=boxes, titles=tuple(groups), selected_index=0)

    def config(self) -> RateLimitConfig:
        """Return the configuration that the sliders stand for.

        Raises:
            ConfigurationError: when the values do not go together.
        """
        return config_of({name: _value(slider) for name, slider in self.sliders.items()})

    def stand_at(self, config: RateLimitConfig) -> None:
        """Move all sliders without telling anybody."""
        with self.quietly():
            for parameter, value in zip(parameters(), values_of(config).values(), strict=True):
                slider = self.sliders[parameter.name]
                if value not in parameter.stops:
                    slider.options = parameter.options(value)
                slider.value = UNSET if value is None else value
        self._mark()

    def follow_drag(self, follow: bool) -> None:
        """Tell of every move while a slider is dragged, or only of its release."""
        for slider in self.sliders.values():
            slider.continuous_update = follow

    @contextmanager
    def quietly(self) -> Iterator[None]:
        """Tell nobody of what moves meanwhile."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    def _slider(self, parameter: Parameter, value: Value) -> Any:
        slider = widgets.SelectionSlider(
            options=parameter.options(value),
            value=UNSET if value is None else value,
            description=parameter.name,
            tooltip=parameter.description,
            continuous_update=False,
            layout={"width": "auto"},
        )
        slider.add_class("ff-knob")
        slider.observe(lambda _: self._told(parameter.name), "value")
        return slider

    def _told(self, name: str) -> None:
        if not self._quiet:
            self._mark()
            self._moved(name)

    def _mark(self) -> None:
        """Make the names of what is not at its default stand out."""
        for parameter in parameters():
            slider = self.sliders[parameter.name]
            change = slider.remove_class if _value(slider) == parameter.default else slider.add_class
            change("ff-moved")


def _value(slider: Any) -> Value:
    return None if slider.value == UNSET else slider.value
