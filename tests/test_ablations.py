"""Each mechanism of the rule earns its place: without it, the world it is for is worse."""

from __future__ import annotations

import math

import numpy as np
import pytest

from factflow_llm.ratelimit import slots
from reports import GOLDEN
from reports.__main__ import differences
from reports.ablations import ABLATIONS, ALL, Worth, ablations, measure
from simulators.engine.simulate import simulate
from simulators.providers.catalogue import provider
from simulators.providers.latency import LatencyModel
from simulators.scenarios.scenario import Scenario
from simulators.scenarios.worlds import suite
from simulators.traces import synthesize


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mechanism", "world", "lost"),
    [
        ("epochs", "slots", Worth(-0.1, 0.0, 0.0, 0.0)),
        ("measured ceiling", "bucket-true", Worth(-0.3, 0.0, 0.0, 0.0)),
        ("shallow cuts", "bucket-true", Worth(-0.05, 0.0, 0.0, 0.0)),
        ("a limit long unused", "storm", Worth(-0.01, 0.0, 0.0, 0.0)),
        ("what was reached", "quantised-true", Worth(-0.005, 0.0, 0.0, 0.0)),
        ("... but only while", "rejections-count", Worth(0.0, 0.001, 0.0, 0.0)),
        ("shares of one quota", "clients-4", Worth(0.0, 0.0, 0.0, 0.02)),
        ("windows are recognised", "sliding-true", Worth(0.0, 0.003, 0.0, 0.0)),
        ("openings whole windows apart", "sliding-true", Worth(-0.01, 0.002, 0.0, 0.0)),
        ("Retry-After and cool-off", "sliding-absent", Worth(0.0, 0.02, 0.0, 0.0)),
        ("slow start", "anthropic", Worth(0.0, 0.005, 0.0, 0.0)),
        ("refusals may speak of slots", "slots", Worth(-0.1, 0.0, 0.0, 0.0)),
        ("once slots are to blame", "slots-few", Worth(-0.02, 0.0, 0.0, 0.0)),
        ("once the rate is to blame", "slow", Worth(-0.01, 0.0, 0.0, 0.0)),
        ("overload takes a tenth", "busy", Worth(0.0, 0.0, 0.1, 0.0)),
        ("headers are a prior", "openai-1", Worth(0.0, 0.005, 0.0, 0.0)),
    ],
)
def test_what_a_mechanism_is_worth(mechanism: str, world: str, lost: Worth) -> None:
    """Switched off, it costs at least so much goodput, or so large shares of 429s, of failed calls or of fairness."""
    (ablation,) = (one for one in ABLATIONS if one.name.startswith(mechanism))
    with_it, without = (
        np.mean([measure(each, suite()[world], seed) for seed in (0, 1)], axis=0) for each in (ALL, ablation)
    )
    goodput, *harms = (without - with_it).tolist()
    assert goodput <= lost.goodput or lost.goodput == 0.0
    assert all(harm >= least or least == 0.0 for harm, least in zip(harms, lost[1:], strict=True))


@pytest.mark.slow
def test_silence_lets_calls_go_where_answers_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half the quota is asked for, by calls of a minute: with slots that grow by answers alone they would wait."""
    answers = LatencyModel(first_token_s=60.0, first_token_sigma=0.2, per_token_s=0.0)
    source = provider("bucket").model_copy(update={"latency": answers})
    asked = Scenario(synthesize(requests_per_s=5.0, duration_s=600.0), source)

    def wait_p99_s() -> float:
        return float(simulate(asked, None, seed=0, clients=1, collect="summary").summary()["wait_p99_s"])

    with_it = wait_p99_s()
    monkeypatch.setattr(slots, "_NEWS_S", math.inf)
    assert with_it < 3.0
    assert wait_p99_s() > 20.0


def test_the_report_names_every_mechanism() -> None:
    """The committed table has a line for each; `python -m reports ablations --write` makes it anew."""
    text = (GOLDEN / "suite" / "ablations.txt").read_text(encoding="utf-8")
    for ablation in ABLATIONS:
        assert f"\n{ablation.name} " in text


@pytest.mark.report
def test_the_report_is_what_is_found() -> None:
    """Half an hour on two cores."""
    assert not differences(ablations())
