"""The pages of the documentation that tell the API: one class a page, functions together, an index per package."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

_TITLES = {"factflow_llm": "Production: `factflow_llm`", "simulators": "Laboratory: `simulators`"}
_QUOTAS = ("Bucket", "FixedWindow", "SlidingWindow", "Utilisation", "Ramp", "Slots")
_ROOMS = {
    "factflow_llm.settings": "Configuration", "factflow_llm.profile": "Configuration",
    "factflow_llm.factory": "Configuration",
    "factflow_llm.status": "Configuration", "factflow_llm.providers": "Configuration",
    "factflow_llm.types": "Messages and answers",
    "factflow_llm.protocols": "Clients", "factflow_llm.clients": "Clients",
    "factflow_llm.ratelimit": "Rate limiting", "factflow_llm.signals": "Rate limiting", "factflow_llm.errors": "Errors",
    "factflow_llm.tokens": "Tokens", "factflow_llm.recorder": "Recording",
    "simulators.traces": "Traces", "simulators.scenarios": "Scenarios", "simulators.providers": "Providers",
    "simulators.policies": "Policies", "simulators.engine": "Runs", "simulators.studies": "Many runs",
    "simulators.calibration": "Calibration", "simulators.plots": "Plots", "simulators.dashboard": "By hand",
    "simulators.server": "A provider over HTTP",
}  # fmt: skip
_MADE = "<!-- made by: python -m reports api --write -->\n"


def api(jobs: int | None = None) -> dict[str, str]:
    """Return the pages by their paths."""
    return _package("factflow_llm") | _package("simulators")


def _package(name: str) -> dict[str, str]:
    package = importlib.import_module(name)
    public = {each: getattr(package, each) for each in package.__all__}
    if name == "simulators":
        quotas = importlib.import_module("simulators.providers.quotas")
        public |= {each: getattr(quotas, each) for each in _QUOTAS}
    told = {each: value for each, value in public.items() if inspect.isclass(value) or inspect.isfunction(value)}
    classes = {each: value for each, value in told.items() if inspect.isclass(value)}
    pages = {f"docs/api/{name}/{each}.md": _page(each, value) for each, value in classes.items()}
    functions = [_entry(each, value, 2) for each, value in told.items() if each not in classes]
    pages[f"docs/api/{name}/functions.md"] = "\n".join([_MADE, f"# Functions of `{name}`\n", *functions])
    short = {"factflow_llm": "production", "simulators": "laboratory"}[name]
    pages[f"docs/api/{short}.md"] = _index(name, told)
    return pages


def _page(name: str, value: Any) -> str:
    return f"{_MADE}\n{_entry(name, value, 1)}"


def _entry(name: str, value: Any, level: int) -> str:
    return f"::: {value.__module__}.{name}\n    options:\n      heading_level: {level}\n"


def _index(package: str, told: dict[str, Any]) -> str:
    rooms: dict[str, list[str]] = {}
    for name, value in told.items():
        room = next((title for prefix, title in _ROOMS.items() if value.__module__.startswith(prefix)), "More")
        page = f"{package}/{name}.md" if inspect.isclass(value) else f"{package}/functions.md"
        first = (inspect.getdoc(value) or "").split("\n\n")[0].replace("\n", " ").replace("|", "\\|")
        rooms.setdefault(room, []).append(f"| [`{name}`]({page}) | {first} |")
    ordered = [room for room in dict.fromkeys([*_ROOMS.values(), "More"]) if room in rooms]
    sections = ("\n".join([f"## {room}\n", "| | |", "|---|---|", *rooms[room], ""]) for room in ordered)
    return "\n".join([f"# {_TITLES[package]}\n", _MADE, *sections])
