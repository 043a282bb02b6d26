"""What each command says about what it did: a table for people, or a document for machines."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from simulators import policies as yardsticks
from simulators.cli.outputs import print_json, records, say, show, tell
from simulators.policies.by_the_book import ByTheBook, by_the_book
from simulators.policies.ours import Adaptive
from simulators.policies.peers import absent_peers
from simulators.providers import catalogue
from simulators.providers.calls import Call
from simulators.providers.machine import ProviderMachine
from simulators.scenarios.scenario import Backlog, Scenario
from simulators.scenarios.worlds import absent_worlds
from simulators.streams import Streams
from simulators.studies.comparison import HEADLINES
from simulators.studies.parallel import World, quotas
from simulators.studies.suite import suite_report
from simulators.studies.verdict import gained, verdict
from simulators.traces.trace import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from simulators.calibration.calibrate import Calibration
    from simulators.calibration.validation import Validation
    from simulators.engine.result import SimResult
    from simulators.policies.base import Policy
    from simulators.studies.comparison import Comparison
    from simulators.studies.planning import Plan
    from simulators.studies.tuning import Study
    from simulators.traces import Trace


DEFAULTS, TUNED = "ours by default", "ours tuned"


def print_run(result: SimResult, best: SimResult, *, json: bool) -> None:
    """Print one run's figures beside the oracle's."""
    figures = {result.policy.name: result.summary(best), "oracle": best.summary(best)}
    if json:
        plain = {name: each.to_dict() for name, each in figures.items()}
        print_json({"provenance": result.provenance, "figures": plain, "verdict": verdict(result, best)})
        return
    show(pd.DataFrame(figures).rename_axis("figure"), _title(result.scenario, f"seed {result.seed}"))
    tell(verdict(result, best))
    _note_never_admissible(result.scenario)


def print_replay(
    trace: Trace,
    world: World,
    policies: Mapping[str, Policy],
    recorded: dict[str, float] | None,
    *,
    json: bool,
) -> None:
    """Print what a trace holds and what each policy makes of it, under what was recorded."""
    described = trace.describe()
    rows = {} if recorded is None else {"recorded": recorded}
    rows |= dict(zip(policies, world.figures(list(policies.values())), strict=True))
    if json:
        print_json({"trace": described.to_dict(), "header": trace.header.as_dict(), "figures": rows})
        return
    show(described.rename("").to_frame().rename_axis(trace.name), f"{trace.name} ({trace.header.source})")
    figures = pd.DataFrame(rows).T[list(HEADLINES)].rename_axis("policy")
    show(figures, _title(world.scenario, f"seed {world.seed}"))
    _note_never_admissible(world.scenario)


def print_comparison(
    comparison: Comparison, scenarios: Sequence[Scenario], policies: Mapping[str, Policy], *, json: bool
) -> None:
    """Print means with their intervals."""
    if json:
        print_json({"runs": records(comparison.frame), "verdict": verdict(comparison)})
        return
    show(comparison.text(), f"{len(comparison.seeds)} seeds; mean ± half a 95 % confidence interval")
    tell(verdict(comparison))
    _note_fixed_rates(scenarios, policies)


def print_suite(comparison: Comparison, *, json: bool) -> None:
    """Print the suite's report, as it stands under ``tests/golden``."""
    if json:
        print_json({"runs": records(comparison.frame)})
        return
    print(suite_report(comparison), end="")
    for what, why in (absent_worlds() | absent_peers()).items():
        say(f"left out: {what}: {why}")


def contestants(workload: Trace | Backlog, study: Study) -> dict[str, Policy]:
    """Return whom the tuned limiter has to beat."""
    return {
        "oracle": yardsticks.oracle(),
        "fixed rate": by_the_book(workload),
        "classic AIMD": yardsticks.classic_aimd(),
        DEFAULTS: Adaptive(study.config(0)),
        TUNED: Adaptive(study.best_config),
    }


def print_study(
    study: Study,
    comparison: Comparison,
    scenarios: Sequence[Scenario],
    policies: Mapping[str, Policy],
    files: Sequence[Path],
    *,
    json: bool,
) -> None:
    """Print what the search found, measured in worlds that it never saw."""
    worth = gained(comparison, TUNED, DEFAULTS)
    if json:
        document = {
            "best": records(study.frame)[int(study.best["trial"])],
            "rule": study.rule,
            "verdict": "\n".join([verdict(study), worth]),
            "settings": study.best_config.model_dump(),
            "runs": records(comparison.frame),
            "files": [str(file) for file in files],
        }
        print_json(document)
        return
    print_comparison(comparison, scenarios, policies, json=False)
    tell(f"{verdict(study)}\n{worth}\n{study.rule}")
    say(f"Elsewhere: {study.provenance['elsewhere']}.")
    say(f'Wrote {", ".join(map(str, files))}. In llm.toml: rate_limit = "{files[0]}"')


def print_plan(plan: Plan, trace: Trace, *, json: bool) -> None:
    """Print what each provider does as sold, how much of it is needed, and what less of it would do."""
    if json:
        table = plan.table()
        providers = [{"provider": name} | row for name, row in zip(table.index, records(table), strict=True)]
        print_json(
            {"choice": plan.choice, "providers": providers, "sizes": records(plan.frame), "verdict": verdict(plan)}
        )
        return
    show(plan.text(), plan.headline)
    tell(verdict(plan))
    for provider in plan.providers:
        _note_never_admissible(Scenario(trace, provider))


def print_pools(pools: pd.DataFrame, trace: Trace, *, json: bool) -> None:
    """Print what every choice of accounts would do, the soonest done first."""
    best = pools.iloc[0]
    left = f", {best['failed']:.0f} of them without an answer" if best["failed"] else ""
    told = f"{best['accounts']}: {len(trace)} requests over after {best['duration_s']:.4g} s{left}."
    if json:
        print_json({"pools": records(pools), "verdict": told})
        return
    show(pools.set_index("accounts"), "pools, the soonest done first")
    tell(told)


def print_calibration(
    calibration: Calibration, validation: Validation | None, files: Sequence[Path], *, json: bool
) -> None:
    """Print what a recording tells of its provider, and how far the simulator is from the rest of it."""
    frame = calibration.frame().rename_axis("figure")
    if json:
        findings = [{"figure": name} | row for name, row in zip(frame.index, records(frame), strict=True)]
        figures = None if validation is None else validation.figures.to_dict("index")
        print_json(
            {
                "provider": calibration.provider.model_dump(mode="json"),
                "findings": findings,
                "replayed": None if validation is None else validation.decisions.to_dict(),
                "validation": figures,
                "files": [*map(str, files)],
            }
        )
        return
    told = frame[["value", "known", "note"]].fillna("-")
    told.insert(1, "interval", [finding.interval for finding in calibration.findings])
    show(told, f"{calibration.recording.name}: the provider behind it", justify="left")
    if validation is not None:
        span = f"{validation.since_s:.0f} s to {validation.until_s:.0f} s, which calibration has not seen"
        show(validation.figures.rename_axis("figure"), f"The demand simulated against the recording, {span}")
        show(
            validation.decisions.to_frame("429s").T,
            f"The recorded attempts replayed before the calibrated quotas alone, {span}",
        )
    if files:
        say(f"Wrote {', '.join(map(str, files))}.")


def print_providers(*, json: bool) -> None:
    """Print the presets."""
    presets = [catalogue.provider(name) for name in catalogue.provider_names()]
    rows = [
        {
            "name": provider.name,
            "api": str(provider.api),
            "quotas": quotas(provider),
            "description": provider.description,
        }
        for provider in presets
    ]
    if json:
        print_json(rows)
    else:
        show(pd.DataFrame(rows).set_index("name"), "Simulated providers", justify="left")


def _title(scenario: Scenario, luck: str) -> str:
    events = "".join(f"; from {event.time_s:g} s {event.label}" for event in scenario.events)
    return f"{scenario.name}{events}; {luck}"


def _note_fixed_rates(scenarios: Sequence[Scenario], policies: Mapping[str, Policy]) -> None:
    for name, policy in policies.items():
        if isinstance(policy, ByTheBook):
            rates = ", ".join(
                f"{policy.requests_per_s(ProviderMachine(provider, Streams(0))):.3g} requests/s on {provider.name}"
                for provider in (scenario.provider for scenario in scenarios)
            )
            say(f"{name}: hard-coded as quota / average request, known beforehand: {rates}")


def _note_never_admissible(scenario: Scenario) -> None:
    trace, provider = scenario.workload, scenario.provider
    if isinstance(trace, Backlog):
        return
    machine = ProviderMachine(provider, Streams(0))
    sizes = np.stack([trace.input_tokens, trace.output_tokens, trace.max_tokens], axis=1)
    never = sum(
        math.isinf(machine.wait_s(0.0, Call(0, max(read, 0), max(written, 0), None if bound == UNKNOWN else bound)))
        for read, written, bound in sizes.tolist()
    )
    if never:
        say(
            f"{scenario.name}: {never} of {len(trace)} requests are never admissible: "
            f"larger than a quota ({quotas(provider)})"
        )
