"""The commands that say what to buy: one provider that a workload needs, or several accounts as a pool."""

from pathlib import Path
from typing import Annotated

import typer

from simulators.cli import options

_Settings = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The limiter's settings; by default the defaults.")
]


def plan(
    ctx: typer.Context,
    trace: options.Trace = None,
    provider: options.Providers = ["openai-tier-1", "openai-tier-3"],  # noqa: B006
    max_wait: Annotated[float, typer.Option(metavar="SECONDS", help="95 % of the requests shall wait no longer.")] = 5,
    settings: _Settings = None,
    at: options.Events = None,
    quota: options.Quotas = None,
    clients: options.Clients = 1,
    shared: options.Shared = False,
    duration: options.Duration = None,
    columns: options.Columns = None,
    time_unit: options.TimeUnit = None,
    seeds: options.Seeds = 1,
    jobs: options.Jobs = None,
    journal: options.Journal = None,
    resume: options.Resume = False,
    plot: options.Plot = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Find which provider, or how much of its quota, a workload needs, and what happens if it is packed tighter.

    Name providers from the one you would rather have, usually the cheapest. Every size of quota is simulated.

    [bold]Examples[/bold]

      factflow-llm plan requests.csv --provider openai-tier-1 --provider openai-tier-3 --max-wait 10
      factflow-llm plan requests.csv --at noon:0.5 --clients 3 --provider bucket --provider bucket:requests=900/min
      factflow-llm plan recording.jsonl --provider my-tier.toml --settings limiter.toml --plot plan.png
    """
    import simulators as sim
    from factflow_llm import RateLimitConfig
    from simulators.cli import inputs, keeping, outputs, reports

    outputs.check_outputs({"--plot": plot}, overwrite=overwrite)
    config = None if settings is None else RateLimitConfig.from_toml(settings)
    workload = inputs.read_trace_window(trace or inputs.SAMPLE, duration, columns, time_unit)
    scenarios = inputs.read_scenarios(workload, provider, at or [], quota)
    with keeping.journal(ctx, journal, resume=resume, overwrite=overwrite) as kept:
        found = sim.plan(
            scenarios[0],
            providers=[scenario.provider for scenario in scenarios],
            max_wait_p95_s=max_wait,
            config=config,
            clients=clients,
            shared=shared,
            seeds=seeds,
            jobs=jobs,
            progress=not json,
            journal=kept,
        )
    if plot is not None:
        outputs.draw_plan(found, plot)
    reports.print_plan(found, workload, json=json)


def pool(
    trace: options.Trace = None,
    provider: options.Providers = ["openai-tier-1", "azure-30k", "anthropic-tier-1"],  # noqa: B006
    take: Annotated[int, typer.Option(metavar="N", help="So many accounts together.")] = 2,
    workers: Annotated[
        int | None,
        typer.Option(metavar="N", help="So many ask as fast as they are answered; by default at the times of TRACE."),
    ] = None,
    settings: _Settings = None,
    at: options.Events = None,
    duration: options.Duration = None,
    columns: options.Columns = None,
    time_unit: options.TimeUnit = None,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Find which accounts together do a workload soonest: every choice of them is run as a pool.

    Name an account as often as you have one like it. Calls go to whoever has room, as a profile's pool sends them.

    [bold]Examples[/bold]

      factflow-llm pool requests.csv --provider openai-tier-1 --provider azure-30k --provider anthropic-tier-1
      factflow-llm pool documents.csv --workers 50 -p bucket -p bucket -p bucket:requests=900/min
    """
    import simulators as sim
    from factflow_llm import RateLimitConfig
    from simulators.cli import inputs, reports

    config = None if settings is None else RateLimitConfig.from_toml(settings)
    workload = inputs.read_trace_window(trace or inputs.SAMPLE, duration, columns, time_unit)
    accounts = inputs.read_accounts(workload, provider, at or [])
    found = sim.plan_pool(accounts, take, config=config, workers=workers, seed=seed)
    reports.print_pools(found, workload, json=json)
