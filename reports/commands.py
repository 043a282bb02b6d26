"""The page of the documentation that tells the commands, made from the commands themselves."""

from __future__ import annotations

import inspect
import re
from typing import Any

import typer

from simulators.cli.app import app

_HEAD = """# Commands

The main jobs without Jupyter. `factflow-llm` comes with the laboratory: `pip install "factflow-llm[lab]"`. Every
command has `--help`; `--json`, where there is one, prints numbers for machines and nothing else. Files that exist stay
as they are unless `--overwrite` is given.

`factflow-llm --install-completion` completes commands and options in your shell.

<!-- made by: nox -s docs -->
"""


def commands(jobs: int | None = None) -> dict[str, str]:
    """Return the page by its path."""
    group: Any = typer.main.get_command(app)
    sections = (_section(name, command) for name, command in group.commands.items())
    return {"docs/commands.md": "\n".join([_HEAD, *sections])}


def _section(name: str, command: Any) -> str:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    usage = " ".join(["factflow-llm", name, *(_optional(each) for each in arguments), "[OPTIONS]"])
    lines = [f"## {name}", "", f"    {usage}", "", *_prose(command.help), ""]
    if command.params:
        lines += ["| | | by default |", "|---|---|---|", *map(_row, command.params), ""]
    return "\n".join(lines)


def _optional(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    return name if argument.required else f"[{name}]"


def _prose(text: str) -> list[str]:
    """Return the help as Markdown: indented lines are commands, and there is no markup of the terminal's."""
    plain = re.sub(r"\[/?bold\]", "**", inspect.cleandoc(text))
    return [f"  {line}" if line.startswith("  ") else line for line in plain.splitlines()]


def _row(param: Any) -> str:
    if param.param_type_name == "argument":
        name = f"`{param.metavar or param.name.upper()}`"
    else:
        name = ", ".join(f"`{option}`" for option in param.opts) + (f" `{param.metavar}`" if param.metavar else "")
    meaning = re.sub(r"\s+", " ", param.help or "").replace("|", "\\|")
    return f"| {name} | {meaning} | {_default(param)} |"


def _default(param: Any) -> str:
    default = param.default
    if default is None or default is False or default in ((), []) or callable(default):
        return ""
    return ", ".join(f"`{each}`" for each in default) if isinstance(default, list | tuple) else f"`{default}`"
