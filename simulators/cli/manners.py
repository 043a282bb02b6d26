"""How all commands behave: what goes wrong is one line and an exit code, and ``--version`` says which this is."""

from typing import Any

import typer
from typer.core import TyperGroup

_STOPPED = 130


class Spoken(TyperGroup):
    """Commands whose refusals are one line of words and exit code 2, never a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        given = " ".join(ctx.args)
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stopped:
            typer.echo("\n".join(["stopped", *getattr(stopped, "__notes__", ())]), err=True)
            raise typer.Exit(_STOPPED) from None
        except typer.BadParameter as error:
            message = f"{error.format_message()} (given: {given}); see --help"
        except Exception as error:
            from factflow_llm.errors import FactflowLLMError  # --help need not wait for it

            if not isinstance(error, FactflowLLMError):
                raise
            message = str(error)
        typer.echo(f"error: {' '.join(message.split())}", err=True)
        raise typer.Exit(2)


def say_version(wanted: bool) -> None:
    """Say the version and end, if that is wanted."""
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"factflow-llm {version('factflow-llm')}")
        except PackageNotFoundError:
            typer.echo("factflow-llm, from a source tree")
        raise typer.Exit
