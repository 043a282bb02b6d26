"""The dashboard: choose a world, move the limiter's settings, see at once what comes of it, and leave with a file."""

from __future__ import annotations

import asyncio
import html
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from factflow_llm.errors import ConfigurationError
from factflow_llm.ratelimit.config import RateLimitConfig
from simulators.dashboard.choices import (
    Catalogue,
    Choices,
    beginning,
    code_of,
    config_code,
    other_world,
    spoken,
)
from simulators.dashboard.curves import Curves, curves_of
from simulators.dashboard.figures import Figures, figures_of, table
from simulators.dashboard.knobs import Knobs
from simulators.dashboard.layout import laid_out, make_buttons, reveal
from simulators.dashboard.page import (
    Messages,
    close_tree,
    copyable,
    expression_of,
    leave_place,
    put_on_page,
    take_place,
)
from simulators.dashboard.parameters import changed, config_of, values_of
from simulators.dashboard.runs import BackgroundRun, shorter_s
from simulators.dashboard.steps import Steps
from simulators.dashboard.view import MOST_PINS, RunView
from simulators.dashboard.world import WorldControls
from simulators.studies.verdict import verdict

if TYPE_CHECKING:
    from simulators.engine.result import SimResult
    from simulators.scenarios.scenario import Scenario

_COARSE_S = 0.12
"""What a run may take while a slider is dragged: with the drawing it stays below the 0.3 s that follow a hand."""
_OFFER_S = 2.0
_LOOK_EVERY_S = 0.25


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """A finished run as the panel knows it."""

    choices: Choices
    result: SimResult
    figures: Figures
    curves: Curves


class Dashboard:
    """Tune the limiter by hand in a notebook.

    Args:
        scenario: the world to begin with; others can be chosen.
        config: where the sliders stand at first.
        seed: decides every random draw.
        clients: independent clients on one quota.

    Attributes:
        controls: every control by name; setting its ``value`` is what a hand would do.
        buttons: every button by name; ``click()`` is what a hand would do.
        messages: what the panel says.
        choices: what is chosen, the last that goes together.
        patience_s: a run that takes longer goes on in the background, can be cancelled, and a shorter one is offered.
    """

    def __init__(
        self, scenario: Scenario, config: RateLimitConfig | None = None, *, seed: int = 0, clients: int = 1
    ) -> None:
        config = config or RateLimitConfig()
        self.choices = Choices(seed=seed, clients=clients, values=tuple(changed(config).items()))
        self.messages = Messages("trace", "save")
        self.patience_s = 1.0
        self._catalogue = Catalogue(scenario)
        self._steps = Steps()
        self._job: BackgroundRun | None = None
        self._task: asyncio.Task[None] | None = None
        self._now: FinishedRun | None = None
        self._before: FinishedRun | None = None
        self._speed: float | None = None
        self._pins: list[tuple[str, FinishedRun]] = []
        self._yardsticks: dict[Choices, SimResult] = {}
        self._shorter_s: float | None = None
        self._view = RunView()
        moved = self.messages.guard(self._moved)
        self._knobs = Knobs(config, moved)
        self._world = WorldControls(self._catalogue, self.choices, moved)
        self._file = widgets.Text("limiter.toml", description="file", layout={"width": "225px"})
        self._overwrite = widgets.Checkbox(False, description="overwrite", indent=False, layout={"width": "auto"})
        files = {"file": self._file, "overwrite": self._overwrite}
        self.controls: dict[str, Any] = self._knobs.sliders | self._world.controls | files
        self.controls["trace"].observe(self.messages.guard(self._read_trace, at="trace"), "value")
        self.controls["axis"].observe(self.messages.guard(self._change_axis), "value")
        self.buttons = make_buttons(
            self.messages,
            {
                "undo": self._undo, "reset": self._reset, "pin": self._pin, "unpin": self._unpin,
                "cancel": self._cancel, "shorter": self._shorten, "save": self._save, "code": self._show_code,
                "taken": self._steps.take_slider, "let-go": self._let_go,
            },
        )  # fmt: skip
        self._picture = widgets.Image(format="png", layout={"width": "100%", "max_width": "740px", "display": "none"})
        self._picture.add_class("ff-picture")
        self._table = widgets.HTML()
        self._code = widgets.VBox()
        self.widget = laid_out(
            self.messages,
            self.buttons,
            self._world.widget,
            settings=[self._knobs.widget],
            file=[self._file, self._overwrite],
            code=self._code,
            shown=[self._table, self._picture],
        )
        take_place(self)

    # --- what a user calls -------------------------------------------------------------------------------------------

    def show(self) -> None:
        """Show the panel below the cell, with a first run; the panel that the cell made before is gone."""
        if self._now is None and self._job is None:
            self.messages.guard(self._begin)()
        put_on_page(self)

    def _ipython_display_(self) -> None:
        self.show()

    @property
    def result(self) -> SimResult | None:
        """The last good run; one under way is waited for. ``None`` before the first."""
        if self._job is not None:
            self._job.wait()
            self.messages.guard(self._settled)(self._job)
        return None if self._now is None else self._now.result

    @property
    def config(self) -> RateLimitConfig:
        """The limiter's settings as chosen, the last that go together."""
        return self.choices.config

    def set(self, **values: Any) -> None:
        """Set several of the limiter's settings at once, to any value, not only to those the sliders offer.

        Raises:
            ConfigurationError: naming what is unknown, out of bounds, or does not go together.
        """
        self._go_to(replace(self.choices, values=tuple(changed(config_of(values_of(self.config) | values)).items())))

    def code(self) -> str:
        """Return the cell that reproduces the run shown.

        Raises:
            ConfigurationError: nothing was run yet.
        """
        return code_of(self._catalogue, self._shown().choices, lambda: expression_of(self._catalogue.given.workload))

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the settings of the run shown as TOML, with where they come from.

        Raises:
            ConfigurationError: nothing was run yet, the file exists, or the folder cannot be written.
        """
        shown = self._shown()
        told = [f"{key}: {value}" for key, value in shown.result.provenance.items() if key != "policy"]
        told += [f"{name}: {value:.4g}" for name, value in shown.figures.items()]
        shown.choices.config.to_toml(path, overwrite=overwrite, comment="\n".join(["tuned by hand", *told]))

    def close(self) -> None:
        """Stop what runs and take all widgets away."""
        self.messages.guard(self._close)()

    def _close(self) -> None:
        if self._job is not None:
            self._job.stop()
            self._job = None
        close_tree(self.widget)
        leave_place(self)

    def __repr__(self) -> str:
        state = "idle" if self._job is None else "running"
        return f"<Dashboard {state}, {self._catalogue.scenario(self.choices).name}, {config_code(self.config)}>"

    # --- from a move to a run ----------------------------------------------------------------------------------------

    def _moved(self, key: str) -> None:
        choices = self._chosen()
        if choices == self.choices:
            self.messages.say("")
        else:
            self._choose(choices, key)

    def _chosen(self) -> Choices:
        return replace(self._world.chosen(), values=tuple(changed(self._knobs.config()).items()))

    def _go_to(self, choices: Choices) -> None:
        self._stand_at(choices)
        if choices != self.choices:
            self._choose(choices, key="several")

    def _choose(self, choices: Choices, key: str) -> None:
        job = self._job_of(choices, coarse=self._steps.dragging)
        if self._steps.note(self.choices, key, coarse=job.coarse):
            self._before = self._now
        self.choices = choices
        self._start(job)

    def _let_go(self) -> None:
        if self._steps.let_go():
            self._begin()

    def _begin(self) -> None:
        self._start(self._job_of(self.choices))

    def _job_of(self, choices: Choices, *, coarse: bool = False) -> BackgroundRun:
        scenario, best = self._catalogue.scenario(choices), self._yardsticks.get(choices.world)
        length_s = math.inf if self._speed is None else self._speed * _COARSE_S
        coarse = coarse and length_s < scenario.horizon_s
        if coarse:
            scenario = beginning(scenario, length_s)
        return BackgroundRun(scenario, choices.config, choices.seed, choices.clients, best, coarse=coarse)

    def _start(self, job: BackgroundRun) -> None:
        if self._job is not None:
            self._job.stop()
        self._job = job.start()
        if job.wait(self.patience_s):
            self._settled(job)
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # no notebook: there is nobody to answer meanwhile
            job.wait()
            self._settled(job)
        else:
            self._task = loop.create_task(self._attend(job))

    async def _attend(self, job: BackgroundRun) -> None:
        """Tell how a long run goes on, until it has ended or another one has begun."""
        while job is self._job and not job.done:
            self.messages.guard(self._tell_progress)(job)
            await asyncio.to_thread(job.wait, _LOOK_EVERY_S)
        if job is self._job:
            self.messages.guard(self._settled)(job)

    def _tell_progress(self, job: BackgroundRun) -> None:
        if job.result is not None:
            if self._now is None or self._now.result is not job.result:
                self._take(job)
            self.messages.say("Done. The oracle, the yardstick, still runs: once for this scenario and seed.")
            return
        expected_s = job.expected_s()
        told = f"about {spoken(expected_s)}" if job.progress > 0 else "a while"
        self.messages.say(f"This run takes {told}; {job.progress:.0%} is done. The last result stays until then.")
        lengths = [length_s for _, length_s in self._catalogue.lengths(self.choices.workload)]
        self._shorter_s = shorter_s(job.scenario.workload.duration_s, expected_s, lengths, _OFFER_S)
        reveal(self.buttons["cancel"], True)
        reveal(self.buttons["shorter"], self._shorter_s is not None)
        if self._shorter_s is not None:
            self.buttons["shorter"].description = f"only the first {spoken(self._shorter_s)}"

    def _settled(self, job: BackgroundRun) -> None:
        """Take up what a run that has ended left behind."""
        if job is not self._job:
            return
        self._job = None
        self._speed = job.speed or self._speed
        for name in ("cancel", "shorter"):
            reveal(self.buttons[name], False)
        if job.error is not None:
            raise job.error
        if job.result is not None and job.coarse:
            self._look(job.result)
        elif job.result is not None:
            self.messages.say("")
            self._take(job)
        else:
            self.messages.say("Cancelled. The last good result stays; move anything to run again.")

    def _take(self, job: BackgroundRun) -> None:
        assert job.result is not None
        if job.yardstick is not None:
            self._yardsticks[self.choices.world] = job.yardstick
        figures = figures_of(job.result, job.yardstick)
        self._now = FinishedRun(self.choices, job.result, figures, curves_of(job.result, self._world.axis))
        self._knobs.follow_drag(True)
        self._draw()

    def _look(self, result: SimResult) -> None:
        """Draw the beginning of a run while a slider is dragged; table and file stay those of the last whole run."""
        whole_s = self._catalogue.scenario(self.choices).horizon_s
        self.messages.say(f"The first {spoken(result.horizon_s)} while you drag; the whole run when you let go.")
        self._show(replace(curves_of(result, self._world.axis), span_s=(0.0, whole_s)))

    def _draw(self) -> None:
        shown = self._shown()
        world = shown.choices.world
        others: list[tuple[str, Figures, bool]] = []
        if self._before is not None and self._before.choices.world == world:
            others.append(("previous run", self._before.figures, True))
        yardstick = self._yardsticks.get(world)
        if yardstick is not None:
            others.append(("oracle", figures_of(yardstick, yardstick), True))
        for label, pinned in self._pins:
            elsewhere = other_world(pinned.choices, world)
            named = f"{label} (not compared: {elsewhere})" if elsewhere else label
            others.append((named, pinned.figures, not elsewhere))
        said = "" if yardstick is None else html.escape(verdict(shown.result, yardstick))
        self._table.value = f"{table(shown.figures, others)}<div class='ff-verdict'>{said}</div>"
        self._show(shown.curves)

    def _show(self, curves: Curves) -> None:
        world = self.choices.world
        alike = [(label, pinned) for label, pinned in self._pins if pinned.choices.world == world]
        self._view.show(curves, [(label.partition(":")[0], pinned.curves) for label, pinned in alike])
        self._picture.value = self._view.png()
        reveal(self._picture, True)

    def _shown(self) -> FinishedRun:
        if self._now is None:
            msg = "nothing was run yet; show() the dashboard, or move a control"
            raise ConfigurationError(msg)
        return self._now

    # --- what the buttons do -----------------------------------------------------------------------------------------

    def _undo(self) -> None:
        if not self._stands_at_choices():
            self._stand_at(self.choices)
            self.messages.say("Back at the last settings that go together.")
        elif (before := self._steps.back()) is not None:
            self._before, self.choices = self._now, before
            self._stand_at(before)
            self._begin()
        else:
            self.messages.say("There is nothing to undo.")

    def _stands_at_choices(self) -> bool:
        try:
            return self._chosen() == self.choices
        except ConfigurationError:
            return False

    def _stand_at(self, choices: Choices) -> None:
        self._world.stand_at(choices)
        self._knobs.stand_at(choices.config)

    def _reset(self) -> None:
        self._go_to(replace(self.choices, values=()))

    def _pin(self) -> None:
        shown = self._shown()
        if len(self._pins) == MOST_PINS:
            self.messages.say(f"{MOST_PINS} runs are pinned already; unpin them first.")
            return
        moved = ", ".join(f"{name} {value}" for name, value in shown.choices.values)
        self._pins.append((f"pin {len(self._pins) + 1}: {moved or 'defaults'}", shown))
        self._draw()

    def _unpin(self) -> None:
        self._pins.clear()
        self._draw()

    def _cancel(self) -> None:
        if self._job is not None:
            self._job.stop()

    def _shorten(self) -> None:
        self.controls["length_s"].value = self._shorter_s

    def _save(self) -> None:
        path = Path(self._file.value.strip() or "limiter.toml")
        self.save(path, overwrite=self._overwrite.value)
        told = f"Saved {path.absolute()}. In production: RateLimitConfig.from_toml({path.name!r})"
        self.messages.say(told, done=True, at="save")

    def _show_code(self) -> None:
        code = copyable(self.code())
        for widget in self._code.children:
            close_tree(widget)
        self._code.children = (code,)
        self.messages.say("The cell below repeats the run shown, in any kernel of this folder.", done=True, at="save")

    def _read_trace(self, change: Any) -> None:
        if change["new"].strip():
            name = self._catalogue.add_file(change["new"].strip())
            self._world.offer_file(name)
            if not self.messages.is_error:
                self.messages.say(f"Opened {name}.", done=True, at="trace")

    def _change_axis(self, change: object) -> None:
        if self._now is not None:
            self._now = replace(self._now, curves=curves_of(self._now.result, self._world.axis))
            self._draw()
