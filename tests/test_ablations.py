"""Each mechanism of the rule earns its place: without it, the world it is for is worse."""

from __future__ import annotations

import pytest

from simulators.worlds import suite
from tests.ablations import ABLATIONS, ALL, GOLDEN, measure, report


@pytest.mark.parametrize(
    ("mechanism", "world", "goodput", "rejected"),
    [
        ("epochs", "slots", 0.1, 0.0),
        ("measured ceiling", "bucket-true", 0.3, 0.0),
        ("shallow cuts", "bucket-true", 0.05, 0.0),
        ("windows are recognised", "sliding-true", 0.0, 0.003),
        ("openings whole windows apart", "sliding-true", 0.01, 0.002),
        ("Retry-After and cool-off", "sliding-absent", 0.0, 0.02),
        ("slow start", "anthropic", 0.0, 0.005),
        ("refusals may speak of slots", "slots", 0.1, 0.0),
        ("headers are a prior", "openai-1", 0.0, 0.005),
    ],
)
def test_what_a_mechanism_is_worth(mechanism: str, world: str, goodput: float, rejected: float) -> None:
    """Switched off, it costs at least so much goodput, or so large a share of 429s."""
    (ablation,) = (one for one in ABLATIONS if one.name.startswith(mechanism))
    with_it, without = (measure(each, suite()[world], 0) for each in (ALL, ablation))
    assert with_it[0] - without[0] >= goodput or goodput == 0.0
    assert without[1] - with_it[1] >= rejected or rejected == 0.0


def test_the_report_names_every_mechanism() -> None:
    """The committed table has a line for each; `python -m tests.ablations --write` makes it anew."""
    text = GOLDEN.read_text(encoding="utf-8")
    for ablation in ABLATIONS:
        assert f"\n{ablation.name} " in text


@pytest.mark.slow
def test_the_report_is_what_is_found() -> None:
    """Half an hour on two cores."""
    assert report(2) == GOLDEN.read_text(encoding="utf-8")
