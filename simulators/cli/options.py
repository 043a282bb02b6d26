"""The arguments and options that commands share, each described once."""

from pathlib import Path
from typing import Annotated

import typer

POLICY_WORDS = ("ours", "oracle", "retry-only", "fixed", "classic-aimd")
_PROVIDERS = "A preset (see factflow-llm providers), one with other quotas (bucket:requests=300/min), or a TOML file"
POLICIES = f"{', '.join(POLICY_WORDS)}, fixed:RATE (requests/s), or a settings file .toml"

Trace = Annotated[
    str | None, typer.Argument(metavar="TRACE", help="A trace file, or 'sample' (the default): half an hour of chat.")
]
TraceFile = Annotated[str, typer.Argument(metavar="TRACE", help="A trace or a recording, or 'sample'.")]
Columns = Annotated[
    str | None,
    typer.Option(metavar="MAP", help="Which column of TRACE says what: time=created_at,input_tokens=prompt_tok,…"),
]
TimeUnit = Annotated[str | None, typer.Option(metavar="UNIT", help="What its numbers of time count: s, ms, us or ns.")]
Workers = Annotated[
    int | None,
    typer.Option("--backlog", metavar="WORKERS", help="Instead of a trace: so many callers who never pause."),
]
Duration = Annotated[
    float | None,
    typer.Option("--duration", metavar="SECONDS", help="Use so much of the trace (all), or of the backlog (1800)."),
]
Provider = Annotated[str, typer.Option("--provider", "-p", metavar="PROVIDER", help=f"{_PROVIDERS}.")]
Providers = Annotated[
    list[str], typer.Option("--provider", "-p", metavar="PROVIDER", help=f"{_PROVIDERS}; repeat for several.")
]
Quotas = Annotated[
    list[str] | None,
    typer.Option(
        "--quota",
        metavar="AXIS=NUMBER/SPAN",
        help="Instead of the provider's own: requests=300/min, tokens=2e6/day, concurrency=20; repeatable.",
    ),
]
Events = Annotated[
    list[str] | None,
    typer.Option(
        "--at",
        metavar="MOMENT:FACTOR",
        help="From then on quotas are FACTOR times nominal: 600:0.5, noon:0.5, 12:30:1 (UTC, TRACE with dates).",
    ),
]
Policy = Annotated[str, typer.Option("--policy", metavar="POLICY", help=f"{POLICIES}.")]
Policies = Annotated[list[str], typer.Option("--policy", metavar="POLICY", help=f"{POLICIES}; repeat for several.")]
Seed = Annotated[int, typer.Option(metavar="N", help="Decides every random draw; the same seed gives the same bytes.")]
Seeds = Annotated[int, typer.Option(metavar="N", help="Worlds per scenario.")]
Clients = Annotated[int, typer.Option(metavar="N", help="Independent clients that share the quota.")]
Shared = Annotated[bool, typer.Option("--shared", metavar="", help="Clients of ours share what they learn, too.")]
Jobs = Annotated[int | None, typer.Option(metavar="N", help="Processes; by default one per core.")]
Journal = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Keep every finished run; interrupted, the same command goes on with FILE."),
]
Resume = Annotated[
    bool, typer.Option("--resume", metavar="", help="Go on where the same command was stopped with Control-C.")
]
Plot = Annotated[Path | None, typer.Option(metavar="FILE", help="Draw a picture: .png, .svg or .pdf.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", metavar="", help="Existing files may be replaced.")]
Suite = Annotated[
    bool,
    typer.Option("--suite", metavar="", help="All limiters, installed peers included, in all worlds of the suite."),
]
Json = Annotated[bool, typer.Option("--json", metavar="", help="Print JSON for machines, and nothing else.")]
