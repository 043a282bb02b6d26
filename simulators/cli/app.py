"""The commands. Each returns what a notebook cell would; heavy parts load when a command needs them."""

from pathlib import Path
from typing import Annotated

import typer

from simulators.cli import buying, options
from simulators.cli.manners import Spoken, say_version

app = typer.Typer(
    cls=Spoken,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="""
    Try and tune the factflow-llm rate limiter in virtual time, against simulated providers.

    [bold]A first look[/bold], offline, in a second:

      factflow-llm simulate sample --provider openai-tier-1

    [bold]Your traffic, your settings:[/bold]

      factflow-llm tune requests.csv --provider openai-tier-1 --trials 40 --seed 7 --out limiter.toml

    and in llm.toml, which LLMConfig.from_toml loads: rate_limit = "limiter.toml"

    [bold]By hand, with sliders:[/bold]

      factflow-llm lab
    """,
)


@app.callback()
def _any_command(
    version: Annotated[  # its callback has said it
        bool, typer.Option("--version", metavar="", callback=say_version, is_eager=True, help="Say which this is.")
    ] = False,
) -> None:
    pass


@app.command()
def simulate(
    trace: options.Trace = None,
    provider: options.Provider = "openai-tier-1",
    policy: options.Policy = "ours",
    backlog: options.Workers = None,
    duration: options.Duration = None,
    columns: options.Columns = None,
    time_unit: options.TimeUnit = None,
    at: options.Events = None,
    quota: options.Quotas = None,
    seed: options.Seed = 0,
    clients: options.Clients = 1,
    shared: options.Shared = False,
    plot: options.Plot = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Run one policy on one provider and print the figures, beside those of an oracle that knows the quota.

    [bold]Examples[/bold]

      factflow-llm simulate
      factflow-llm simulate --backlog 64 --provider bucket --at 600:0.5 --at 1200:1
      factflow-llm simulate requests.jsonl --policy limiter.toml --clients 3 --plot overview.png
      factflow-llm simulate --provider openai-tier-1 --quota requests=300/min --quota tokens=60000/min
      factflow-llm simulate log.csv --columns time=created_at,input_tokens=prompt_tok --time-unit ms
    """
    from simulators.cli import inputs, outputs, reports
    from simulators.studies.parallel import World

    outputs.check_outputs({"--plot": plot}, overwrite=overwrite)
    workload = inputs.read_workload(trace, backlog, duration, columns, time_unit)
    (scenario,) = inputs.read_scenarios(workload, [provider], at or [], quota)
    world = World(scenario, scenario.name, seed, clients, shared)
    result = world.run(inputs.read_policy(policy, workload))
    reports.print_run(result, world.oracle(), json=json)
    if plot is not None:
        outputs.draw_overview(result, plot)


@app.command()
def replay(
    trace: options.TraceFile,
    provider: options.Provider = "openai-tier-1",
    policy: options.Policies = ["ours", "oracle"],  # noqa: B006 - typer reads it, nobody writes it
    duration: options.Duration = None,
    columns: options.Columns = None,
    time_unit: options.TimeUnit = None,
    speed: Annotated[float, typer.Option(metavar="FACTOR", help="Ask so many times as fast, bursts kept.")] = 1.0,
    at: options.Events = None,
    quota: options.Quotas = None,
    seed: options.Seed = 0,
    plot: options.Plot = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Describe a trace and ask the same again: what would other settings, or another provider, have made of it?

    A recording of ours also tells what really happened: it stands in the first row.

    [bold]Examples[/bold]

      factflow-llm replay recording.jsonl --provider azure-30k
      factflow-llm replay AzureLLMInferenceTrace_code.csv --provider openai-tier-3 --speed 10 --plot overview.png
    """
    from simulators.cli import inputs, outputs, reports
    from simulators.studies.parallel import World

    outputs.check_outputs({"--plot": plot}, overwrite=overwrite)
    asked = inputs.read_trace_window(trace, duration, columns, time_unit).sped_up(speed)
    (scenario,) = inputs.read_scenarios(asked, [provider], at or [], quota)
    policies = {word: inputs.read_policy(word, asked) for word in policy}
    recorded = None if duration or speed != 1.0 else inputs.recorded_figures(trace)
    world = World(scenario, scenario.name, seed)
    reports.print_replay(asked, world, policies, recorded, json=json)
    if plot is not None:
        outputs.draw_overview(world.run(policies[policy[0]]), plot)


@app.command()
def compare(
    ctx: typer.Context,
    trace: options.Trace = None,
    provider: options.Providers = ["openai-tier-1"],  # noqa: B006
    policy: options.Policies = ["oracle", "fixed", "classic-aimd", "ours"],  # noqa: B006
    backlog: options.Workers = None,
    duration: options.Duration = None,
    columns: options.Columns = None,
    time_unit: options.TimeUnit = None,
    at: options.Events = None,
    quota: options.Quotas = None,
    seeds: options.Seeds = 20,
    clients: options.Clients = 1,
    jobs: options.Jobs = None,
    journal: options.Journal = None,
    resume: options.Resume = False,
    plot: options.Plot = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    suite: options.Suite = False,
) -> None:
    """Run several policies in the same worlds and print means with 95 % confidence intervals.

    [bold]Examples[/bold]

      factflow-llm compare --backlog 64 --provider bucket --provider slots
      factflow-llm compare requests.csv --policy ours --policy limiter.toml --policy fixed:3 --plot frontier.png
      factflow-llm compare --suite --seeds 20 --plot frontier.png
      factflow-llm compare --suite --policy ours --policy inspect_ai
    """
    import simulators as sim
    from simulators.cli import inputs, keeping, outputs, reports
    from simulators.studies.suite import run_suite

    outputs.check_outputs({"--plot": plot}, overwrite=overwrite)
    if suite:
        inputs.refuse_beside(
            "--suite", ctx, {"policy", "seeds", "jobs", "journal", "resume", "plot", "overwrite", "json"}
        )
        contenders = inputs.read_contenders(ctx, policy)
        with keeping.journal(ctx, journal, resume=resume, overwrite=overwrite) as kept:
            measured = run_suite(contenders, seeds=seeds, jobs=jobs, progress=not json, journal=kept)
        if plot is not None:
            outputs.draw_frontier(measured, plot)
        reports.print_suite(measured, json=json)
        return
    workload = inputs.read_workload(trace, backlog, duration, columns, time_unit)
    scenarios = inputs.read_scenarios(workload, provider, at or [], quota)
    policies = {word: inputs.read_policy(word, workload) for word in policy}
    with keeping.journal(ctx, journal, resume=resume, overwrite=overwrite) as kept:
        comparison = sim.compare(
            scenarios, policies, seeds=seeds, clients=clients, jobs=jobs, progress=not json, journal=kept
        )
    if plot is not None:
        outputs.draw_frontier(comparison, plot)
    reports.print_comparison(comparison, scenarios, policies, json=json)


@app.command()
def tune(
    ctx: typer.Context,
    trace: options.Trace = None,
    provider: options.Providers = ["openai-tier-1"],  # noqa: B006
    backlog: options.Workers = None,
    duration: options.Duration = None,
    columns: options.Columns = None,
    time_unit: options.TimeUnit = None,
    at: options.Events = None,
    quota: options.Quotas = None,
    trials: Annotated[int, typer.Option(metavar="N", help="Settings to try; the first are the defaults.")] = 100,
    seed: options.Seed = 0,
    seeds: options.Seeds = 3,
    max_rejected_share: Annotated[
        float, typer.Option(metavar="SHARE", help="Largest share of 429s, in every scenario.")
    ] = 0.01,
    max_loss: Annotated[
        float, typer.Option(metavar="SHARE", help="What may be lost to the defaults in any world of the suite.")
    ] = 0.02,
    jobs: options.Jobs = None,
    journal: options.Journal = None,
    resume: options.Resume = False,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The settings, for LLMConfig.")] = Path("limiter.toml"),
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The tuned limiter at a glance; by default OUT with .png.")
    ] = None,
    study: Annotated[Path | None, typer.Option(metavar="FILE", help="All trials, as JSON for Study.load.")] = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Search for the settings that get most done while 429s stay rare, and write the file that production loads.

    The table is measured in worlds that the search never saw. The same seed writes the same file.

    [bold]Examples[/bold]

      factflow-llm tune requests.csv --provider openai-tier-1 --trials 40 --seed 7 --out limiter.toml
      factflow-llm tune --backlog 64 --provider bucket --provider slots --at 900:0.5 --max-rejected-share 0.02
    """
    import simulators as sim
    from simulators.cli import inputs, keeping, outputs, reports

    plot = plot or out.with_suffix(".png")
    outputs.check_outputs({"--out": out, "--plot": plot, "--study": study}, overwrite=overwrite)
    workload = inputs.read_workload(trace, backlog, duration, columns, time_unit)
    scenarios = inputs.read_scenarios(workload, provider, at or [], quota)
    with keeping.journal(ctx, journal, resume=resume, overwrite=overwrite) as kept:
        found = sim.tune(
            scenarios,
            trials=trials,
            seed=seed,
            seeds=seeds,
            jobs=jobs,
            max_rejected_share=max_rejected_share,
            max_loss=max_loss,
            progress=not json,
            journal=kept,
        )
    found.best_config.to_toml(out, overwrite=overwrite, comment=found.provenance)
    if study is not None:
        found.save(study, overwrite=overwrite)
    policies = reports.contestants(workload, found)
    unseen = range(seeds, 2 * seeds)
    comparison = sim.compare(scenarios, policies, seeds=unseen, jobs=jobs, progress=not json)
    outputs.draw_overview(sim.simulate(scenarios[0], found.best_config, seed=seeds), plot)
    reports.print_study(found, comparison, scenarios, policies, [out, plot, *([study] if study else [])], json=json)


app.command()(buying.plan)
app.command()(buying.pool)


@app.command()
def calibrate(
    recording: Annotated[str, typer.Argument(metavar="RECORDING", help="What a Recorder wrote in production.")],
    until: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Look at so much of it; the simulator is then tested on the rest."),
    ] = None,
    name: Annotated[str, typer.Option(metavar="NAME", help="Of the provider.")] = "calibrated",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The provider, as TOML for --provider.")] = None,
    policy: Annotated[
        str, typer.Option(metavar="POLICY", help=f"What the recorded clients ran: {options.POLICIES}.")
    ] = "ours",
    clients: Annotated[int, typer.Option(metavar="N", help="How many independent clients were recorded.")] = 1,
    plot: options.Plot = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Infer the provider behind a recording, say how well each figure is known, and measure the simulator's error.

    With --until the rest of the recording is foretold, and compared with what really happened; --plot draws that.

    [bold]Examples[/bold]

      factflow-llm calibrate recording.jsonl --out provider.toml
      factflow-llm calibrate recording.jsonl --until 3600 --policy limiter.toml --plot calibration.png
      factflow-llm tune recording.jsonl --provider provider.toml
    """
    import simulators as sim
    from factflow_llm import ConfigurationError
    from simulators.cli import inputs, outputs, reports

    outputs.check_outputs({"--out": out, "--plot": plot}, overwrite=overwrite)
    if plot is not None and until is None:
        msg = f"--plot {plot}: the picture compares with what calibration has not seen; add --until SECONDS"
        raise ConfigurationError(msg)
    recorded = sim.read_recording(recording)
    ran = inputs.read_policy(policy, recorded.trace())
    found = sim.calibrate(recorded, until, name=name)
    checked = None if until is None else found.validate(policy=ran, clients=clients)
    if out is not None:
        found.provider.to_toml(out, overwrite=overwrite, comment=found.report())
    if plot is not None and checked is not None:
        outputs.draw_calibration(checked, plot)
    reports.print_calibration(found, checked, [path for path in (out, plot) if path is not None], json=json)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def lab(
    ctx: typer.Context,
    to: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Copy the notebooks there first; those that are there stay as they are."),
    ] = None,
) -> None:
    """Open the notebooks in JupyterLab; whatever else is given goes to JupyterLab.

    From an installed package the notebooks are copied to ./factflow-notebooks, or to FOLDER.

    [bold]Examples[/bold]

      factflow-llm lab
      factflow-llm lab --to my-notebooks --no-browser --port 8899
    """
    from simulators.cli import notebooks

    raise typer.Exit(notebooks.open_lab(notebooks.folder(to), ctx.args))


@app.command()
def serve(
    provider: options.Provider = "openai-tier-1",
    quota: options.Quotas = None,
    host: Annotated[str, typer.Option(metavar="HOST", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="PORT", help="On which port.")] = 8080,
    speed: Annotated[float, typer.Option(metavar="FACTOR", help="Simulated seconds per second.")] = 1.0,
    seed: options.Seed = 0,
    answer: Annotated[
        str | None,
        typer.Option(
            metavar="KIND", help="What answers say: text, length, tool_call, structured, refusal or filtered."
        ),
    ] = None,
) -> None:
    """Serve a simulated provider over HTTP, for the real SDKs, until Ctrl-C; then say how the client behaved.

    [bold]Examples[/bold]

      factflow-llm serve --provider anthropic-start --port 8080
      OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=any python my_adapter.py
    """
    from simulators.cli import inputs
    from simulators.cli.outputs import say
    from simulators.server import serving

    sold = inputs.read_provider(provider, quota)
    served = serving.serve(sold, host=host, port=port, speed=speed, seed=seed, answer=answer, log=say)
    print(served.conduct)


@app.command()
def providers(json: options.Json = False) -> None:
    """List the simulated providers that come with the package, with their quotas.

    [bold]Examples[/bold]

      factflow-llm providers
      factflow-llm providers --json
    """
    from simulators.cli import reports

    reports.print_providers(json=json)
