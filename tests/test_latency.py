"""Latency models: percentiles as published, the same draws under every policy, and fitting them back."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from simulators.providers.catalogue import provider
from simulators.providers.latency import LatencyModel, Load
from simulators.providers.latency_draws import Latency
from simulators.streams import Streams


def test_ways_are_drawn_around_their_median() -> None:
    """Half of the calls are on their way for longer than the median, each way by itself; without a network for 0 s."""
    far = Latency(LatencyModel(uplink_s=0.05), Streams(3))
    there, back = np.array([far.ways(index) for index in range(2000)]).T
    assert np.median(there) == pytest.approx(0.05, rel=0.03)
    assert np.median(back) == pytest.approx(0.05, rel=0.03)
    assert abs(np.corrcoef(there, back)[0, 1]) < 0.1
    assert Latency(LatencyModel(), Streams(3)).ways(0) == (0.0, 0.0)


def draws(model: LatencyModel, count: int, seed: int = 7, tokens: int = 101) -> np.ndarray:
    """Return (first, end) of the first calls."""
    latency = Latency(model, Streams(seed))
    return np.array([latency.draw(index, 100, tokens) for index in range(count)])


@pytest.mark.parametrize(
    ("name", "p50", "p95", "p99"),
    [
        ("openai-tier-1", 0.536, 0.844, 4.461),
        ("azure-30k", 0.639, 1.144, 4.517),
        ("anthropic-start", 0.941, 2.939, 4.787),
    ],
)
def test_presets_meet_the_published_percentiles(name: str, p50: float, p95: float, p99: float) -> None:
    """Body and slow component together give the median, the 95th and the 99th percentile that were measured."""
    first = draws(provider(name).latency, 40_000)[:, 0]
    assert np.percentile(first, 50) == pytest.approx(p50, rel=0.05)
    assert np.percentile(first, 95) == pytest.approx(p95, rel=0.12)
    assert np.percentile(first, 99) == pytest.approx(p99, rel=0.12)


def test_one_lognormal_would_miss_the_tail() -> None:
    """The body alone, which fits the median and the 95th percentile, predicts less than half of the measured 99th."""
    model = provider("openai-tier-1").latency.model_copy(update={"slow_share": 0.0})
    assert np.percentile(draws(model, 40_000)[:, 0], 99) < 4.461 / 2


def test_a_call_takes_its_time_whoever_asks_and_when() -> None:
    """Draws belong to the call's index: order and repetition do not matter."""
    model = LatencyModel(slow_share=0.1, slow_first_token_s=5)
    one, other = Latency(model, Streams(7)), Latency(model, Streams(7))
    forward = [one.draw(index, 1, 50) for index in range(2000)]
    assert forward == [other.draw(index, 1, 50) for index in reversed(range(2000))][::-1]
    assert forward != [Latency(model, Streams(8)).draw(index, 1, 50) for index in range(2000)]


def test_tokens_take_time_and_input_too() -> None:
    """The end is the first token plus one interval per further token; reading the input comes before the first."""
    model = LatencyModel(
        first_token_s=1, first_token_sigma=0, per_token_s=0.1, per_token_sigma=0, per_input_token_s=0.01
    )
    assert Latency(model, Streams(1)).draw(0, 50, 11) == pytest.approx((1.5, 2.5))
    assert Latency(model, Streams(1)).draw(0, 50, 0) == pytest.approx((1.5, 1.5))


def test_load_slows_down_beyond_the_knee() -> None:
    """Up to the knee nothing changes; twice the knee adds one slope."""
    model = LatencyModel(load=Load(knee=10, slope=0.5))
    assert model.slowdown(0, 10) == 1.0
    assert model.slowdown(0, 20) == pytest.approx(1.5)


def test_the_day_swings_about_its_peak() -> None:
    """Times are longest at the peak and shortest half a day later."""
    model = LatencyModel(daily_swing=0.3, daily_peak_s=3600)
    assert model.slowdown(3600, 0) == pytest.approx(1.3)
    assert model.slowdown(3600 + 43_200, 0) == pytest.approx(0.7)


def test_fitting_finds_the_model_that_made_the_data() -> None:
    """From 20 000 calls, body and pace come back within 3 %, the slow component within a sixth."""
    truth = LatencyModel(
        first_token_s=0.5,
        first_token_sigma=0.3,
        per_token_s=0.02,
        per_token_sigma=0.25,
        slow_share=0.02,
        slow_first_token_s=4.5,
        slow_sigma=0.2,
    )
    times = draws(truth, 20_000)
    frame = pd.DataFrame({"first_chunk_s": times[:, 0], "duration_s": times[:, 1], "output_tokens": 101, "status": 200})
    refused = pd.DataFrame(
        {"first_chunk_s": [np.nan], "duration_s": [0.25], "output_tokens": [np.nan], "status": [429]}
    )
    fitted = LatencyModel.fit(pd.concat([frame, refused]))
    for name in ("first_token_s", "first_token_sigma", "per_token_s", "per_token_sigma"):
        assert getattr(fitted, name) == pytest.approx(getattr(truth, name), rel=0.03)
    for name in ("slow_share", "slow_first_token_s", "slow_sigma"):
        assert getattr(fitted, name) == pytest.approx(getattr(truth, name), rel=0.17)
    assert fitted.rejection_s == 0.25


def test_fitting_invents_no_slow_component() -> None:
    """Data from one lognormal are fitted by one."""
    times = draws(LatencyModel(first_token_s=1, first_token_sigma=0.4), 5_000)
    frame = pd.DataFrame({"first_chunk_s": times[:, 0], "duration_s": times[:, 1], "output_tokens": 101})
    fitted = LatencyModel.fit(frame)
    assert fitted.slow_share == 0
    assert fitted.first_token_s == pytest.approx(1, rel=0.03)


def test_fitting_skips_what_is_unknown() -> None:
    """Unknown token counts are not zero: pace is fitted from the calls that tell, and absent if too few do."""
    times = draws(LatencyModel(), 100)
    frame = pd.DataFrame({"first_chunk_s": times[:, 0], "duration_s": times[:, 1]})
    frame["output_tokens"] = pd.array([None] * 100, dtype="Int64")
    assert LatencyModel.fit(frame).per_token_s == 0


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (pd.DataFrame({"duration_s": [1.0]}), "first_chunk_s, output_tokens"),
        (pd.DataFrame({"first_chunk_s": [1.0], "duration_s": [1.0], "output_tokens": [1]}), "at least 20"),
    ],
)
def test_fitting_says_what_it_lacks(frame: pd.DataFrame, words: str) -> None:
    """Missing columns and too few calls are named."""
    with pytest.raises(ValueError, match=words):
        LatencyModel.fit(frame)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"slow_share": 0.1}, "needs slow_first_token_s"),
        ({"slow_share": 0.1, "slow_first_token_s": 0.1}, "below first_token_s"),
        ({"first_token_s": -1}, "greater than or equal to 0"),
        ({"first_token_s": math.inf}, "finite"),
    ],
)
def test_contradictory_models_are_refused(values: dict[str, float], words: str) -> None:
    """Values that cannot be meant are named with their bound."""
    with pytest.raises(ValueError, match=words):
        LatencyModel(**values)
