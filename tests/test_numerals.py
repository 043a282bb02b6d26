"""Numbers that people read have no noise in them."""

from __future__ import annotations

import math

import pandas as pd
import pytest

import simulators as sim
from simulators.numerals import figure_text, readable


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (9724.0, "9,724"), (0.0, "0"), (1.0, "1"), (0.99731, "0.9973"), (146.34, "146.3"), (1234567.8, "1,234,568"),
        (math.nan, "-"), (math.inf, "inf"), (501, "501"), ("bucket", "bucket"), (True, "True"), (-2000.4, "-2,000"),
    ],
)  # fmt: skip
def test_a_figure_is_short(value: object, text: str) -> None:
    """Four figures, thousands apart, no trailing zeros; what is unknown is a dash; words stay."""
    assert figure_text(value) == text


def test_a_frame_keeps_its_index() -> None:
    """Only values become texts, column by column."""
    frame = readable(pd.DataFrame({"n": [2.0, math.nan], "who": ["a", "b"]}, index=["x", "y"]))
    assert frame.to_dict("index") == {"x": {"n": "2", "who": "a"}, "y": {"n": "-", "who": "b"}}


def test_results_show_numbers_for_people() -> None:
    """Neither a run nor a plan shows a count with decimals, in text or in HTML."""
    scenario = sim.Scenario(sim.sample_trace().window(0, 60), "slots")
    run = sim.simulate(scenario, seed=1)
    plan = sim.plan(scenario.workload, providers="slots", max_wait_p95_s=5.0, jobs=1, progress=False)
    for shown in (repr(run), run._repr_html_(), repr(plan), plan._repr_html_()):
        assert "0000" not in shown
        assert ".0<" not in shown
