"""The search: same seed, same study; 429s a constraint; a study that can be taken home."""

from __future__ import annotations

import json
import math
import re
import tomllib
from dataclasses import replace
from typing import TYPE_CHECKING

import optuna
import pandas as pd
import pytest

import simulators as sim
from factflow_llm.errors import ConfigurationError
from factflow_llm.ratelimit.config import RateLimitConfig
from reports.__main__ import differences, texts
from simulators.scenarios.worlds import suite
from simulators.studies.holding import WITNESSES, Loss, Witnesses
from simulators.studies.parallel import processes
from simulators.studies.tuning import SEARCH_SPACE

if TYPE_CHECKING:
    from pathlib import Path

SCENARIOS = [
    sim.Scenario(sim.backlog(workers=16, duration_s=60.0), "bucket"),
    sim.Scenario(sim.backlog(workers=16, duration_s=60.0), "fixed-window"),
]
TRIALS = 12
HELD_TO = ("cold-minute",)


@pytest.fixture(scope="module")
def study() -> sim.Study:
    """Search briefly, in this process."""
    return sim.tune(
        SCENARIOS, trials=TRIALS, seed=7, seeds=2, jobs=1, max_rejected_share=0.03, held_to=HELD_TO, max_loss=0.2
    )


def _study(goodput: list[float], shares: list[float], waits: list[float]) -> sim.Study:
    trials = range(len(goodput))
    frame = pd.DataFrame(
        {
            "trial": trials,
            "decrease": [0.9 + 0.001 * trial for trial in trials],
            "goodput_ratio": goodput,
            "rejected_share": shares,
            "attempts_per_success": 1.0,
            "wait_p95_s": waits,
            "worst_rejected_share": shares,
            "feasible": [share <= 0.01 for share in shares],
        }
    )
    return sim.Study(frame, 0, (0,), ("made up",), 0.01, {"factflow-llm": "0", "optuna": "0"})


def test_the_first_trial_is_the_defaults(study: sim.Study) -> None:
    """Whatever the search finds is measured against what everybody has."""
    assert study.config(0) == RateLimitConfig()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_study_in_two_processes(study: sim.Study) -> None:
    """The number of processes is an economy, not a setting."""
    again = sim.tune(
        SCENARIOS, trials=TRIALS, seed=7, seeds=2, jobs=2, max_rejected_share=0.03, held_to=HELD_TO, max_loss=0.2
    )
    assert again.frame.equals(study.frame)
    assert again.provenance == study.provenance


def test_another_seed_gives_another_study(study: sim.Study) -> None:
    """The seed is not ignored."""
    other = sim.tune(SCENARIOS[0], trials=2, seed=8, seeds=1, jobs=1, held_to=())
    assert other.config(1) != study.config(1)


def test_trials_stay_within_the_search_space(study: sim.Study) -> None:
    """Every value lies within its bounds and is what the file will show."""
    for knob in SEARCH_SPACE:
        values = study.frame[knob.setting]
        assert values.between(knob.low, knob.high).all()
        assert all(float(f"{value:.4g}") == value for value in values)


def test_the_search_space_speaks_of_settings() -> None:
    """Each knob is a field of RateLimitConfig, and its default lies within the bounds."""
    defaults = RateLimitConfig()
    for knob in SEARCH_SPACE:
        assert knob.low <= getattr(defaults, knob.setting) <= knob.high
        assert isinstance(getattr(defaults, knob.setting), int) is knob.whole


def test_figures_of_a_trial_are_means_over_its_worlds(study: sim.Study) -> None:
    """A row can be checked by hand: scenarios times seeds, and the scenario with most 429s."""
    config = study.config(3)
    runs = sim.compare(SCENARIOS, {"it": config}, seeds=2, jobs=1).frame
    row = study.frame.loc[3]
    assert row["goodput_ratio"] == pytest.approx(runs["goodput_ratio"].mean())
    assert row["worst_rejected_share"] == pytest.approx(runs.groupby("scenario")["rejected_share"].mean().max())


def test_the_sampler_is_told_of_the_constraint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each scenario's 429s are a constraint of the trial, and the objective is the goodput ratio alone."""
    searches: list[optuna.Study] = []
    create = optuna.create_study

    def kept(**arguments: object) -> optuna.Study:
        searches.append(create(**arguments))  # type: ignore[arg-type]
        return searches[-1]

    monkeypatch.setattr(optuna, "create_study", kept)
    study = sim.tune(SCENARIOS, trials=2, seed=1, seeds=1, jobs=1, max_rejected_share=0.02, held_to=())
    for trial, row in zip(searches[0].trials, study.frame.itertuples(), strict=True):
        assert trial.value == row.goodput_ratio
        assert len(trial.constraints) == len(SCENARIOS)
        assert max(trial.constraints.values()) == pytest.approx(row.worst_rejected_share - 0.02)


def test_the_best_keeps_the_constraint(study: sim.Study) -> None:
    """No goodput buys a 429 too many."""
    assert study.frame["feasible"].any()
    feasible = study.frame[study.frame["feasible"]]
    assert study.best["feasible"]
    assert study.best["goodput_ratio"] == pytest.approx(feasible["goodput_ratio"].max(), abs=5e-4)


def test_infeasible_trials_never_win() -> None:
    """A trial over the bound loses to a slow one within it."""
    study = _study(goodput=[0.99, 0.50], shares=[0.011, 0.01], waits=[1.0, 1.0])
    assert study.best["trial"] == 1
    assert study.history()["best_so_far"].tolist() == pytest.approx([math.nan, 0.5], nan_ok=True)


def test_equal_goodput_is_decided_by_the_wait_then_by_order() -> None:
    """Differences in the fourth digit are luck: nobody shall leave the defaults for them."""
    assert _study(goodput=[0.95, 0.95], shares=[0.0, 0.0], waits=[1637.55, 1637.54]).best["trial"] == 0
    assert _study(goodput=[0.9501, 0.9503], shares=[0.0, 0.0], waits=[1.0, 2.0]).best["trial"] == 0
    assert _study(goodput=[0.95, 0.95], shares=[0.0, 0.0], waits=[2.0, 1.0]).best["trial"] == 1
    assert _study(goodput=[0.95, 0.95], shares=[0.0, 0.0], waits=[1.0, 1.0]).best["trial"] == 0


def test_where_nothing_is_feasible_the_nearest_is_offered_and_said_to_be_so() -> None:
    """Hours of search are not lost, and nobody is deceived."""
    study = _study(goodput=[0.99, 0.95], shares=[0.05, 0.02], waits=[1.0, 1.0])
    assert study.best["trial"] == 1
    assert not study.best["feasible"]
    assert "NO trial kept" in study.provenance["search"]


LOSSES = [
    (1, "here", 0.0, 0.001), (1, "there", 0.03, 0.0),
    (2, "here", 0.005, -0.001), (2, "there", -0.1, 0.02),
]  # fmt: skip


def test_the_best_loses_nowhere_more_than_it_may() -> None:
    """A trial that lost too much of goodput elsewhere gives way to the next best, and the report says so."""
    best = _study(goodput=[0.90, 0.99, 0.95], shares=[0.0] * 3, waits=[1.0] * 3)
    held = replace(best, max_loss=0.02, losses=pd.DataFrame(LOSSES, columns=list(Loss._fields)))
    assert (best.best["trial"], held.best["trial"]) == (1, 2)
    words = held.provenance["elsewhere"]
    assert "0.0050 of goodput lost (here) and 0.0200 more 429s (there)" in words
    assert words.endswith("0.02 allowed; 1 that did better here lost more")
    assert replace(held, max_loss=0.01).best["trial"] == 0
    assert "NOT held" in best.provenance["elsewhere"]


def test_a_search_that_only_helps_where_it_looked_ends_at_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was tried, nothing is written to a file that loses more elsewhere than was allowed."""
    tried: list[int] = []

    def lose(witnesses: Witnesses, trial: int, *_: object) -> list[Loss]:
        tried.append(trial)
        return [Loss(trial, "elsewhere", 0.5, 0.0)]

    monkeypatch.setattr(Witnesses, "losses", lose)
    study = sim.tune(SCENARIOS[0], trials=4, seed=7, seeds=1, jobs=1, max_rejected_share=0.5, held_to=HELD_TO)
    assert study.best_config == RateLimitConfig()
    assert len(set(tried)) == len(tried)
    assert 0 not in tried


def test_the_witnesses_are_worlds_of_the_suite() -> None:
    """Each is there, whatever traces are; a world that was tuned on bears no witness."""
    assert set(WITNESSES) <= set(suite())
    with processes(1) as each:
        few = Witnesses(["cold-minute", "idle-halved"], ["idle-halved"], each)
        losses = few.losses(3, RateLimitConfig(max_requests_per_minute=60.0), RateLimitConfig())
    assert [(loss.trial, loss.world) for loss in losses] == [(3, "cold-minute")]
    assert losses[0].goodput > 0.5, "an eighth of the quota is too little"


def test_a_study_comes_back_from_its_file(study: sim.Study, tmp_path: Path) -> None:
    """Settings, figures, seeds and versions survive, to the bit."""
    study.save(tmp_path / "study.json")
    loaded = sim.Study.load(tmp_path / "study.json")
    assert loaded.frame.equals(study.frame)
    assert loaded.best_config == study.best_config
    assert loaded.provenance == study.provenance
    assert loaded.losses.equals(study.losses)
    assert set(loaded.versions) == {"factflow-llm", "optuna", "numpy", "pandas"}


def test_a_trial_without_a_figure_survives_saving(tmp_path: Path) -> None:
    """Not-a-number is null in the file, for JSON has none."""
    study = _study(goodput=[0.0], shares=[0.0], waits=[math.nan])
    study.save(tmp_path / "study.json")
    assert json.loads((tmp_path / "study.json").read_text())["trials"]["wait_p95_s"] == [None]
    assert math.isnan(sim.Study.load(tmp_path / "study.json").frame["wait_p95_s"][0])


def test_a_study_is_not_written_over(study: sim.Study, tmp_path: Path) -> None:
    """An existing file is an error unless asked for."""
    target = tmp_path / "study.json"
    target.write_text("mine")
    with pytest.raises(ConfigurationError, match="exists"):
        study.save(target)
    assert target.read_text() == "mine"
    study.save(target, overwrite=True)
    assert sim.Study.load(target).seed == study.seed


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"factflow_study": 99}', '{"factflow_study": 1, "trials": 3}', "\x00"]
)
def test_what_is_no_study_is_said_to_be_none(text: str, tmp_path: Path) -> None:
    """The message names the file and what to give instead."""
    target = tmp_path / "study.json"
    target.write_text(text)
    with pytest.raises(ConfigurationError, match=r"study\.json: .*stud"):
        sim.Study.load(target)


def test_a_missing_study_is_named(tmp_path: Path) -> None:
    """No traceback of the operating system."""
    with pytest.raises(ConfigurationError, match=r"none\.json: cannot be read"):
        sim.Study.load(tmp_path / "none.json")


def test_the_file_for_production_says_where_it_comes_from(study: sim.Study, tmp_path: Path) -> None:
    """The TOML loads, and its comment names seed, trial, scenarios and figures."""
    text = study.best_config.to_toml(tmp_path / "limiter.toml", comment=study.provenance)
    assert RateLimitConfig.from_toml(tmp_path / "limiter.toml") == study.best_config
    assert tomllib.loads(text)["decrease"] == study.best["decrease"]
    for words in ("seed 7", f"of {TRIALS}", SCENARIOS[1].name, "goodput_ratio", "rejected_share <= 0.03"):
        assert words in text


def test_progress_is_told_trial_by_trial() -> None:
    """A function hears how many of how many."""
    heard: list[tuple[int, int]] = []
    told = lambda done, total: heard.append((done, total))  # noqa: E731
    sim.tune(SCENARIOS[0], trials=2, seeds=1, jobs=1, held_to=(), progress=told)
    assert heard == [(1, 2), (2, 2)]


def test_optuna_is_left_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither its log level nor the terminal is touched."""
    before = optuna.logging.get_verbosity()
    sim.tune(SCENARIOS[0], trials=1, seeds=1, jobs=1)
    assert optuna.logging.get_verbosity() == before
    assert capsys.readouterr() == ("", "")


def test_faces_show_the_best_beside_the_defaults(study: sim.Study) -> None:
    """Terminals and notebooks see what changed."""
    for face in (repr(study), study._repr_html_()):
        assert all(word in face for word in ("default", "best", "decrease", "seed 7"))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"trials": 0}, "trials = 0"),
        ({"seed": -1}, "seed = -1"),
        ({"max_rejected_share": 0.0}, "max_rejected_share = 0"),
        ({"max_rejected_share": math.nan}, "max_rejected_share = nan"),
        ({"seeds": []}, r"seeds = \[\]"),
        ({"jobs": -1}, "jobs = -1"),
        ({"max_loss": -0.1}, "max_loss = -0.1"),
        ({"held_to": ["cold-minuet"], "trials": 1}, "cold-minuet.*did you mean 'cold-minute'"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], word: str) -> None:
    """Each refusal names the argument and its bound, before anything runs."""
    with pytest.raises(ConfigurationError, match=word):
        sim.tune(SCENARIOS, **arguments)  # type: ignore[arg-type]


@pytest.mark.slow
def test_tuning_pays_where_a_quota_stays_as_it_is() -> None:
    """As the committed report says: fewer 429s at no less goodput, for what is lost where quotas move."""
    made = texts("tuning")
    assert differences(made) == ""
    (text,) = made.values()
    figures = {
        name: [float(figure) for figure in re.findall(rf"  {name}: ([\d.]+) \(defaults: ([\d.]+)\)", text)[0]]
        for name in ("goodput_ratio", "rejected_share")
    }
    assert figures["goodput_ratio"][0] >= figures["goodput_ratio"][1]
    assert figures["rejected_share"][0] < 0.6 * figures["rejected_share"][1]
