"""The laboratory's public face: what it offers, what it costs to import, what it says when something is missing."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

import simulators as sim
from factflow_llm.errors import ExtraMissingError

DESIGNED = {
    "Scenario",
    "backlog",
    "compare",
    "plot_overview",
    "policies",
    "provider",
    "read_trace",
    "simulate",
    "synthesize",
    "tune",
}


@pytest.mark.parametrize("name", sim.__all__)
def test_every_name_loads(name: str) -> None:
    """Each public name leads to something."""
    assert getattr(sim, name) is not None


def test_names_are_sorted_and_those_of_the_design() -> None:
    """The list is sorted, shown by dir(), and keeps the names that notebooks rely on."""
    assert sim.__all__ == sorted(set(sim.__all__))
    assert dir(sim) == sim.__all__
    assert set(sim.__all__) >= DESIGNED


def test_importing_costs_nothing() -> None:
    """Nobody waits for pandas who only imports, nor for matplotlib who only simulates."""
    loaded = "print('{}' in sys.modules)".format
    code = f"import sys, simulators as sim; {loaded('pandas')}; sim.simulate; {loaded('matplotlib')}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("name", [name for name in sim.__all__ if name != "policies"])
def test_no_module_shares_its_name_with_a_public_name(name: str) -> None:
    """What is imported by a dotted name is a module, whatever was imported before."""
    assert find_spec(f"simulators.{name}") is None


def test_a_misspelt_name_is_an_attribute_error() -> None:
    """A misspelt name fails as in any module."""
    with pytest.raises(AttributeError, match="has no attribute 'simulat'"):
        sim.simulat  # noqa: B018


def test_without_the_lab_extra_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing package is named, with the line that installs it."""
    monkeypatch.delattr(sim, "simulate", raising=False)
    monkeypatch.setattr(sim, "import_module", _lacking("pandas"))
    with pytest.raises(ExtraMissingError, match=r'simulate needs pandas.*pip install "factflow-llm\[lab\]"'):
        sim.simulate  # noqa: B018


def test_a_fault_of_our_own_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of ours that is missing is a fault, not a missing extra."""
    monkeypatch.delattr(sim, "simulate", raising=False)
    monkeypatch.setattr(sim, "import_module", _lacking("simulators.engine.loop"))
    with pytest.raises(ModuleNotFoundError):
        sim.simulate  # noqa: B018


def _lacking(name: str) -> object:
    def import_module(_: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    return import_module
