"""Where the panel's buttons, tables and pictures stand."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from simulators.dashboard.page import CSS, HANDS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from simulators.dashboard.page import Messages

_WRAP = {"flex_flow": "row wrap", "align_items": "center"}
_BUTTONS = (
    ("undo", "undo", "go back to what was chosen before"),
    ("reset", "defaults", "all settings of the limiter back to their defaults"),
    ("pin", "pin run", "keep this run, to compare the next ones with it"),
    ("unpin", "unpin all", "forget the pinned runs"),
    ("cancel", "cancel", "stop the run; the last result stays"),
    ("shorter", "shorter", "run only the beginning of the workload"),
    ("save", "save configuration", "write the settings of the run shown as TOML"),
    ("code", "copy as code", "the cell that reproduces the run shown"),
)


def make_buttons(messages: Messages, pressed: Mapping[str, Callable[[], None]]) -> dict[str, Any]:
    """Return the buttons by name, those included that the page presses when a slider is taken and let go.

    Args:
        messages: what goes wrong is said there.
        pressed: what each does.
    """
    made = {}
    for name, label, tooltip in _BUTTONS:
        made[name] = widgets.Button(description=label, tooltip=tooltip, layout={"width": "auto"})
        place = "save" if name in ("save", "code") else None
        made[name].on_click(partial(_press, messages.guard(pressed[name], at=place)))
    for name in ("taken", "let-go"):
        made[name] = widgets.Button(tooltip="a slider is moved by hand", layout={"display": "none"})
        made[name].add_class(f"ff-{name}-slider")
        made[name].on_click(partial(_press, messages.guard(pressed[name])))
    for name in ("cancel", "shorter"):
        reveal(made[name], False)
    return made


def laid_out(
    messages: Messages,
    buttons: Mapping[str, Any],
    world: Any,
    *,
    settings: list[Any],
    file: list[Any],
    code: Any,
    shown: list[Any],
) -> Any:
    """Return the panel.

    Args:
        messages: what it says, and where.
        buttons: by name.
        world: the controls of the world.
        settings: the controls of the limiter.
        file: what names the file to save.
        code: where the code to copy goes.
        shown: what a run looks like.
    """
    left = widgets.VBox(
        [
            widgets.HBox([buttons[name] for name in ("undo", "reset", "pin", "unpin")], layout=_WRAP),
            *settings,
            widgets.HBox([*file, buttons["save"], buttons["code"]], layout=_WRAP),
            messages.places["save"],
            code,
        ],
        layout={"flex": "0 0 300px"},
    )
    told = widgets.HBox([messages.widget, buttons["cancel"], buttons["shorter"]], layout=_WRAP)
    right = widgets.VBox([told, *shown], layout={"flex": "1 1 0", "min_width": "0"})
    body = widgets.HBox([left, right])
    unseen = widgets.VBox([widgets.HTML(CSS), widgets.HTML(HANDS), buttons["taken"], buttons["let-go"]])
    panel = widgets.VBox([unseen, widgets.VBox([world, messages.places["trace"]]), body])
    panel.add_class("ff-panel")
    return panel


def reveal(widget: Any, visible: bool) -> None:
    """Show a widget, or hide it."""
    widget.layout.display = "" if visible else "none"


def _press(callback: Callable[[], None], button: object) -> None:
    callback()
