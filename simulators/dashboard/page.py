"""What panels have in common on the page: their style in light and dark, their messages, and one panel per cell."""

from __future__ import annotations

import html
import re
import threading
import traceback
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import ipywidgets as widgets

from factflow_llm.errors import FactflowLLMError

if TYPE_CHECKING:
    from collections.abc import Callable

# Pictures have no background and black ink; on a dark page they are turned over, hues kept.
CSS = """<style>
.ff-panel { --ff-good: #00694a; --ff-bad: #a33b00; --ff-dim: #5f5f5f; --ff-line: #8888; max-width: 1240px; }
[data-jp-theme-light="false"] .ff-panel, .vscode-dark .ff-panel, [theme="dark"] .ff-panel {
  --ff-good: #4fd6ab; --ff-bad: #ff9a5c; --ff-dim: #b5b5b5; }
[data-jp-theme-light="false"] .ff-picture, .vscode-dark .ff-picture, [theme="dark"] .ff-picture {
  filter: invert(1) hue-rotate(180deg); }
.ff-panel .widget-html-content, .ff-panel .widget-label, .ff-panel .jp-RenderedHTMLCommon {
  color: var(--jp-ui-font-color1, inherit); }
.ff-panel .ff-hint { color: var(--ff-dim); font-size: 11px; line-height: 1.25; }
.ff-panel .ff-verdict { font-size: 12px; line-height: 1.35; padding: 4px 0; max-width: 740px; }
.ff-panel .ff-better { color: var(--ff-good); white-space: nowrap; }
.ff-panel .ff-worse { color: var(--ff-bad); white-space: nowrap; }
.ff-panel .ff-same { color: var(--ff-dim); }
.ff-panel .ff-figures { border-collapse: collapse; font-size: 12px; line-height: 1.25; width: 100%;
  font-variant-numeric: tabular-nums; }
.ff-panel .ff-figures th, .ff-panel .ff-figures td { padding: 2px 5px; text-align: right; font-weight: normal;
  border-bottom: 1px solid var(--ff-line); vertical-align: top; background: none; color: inherit; }
.ff-panel .ff-figures th[scope=row] { text-align: left; }
.ff-panel .ff-message { border-left: 3px solid var(--ff-line); padding: 3px 8px; line-height: 1.35; }
.ff-panel .ff-message.ff-error { border-color: var(--ff-bad); }
.ff-panel .ff-message.ff-done { border-color: var(--ff-good); }
.ff-panel .ff-message pre { white-space: pre-wrap; font-size: 11px; }
.ff-panel .ff-knob { flex-wrap: wrap; height: auto; }
.ff-panel .ff-knob > .widget-label { flex: 1 1 auto; width: auto; text-align: left; line-height: 18px; height: 18px; }
.ff-panel .ff-knob > .widget-readout { order: 1; min-width: 0; max-width: none; overflow: visible; line-height: 18px;
  height: 18px; text-align: right; }
.ff-panel .ff-knob > .slider-container { order: 2; flex: 1 0 calc(100% - 20px); margin: 0 10px 6px; }
.ff-panel .widget-html, .ff-panel .widget-html-content { margin: 0; line-height: 1.3; }
.ff-panel .ff-wide { overflow-x: auto; }
.ff-panel .ff-moved > .widget-label { font-weight: bold; }
.ff-panel .ff-moved > .widget-label::before { content: "● "; color: var(--jp-brand-color1, #2196f3); }
.ff-panel :focus-visible { outline: 2px solid var(--jp-brand-color1, #2196f3); outline-offset: 1px; }
.ff-panel .noUi-handle:focus { outline: 3px solid var(--jp-brand-color1, #2196f3); }
</style>"""


# Sliders tell of values, not of hands: two buttons nobody sees are clicked as a handle is taken and let go. Handles get
# the names of their settings, and say values as the panel shows them.
HANDS = """<img src="data:," alt="" hidden onerror="
const panel = this.closest('.ff-panel'), tell = what => panel.querySelector('.ff-' + what + '-slider')?.click();
const name = knob => { const handle = knob.querySelector('.noUi-handle'); if (!handle) return false;
  handle.setAttribute('aria-label', knob.querySelector('.widget-label').textContent);
  handle.setAttribute('aria-valuetext', knob.querySelector('.widget-readout').textContent); return true; };
const names = () => [...panel.querySelectorAll('.ff-knob')].filter(name).length;
let tries = 0; const until = setInterval(() => { if (names() || ++tries > 100) clearInterval(until); }, 100);
panel.addEventListener('focusin', names); panel.addEventListener('keyup', names);
panel.addEventListener('pointerdown', event => { if (!event.target.closest('.ff-knob .noUi-target')) return;
  tell('taken');
  document.addEventListener('pointerup', () => setTimeout(() => { tell('let-go'); names(); }, 0),
    {once: true, capture: true}); }, true);
">"""

_COPY = (
    "const text = this.closest('.ff-code').querySelector('textarea'); text.focus(); text.select();"
    "navigator.clipboard.writeText(text.value).then(() => this.textContent = 'copied')"
)


class Closeable(Protocol):
    """A panel."""

    def close(self) -> None:
        """Stop what runs and take its widgets away."""
        ...


_panels: dict[str | None, Closeable] = {}


def take_place(panel: Closeable) -> None:
    """Make this the panel of the running cell; the one the cell made before is closed."""
    cell = _running_cell()
    before = _panels.pop(cell, None)
    if before is not None:
        before.close()
    _panels[cell] = panel


def leave_place(panel: Closeable) -> None:
    """Forget a panel that was closed."""
    for cell in [cell for cell, there in _panels.items() if there is panel]:
        del _panels[cell]


def _running_cell() -> str | None:
    """Return the notebook's name for the cell that runs; ``None`` outside notebooks: one panel at a time there."""
    from IPython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)
    if kernel is None:
        return None
    cell = kernel.get_parent("shell").get("metadata", {}).get("cellId")
    return str(cell) if cell is not None else None


def close_tree(root: Any) -> None:
    """Close a widget, its children, and the layouts and styles that ipywidgets would keep for ever."""
    for child in getattr(root, "children", ()):
        close_tree(child)
    for part in ("layout", "style"):
        if root.has_trait(part):
            getattr(root, part).close()
    root.close()


class Messages:
    """What a panel says: at its head, or beside the button that was pressed. All its callbacks go through here in turn.

    Args:
        places: names of further places than the head, each with a widget of its own.

    Attributes:
        widget: the head.
        places: widgets by name; only one of all of them says something.
    """

    def __init__(self, *places: str) -> None:
        self.widget = widgets.HTML()
        self.places = {name: widgets.HTML() for name in places}
        self.text = ""
        self.is_error = False
        self._turn = threading.RLock()

    def say(self, text: str, *, done: bool = False, at: str | None = None) -> None:
        """Say something, at the head or at one of the places; nothing, to be silent."""
        kind = "ff-done" if done else ""
        self._put(text, f"<div role='status' class='ff-message {kind}'>{html.escape(text)}</div>", at)
        self.is_error = False

    def fail(self, error: Exception, at: str | None = None) -> None:
        """Say what went wrong: our own errors in their words, any other with its traceback, for it is our fault."""
        if isinstance(error, FactflowLLMError):
            told, more = str(error), ""
        else:
            told = f"{type(error).__name__}: {error}. The last good result stays. This is a fault of the laboratory."
            where = "".join(traceback.format_exception(error))
            more = f"<details><summary>where</summary><pre>{html.escape(where)}</pre></details>"
        self._put(told, f"<div role='alert' class='ff-message ff-error'>⚠ {html.escape(told)}{more}</div>", at)
        self.is_error = True

    def guard(self, callback: Callable[..., None], at: str | None = None) -> Callable[..., None]:
        """Return the callback, whose exceptions are said here: those of widgets otherwise vanish into a log.

        Only one runs at a time: JupyterLab hands what a user does to another thread than the one cells run in.
        """

        def guarded(*arguments: object) -> None:
            with self._turn:
                try:
                    callback(*arguments)
                except Exception as error:
                    self.fail(error, at)

        return guarded

    def _put(self, text: str, shown: str, at: str | None) -> None:
        self.text = text
        for name, widget in ({None: self.widget} | self.places).items():
            widget.value = shown if text and name == at else ""


def put_on_page(panel: Any) -> None:
    """Show a panel's widget below the running cell; where there are no cells, say what it is."""
    from IPython import display, get_ipython

    show: Any = display.display
    if getattr(get_ipython(), "kernel", None) is None:
        print(f"{panel!r}: open a notebook to see it, with `factflow-llm lab`")
    else:
        show(panel.widget)


def copyable(code: str) -> Any:
    """Return code to be read, and a button that copies it; where a browser forbids that, the text stands selected."""
    area = widgets.Textarea(code, rows=code.count("\n") + 1, layout={"width": "100%"})
    button = widgets.HTML(f'<button class="jupyter-button jp-Button" onclick="{_COPY}">copy</button>')
    box = widgets.VBox([area, button])
    box.add_class("ff-code")
    return box


def expression_of(trace: Any) -> str:
    """Return an expression for a trace that says the same in any kernel: it reads a file, which is written."""
    digest = zlib.crc32(trace.arrival_s.tobytes() + trace.input_tokens.tobytes() + trace.output_tokens.tobytes())
    path = Path(re.sub(r"\W+", "-", trace.name) + f"-{digest:08x}.jsonl.gz")
    if not path.exists():
        trace.write(path)
    return f"sim.read_trace({str(path)!r})"
