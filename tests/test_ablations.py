"""Each mechanism of the rule earns its place: without it, the world it is for is worse."""

from __future__ import annotations

import math

import pytest

from factflow_llm.ratelimit import slots
from factflow_llm.ratelimit.noise import Noise
from reports import GOLDEN
from reports.__main__ import differences
from reports.ablations import ABLATIONS, ALL, CRUTCHES, SETTINGS, ablations, measure
from simulators.engine.simulate import simulate
from simulators.providers.catalogue import provider
from simulators.providers.latency import LatencyModel
from simulators.scenarios.scenario import Scenario
from simulators.traces import synthesize


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mechanism", "world", "lost"),
    [
        ("shallow cuts", "bucket-true", {"goodput": -0.1}),
        ("the climb steepens", "grows-tenfold", {"goodput": -0.02}),
        ("a search", "grows-tenfold", {"goodput": -0.1}),  # what one window admits tells of growth, too
        ("a burst that was seen", "burst-after-idling", {"goodput": -0.01}),
        ("shares of one quota", "clients-4", {"unfair": 0.015}),
        ("noise is told apart", "noise-bucket", {"goodput": -0.2}),
        ("rejections may speak of slots", "slots", {"goodput": -0.1}),
        ("overload takes a tenth", "busy", {"failed": 0.05}),
        ("headers are mirrored", "fleet-4", {"rejected": 0.03}),
        ("headers show the others", "fleet-4", {"rejected": 0.1}),
        ("large calls accuse", "large-prompts", {"goodput": -0.05, "rejected": 0.05}),
    ],
)
def test_what_a_mechanism_is_worth(mechanism: str, world: str, lost: dict[str, float]) -> None:
    """Switched off, it costs at least so much goodput, or so large shares of 429s, of failed calls or of fairness."""
    (ablation,) = (one for one in ABLATIONS if one.name.startswith(mechanism))
    with_it, without = (measure(each, world) for each in (ALL, ablation))
    for figure, least in lost.items():
        change = getattr(without, figure) - getattr(with_it, figure)
        assert change <= least if least < 0 else change >= least, f"{figure} {change:+.3f}"


def test_two_are_taken_out_together() -> None:
    """What does without two mechanisms does without either, and without both settings; afterwards all is as before."""
    noise = next(one for one in ABLATIONS if one.name.startswith("noise"))
    shallow = next(one for one in ABLATIONS if one.name.startswith("shallow"))
    asks, both = Noise.asks, noise.and_also(shallow)
    assert both.config.decrease == 0.5
    with both.patch():
        assert not Noise().asks(early=True, searching=False)
    assert Noise.asks is asks
    assert both.name == f"{noise.name} + {shallow.name}"


@pytest.mark.slow
def test_silence_lets_calls_go_where_answers_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half the quota is asked for, by calls of a minute: with slots that grow by answers alone they would wait."""
    answers = LatencyModel(first_token_s=60.0, first_token_sigma=0.2, per_token_s=0.0)
    source = provider("bucket").model_copy(update={"latency": answers})
    asked = Scenario(synthesize(requests_per_s=5.0, duration_s=600.0), source)

    def wait_p99_s() -> float:
        return float(simulate(asked, None, seed=0, clients=1, collect="summary").summary()["wait_p99_s"])

    with_it = wait_p99_s()
    monkeypatch.setattr(slots, "NEWS_S", math.inf)
    assert with_it < 3.0
    assert wait_p99_s() > 20.0


def test_the_report_names_every_mechanism() -> None:
    """The committed table has a line for each; `python -m reports ablations --write` makes it anew."""
    text = (GOLDEN / "suite" / "ablations.txt").read_text(encoding="utf-8")
    for ablation in (*ABLATIONS, *SETTINGS):
        assert f"\n{ablation.name} " in text
    assert text.count(" + ") == math.comb(CRUTCHES, 2)


@pytest.mark.report
def test_the_report_is_what_is_found() -> None:
    """Half an hour on two cores."""
    assert not differences(ablations())
