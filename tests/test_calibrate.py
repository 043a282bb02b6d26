"""Calibration: what recordings tell of a provider is told, what they do not tell is said not to be known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from factflow_llm.errors import ConfigurationError
from factflow_llm.ratelimit.config import RetryConfig
from factflow_llm.recorder import AttemptRow, RowOutcome
from factflow_llm.signals import Axis
from reports.__main__ import differences
from reports.calibration import compare, in_all, judgements, off, rate, rebased, report, shape, table
from simulators.calibration.answers import fit_whole_answers
from simulators.calibration.calibrate import Calibration, calibrate
from simulators.calibration.evidence import Evidence, currencies
from simulators.calibration.findings import Finding, Known, roundest
from simulators.calibration.habits import retry_after, wilson
from simulators.calibration.judging import Sample, judge
from simulators.calibration.replay import rejections, verdicts
from simulators.calibration.shapes import BucketShape, FixedShape, Ledger, Shape, SlidingShape, SlotsShape
from simulators.policies.yardsticks import RetryOnly
from simulators.providers.calls import Settlement
from simulators.providers.catalogue import Provider, RetryAfter
from simulators.providers.faults import Refused
from simulators.providers.latency import LatencyModel
from simulators.providers.latency_draws import Latency
from simulators.providers.quotas import Bucket, FixedWindow, Quota, SlidingWindow, Slots
from simulators.streams import Streams
from simulators.traces import synthesize
from tests.support.recordings import MAX_TOKENS, record
from tests.support.recordings_over_http import Load, record_over_http

if TYPE_CHECKING:
    from pathlib import Path

    from simulators.traces import Recording, Trace

QUICK = LatencyModel(first_token_s=0.4, first_token_sigma=0.3, per_token_s=0.005, per_token_sigma=0.2)
TOKENS_PER_CALL = 1650.0  # of the demand below, as providers reckon: input and max_tokens
HALVES_S = 300.0


def demand(requests_per_s: float, seed: int = 1, duration_s: float = 2 * HALVES_S) -> Trace:
    """Return calls at that rate, in bursts, each with a bound on its answer."""
    return synthesize(requests_per_s, duration_s, cv=2.0, max_tokens=MAX_TOKENS, seed=seed)


def recorded(
    folder: Path, provider: Provider, rate: float = 3.0, *, limited: bool = False, duration_s: float = 2 * HALVES_S
) -> Recording:
    """Return a recording of that demand before a provider."""
    return record(provider, demand(rate, duration_s=duration_s), folder / "recording.jsonl", limited=limited)


def value(calibration: Calibration, name: str) -> Any:
    """Return the value of the one finding whose name begins so."""
    (finding,) = (each for each in calibration.findings if each.name.startswith(name))
    return finding.value


PROVIDERS: dict[str, tuple[tuple[Quota, ...], bool]] = {
    "bucket": ((Bucket(limit=173, burst_s=10),), False),
    "fixed window of tokens": ((FixedWindow(axis=Axis.TOKENS, limit=283_417, phase_s=17.3),), True),
    "sliding, quantised": ((SlidingWindow(limit=168, enforced_over_s=10),), True),
    "slots": ((Slots(limit=4),), False),
    "window and bucket": (
        (SlidingWindow(limit=210, enforced_over_s=10), Bucket(axis=Axis.TOKENS, limit=271_411, burst_s=20)),
        False,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROVIDERS)
def test_hidden_providers(name: str, tmp_path: Path) -> None:
    """Currency, shape and limit are told from half a recording; the rejections of the other half are foretold."""
    meters, limited = PROVIDERS[name]
    truth = Provider(name=name, latency=QUICK, quotas=meters)
    trace = demand(3.4)
    recording = record(truth, trace, tmp_path / "hidden.jsonl", limited=limited)
    calibration = calibrate(recording, HALVES_S)
    for line, right, error in compare(truth, calibration.provider, meters):
        assert right, line
        assert error <= 0.03, line
    assert len(calibration.provider.quotas) == len(meters), "a quota that is not there"
    validation = calibration.validate(policy=None if limited else RetryOnly(RetryConfig()), seeds=1)
    recorded_429s, predicted, same = validation.decisions
    assert recorded_429s >= 3, "hardly rejected, hardly tested"  # our limiter is seldom rejected
    assert abs(predicted - recorded_429s) <= 0.1 * recorded_429s
    assert same >= 0.9 * recorded_429s
    assert abs(validation.error("goodput")) < 0.1
    assert abs(validation.error("latency_p50_s")) < 0.15


def test_what_was_never_reached_is_not_known(tmp_path: Path) -> None:
    """A recording without a rejection bounds limits from below, says so, and makes a provider that takes everything."""
    calibration = calibrate(recorded(tmp_path, Provider(latency=QUICK, quotas=(Bucket(limit=6000),)), 1.0))
    assert not calibration.identified
    assert calibration.provider.quotas == ()
    floors = {finding.name: finding for finding in calibration.findings if finding.known is Known.FLOOR}
    requests = floors["requests: limit per 60 s"]
    assert requests.value is None
    assert 60 < requests.low < 6000  # type: ignore[operator]
    assert requests.high == np.inf
    assert "tokens: limit per 60 s" in floors
    assert "bounded from below only" in calibration.report()


@pytest.mark.slow
def test_what_only_headers_tell(tmp_path: Path) -> None:
    """A quota that headers show but that nobody reached is taken from them, marked as never tested."""
    meters = (Bucket(limit=150, burst_s=10), Bucket(axis=Axis.TOKENS, limit=90_000, per_s=1.0))
    calibration = calibrate(recorded(tmp_path, Provider(latency=QUICK, quotas=meters, shows_limits=True)))
    by_axis = {quota.axis: quota for quota in calibration.provider.quotas}
    assert by_axis[Axis.REQUESTS].limit == 150
    assert by_axis[Axis.TOKENS].limit == 90_000
    read = next(finding for finding in calibration.findings if finding.known is Known.READ)
    assert read.name.startswith("tokens")
    assert calibration.provider.shows_limits


@pytest.mark.parametrize(
    "quota",
    [
        Bucket(axis=Axis.TOKENS, limit=400_000, burst_s=20),
        SlidingWindow(axis=Axis.TOKENS, limit=400_000),
        FixedWindow(limit=240, enforced_over_s=20, phase_s=7.0),
    ],
    ids=["bucket", "sliding", "fixed"],
)
def test_headers_alone_tell_the_window(quota: Quota, tmp_path: Path) -> None:
    """Nobody was rejected, and yet what headers showed to be left tells kind, window and burst."""
    truth = Provider(latency=QUICK, quotas=(quota,), shows_limits=True)
    calibration = calibrate(record(truth, demand(2.0, duration_s=240.0), tmp_path / "shown.jsonl", limited=True))
    (found,) = (each for each in calibration.provider.quotas if each.axis is quota.axis)
    assert not calibration.identified
    assert shape(found) == shape(quota), calibration.report()
    assert rate(found) == rate(quota)
    if isinstance(quota, Bucket):
        assert isinstance(found, Bucket)
        assert found.burst_s == pytest.approx(20, rel=1e-3)


@pytest.mark.slow
def test_rejections_that_count_are_told(tmp_path: Path) -> None:
    """A bucket that every rejection empties is told from one that forgives them."""
    for counts, asked in ((True, 3.2), (True, 5.0), (False, 3.2)):
        quota = Bucket(limit=173, burst_s=5, rejections_count=counts)
        truth = Provider(latency=QUICK, quotas=(quota,), retry_after=RetryAfter(habit="absent"))
        recording = record(truth, demand(asked), tmp_path / f"{counts} {asked}.jsonl", limited=counts)
        (found,) = calibrate(recording).provider.quotas
        assert found.rejections_count is counts
        assert found.limit == pytest.approx(173, rel=1e-3)


@pytest.mark.slow
def test_a_rare_quota_is_told_behind_a_common_one(tmp_path: Path) -> None:
    """A quota that made one rejection in a hundred is found among those that the other does not explain."""
    meters = (FixedWindow(limit=168, enforced_over_s=5), Bucket(axis=Axis.TOKENS, limit=330_000, burst_s=5))
    truth = Provider(latency=QUICK, quotas=meters, retry_after=RetryAfter(habit="late", factor=1.5))
    recording = recorded(tmp_path, truth, 3.4)
    blamed = verdicts(rebased(meters, float(demand(3.4).arrival_s[0])), Evidence.of(recording.attempts)).blamed
    assert 5 <= (blamed == 1).sum() <= 0.05 * (blamed >= 0).sum(), "not what this test is about"
    for line, right, error in compare(truth, calibrate(recording).provider, meters):
        assert right, line
        assert error <= 0.03, line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("habit", "expected"),
    [
        (RetryAfter(), RetryAfter()),
        (RetryAfter(shown_in="whole_seconds"), RetryAfter(shown_in="whole_seconds")),
        (RetryAfter(habit="absent"), RetryAfter(habit="absent")),
        (RetryAfter(habit="late", factor=1.5), RetryAfter(habit="late", factor=1.5)),
        (RetryAfter(constant_s=2.0), RetryAfter(constant_s=2.0)),
    ],
    ids=["true", "whole", "absent", "late", "constant"],
)
def test_habits_of_retry_after(habit: RetryAfter, expected: RetryAfter, tmp_path: Path) -> None:
    """What rejected clients hear is told apart, and read as evidence only where it is the truth."""
    truth = Provider(latency=QUICK, quotas=(FixedWindow(limit=150, phase_s=7.0),), retry_after=habit)
    calibration = calibrate(recorded(tmp_path, truth, duration_s=HALVES_S))
    found = calibration.provider.retry_after
    assert found.habit == expected.habit
    assert found.factor == pytest.approx(expected.factor, rel=0.02)
    assert (found.constant_s, found.shown_in) == (expected.constant_s, expected.shown_in)
    assert calibration.provider.quotas[0].limit == pytest.approx(150, rel=0.03)


@pytest.mark.slow
def test_a_shaky_network_makes_no_habit(rejected: tuple[Provider, Trace, Recording]) -> None:
    """Retry-After that is off by what a network may take is true, neither late nor early."""
    truth, trace, recording = rejected
    attempts = recording.attempts.copy()
    attempts["sent_s"] -= np.random.default_rng(2).exponential(0.06, len(attempts))
    evidence = Evidence.of(attempts)
    said = verdicts(rebased(truth.quotas, float(trace.arrival_s[0])), evidence)
    found, about = retry_after(evidence, said, only_slots=False)
    assert (found.habit, found.factor) == ("true", 1.0), about


@pytest.mark.slow
def test_error_rates(tmp_path: Path) -> None:
    """Failures are told by status, with an interval that holds the truth; no quota is blamed for stray rejections."""
    faults = (Refused(status=503, share=0.05), Refused(status=429, share=0.03))
    provider = Provider(latency=QUICK, faults=faults)
    calibration = calibrate(recorded(tmp_path, provider, limited=True))
    shares = {finding.name: finding for finding in calibration.findings if finding.name.startswith("share of ")}
    for name, share in (("share of HTTP 503", 0.05), ("share of unexplained 429", 0.03)):
        assert shares[name].low < share < shares[name].high  # type: ignore[operator]
    assert {fault.status for fault in calibration.provider.faults if isinstance(fault, Refused)} == {503, 429}
    assert calibration.provider.quotas == ()


@pytest.mark.slow
def test_settlement_is_told(tmp_path: Path) -> None:
    """Tokens corrected to real use after the answer are told from tokens reserved for good."""
    meters = (Bucket(axis=Axis.TOKENS, limit=230_000, burst_s=10, settlement=Settlement.AT_END),)
    calibration = calibrate(recorded(tmp_path, Provider(latency=QUICK, quotas=meters)))
    (found,) = calibration.provider.quotas
    assert found.settlement is Settlement.AT_END
    assert found.limit == pytest.approx(230_000, rel=0.01)


@pytest.fixture(scope="module")
def rejected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Provider, Trace, Recording]:
    """Return a provider with two quotas, its demand, and a recording."""
    meters = (Bucket(limit=200, burst_s=5), FixedWindow(axis=Axis.TOKENS, limit=245_000, phase_s=3.0))
    truth = Provider(latency=QUICK, quotas=meters)
    trace = demand(3.0)
    folder = tmp_path_factory.mktemp("rejected")
    return truth, trace, record(truth, trace, folder / "rejected.jsonl", limited=False)


@pytest.fixture(scope="module")
def calibration(rejected: tuple[Provider, Trace, Recording]) -> Calibration:
    """Return what the first half of that recording tells."""
    return calibrate(rejected[2], HALVES_S)


def test_the_meters_themselves_agree_with_the_truth(rejected: tuple[Provider, Trace, Recording]) -> None:
    """The true quotas, asked about the recorded sends, reject exactly what was rejected."""
    truth, trace, recording = rejected
    evidence = Evidence.of(recording.attempts)
    said = verdicts(rebased(truth.quotas, float(trace.arrival_s[0])), evidence)
    assert evidence.to_explain.sum() > 100
    assert (said.rejected == evidence.to_explain).mean() > 0.999
    assert {0.0, 1.0} <= set(said.blamed[evidence.to_explain])


def test_the_order_of_arrival_does_not_change_the_count(rejected: tuple[Provider, Trace, Recording]) -> None:
    """Recorded sends that a network shuffled name other attempts; how many are rejected is told all the same."""
    truth, trace, recording = rejected
    attempts = recording.attempts.copy()
    quotas = rebased(truth.quotas, float(trace.arrival_s[0]))
    evidence = Evidence.of(attempts)
    assert rejections(quotas, evidence).tolist() == evidence.to_explain.tolist()
    attempts["sent_s"] -= np.random.default_rng(1).exponential(0.3, len(attempts))
    shuffled = Evidence.of(attempts)
    count = shuffled.to_explain.sum()
    assert abs(rejections(quotas, shuffled).sum() - count) <= 0.02 * count
    assert verdicts(quotas, shuffled).rejected.sum() < 0.95 * count, "not what this test is about"


def test_a_named_dimension_is_believed(rejected: tuple[Provider, Trace, Recording]) -> None:
    """A quota explains no rejection that named another dimension; one that named none may be anybody's."""
    attempts = rejected[2].attempts
    evidence = Evidence.of(attempts)
    named = attempts["axis"].to_numpy()[evidence.rows]
    assert set(named[evidence.to_explain]) == {"requests", "tokens"}
    requests, *others = currencies(evidence)
    tokens = next(each for each in others if each.axis is Axis.TOKENS)
    phase_s = float((3.0 - rejected[1].arrival_s[0]) % 60.0)
    shapes = (BucketShape(200 / 60), requests, "tokens"), (FixedShape(60.0, phase_s), tokens, "requests")
    for its_shape, currency, other in shapes:
        candidate = judge(its_shape, Ledger(evidence, currency), Sample.of(evidence))
        assert candidate.explained.any()
        assert not (named[evidence.turned_away][candidate.explained] == other).any()
    assert Evidence.of(attempts.assign(axis=None)).speaks_for(Axis.REQUESTS).all()


def test_costs_are_the_quotas_own(rejected: tuple[Provider, Trace, Recording]) -> None:
    """Each currency charges what a quota made of its fields charges."""
    from simulators.calibration.replay import _calls

    evidence = Evidence.of(rejected[2].attempts)
    calls = [_calls(evidence)(index) for index in range(len(evidence))]
    listed = currencies(evidence)
    assert len({currency.name for currency in listed}) == len(listed) > 5
    for currency in listed:
        quota = Bucket(limit=1e9, **currency.fields)
        cost, final = quota.cost_rule(), quota.final_rule()
        expected = [1.0 if cost is None else cost(call) for call in calls]
        np.testing.assert_array_equal(currency.reserved, expected)
        if currency.settled is not None:
            assert final is not None
            settled = [final(call, call.output_tokens) for call in calls]
            answered = evidence.admitted
            np.testing.assert_array_equal(currency.settled[answered], np.array(settled)[answered])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("quota", "shape"),
    [
        (Bucket(limit=160, burst_s=10), BucketShape(160 / 60)),
        (FixedWindow(limit=60, per_s=20, phase_s=3.0), FixedShape(20.0, 3.0)),
        (SlidingWindow(limit=60, per_s=20), SlidingShape(20.0)),
        (Slots(limit=4), SlotsShape(1.0)),
    ],
    ids=["bucket", "fixed", "sliding", "slots"],
)
def test_critical_capacity_says_what_the_meter_says(quota: Quota, shape: Shape, tmp_path: Path) -> None:
    """With the true parameters, nothing contradicts the true size, and the interval of sizes holds it."""
    provider = Provider(latency=QUICK, quotas=(quota,), retry_after=RetryAfter(habit="absent"))
    trace = demand(3.0)
    recording = record(provider, trace, tmp_path / "critical.jsonl", limited=False)
    if isinstance(shape, FixedShape):
        shape = FixedShape(20.0, (3.0 - trace.arrival_s[0]) % 20.0)
    evidence = Evidence.of(recording.attempts)
    assert evidence.to_explain.sum() > 20
    currency = next(each for each in currencies(evidence) if each.axis is Axis.REQUESTS)
    found = judge(shape, Ledger(evidence, currency), Sample.of(evidence))
    size = 160 / 60 * 10 if isinstance(shape, BucketShape) else quota.limit
    assert found.cost == 0
    assert found.floor <= size + 1e-4
    assert found.ceiling > size - 1e-4
    assert found.explained.all()


def test_whole_answers_tell_the_latency_model() -> None:
    """Without first chunks, first token, pace and slow calls are told by length and duration."""
    truth = LatencyModel(
        first_token_s=0.6, first_token_sigma=0.4, per_token_s=0.015, per_token_sigma=0.2, slow_share=0.02,
        slow_first_token_s=6.0,
    )  # fmt: skip
    tokens = np.exp(np.random.default_rng(5).normal(5.0, 0.9, 4000)).astype(np.int64) + 1

    def durations(model: LatencyModel, seed: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        latency = Latency(model, Streams(seed))
        return np.array([latency.draw(index, 0, length)[1] for index, length in enumerate(tokens.tolist())])

    given = durations(truth, 1)
    found = fit_whole_answers(given, tokens.astype(np.float64))
    assert found.per_token_s == pytest.approx(0.015, rel=0.1)
    assert found.first_token_s == pytest.approx(0.6, rel=0.25)
    fresh = durations(found, 2)
    assert fresh.mean() == pytest.approx(given.mean(), rel=0.03)
    for percent in (10, 50, 90, 99):
        assert np.percentile(fresh, percent) == pytest.approx(np.percentile(given, percent), rel=0.1)


def test_answers_of_one_length_have_no_pace() -> None:
    """Where length does not vary, all time is time to the first token."""
    durations = np.exp(np.random.default_rng(1).normal(0.0, 0.3, 500))
    found = fit_whole_answers(durations, np.full(500, 10.0))
    assert found.per_token_s == 0
    assert found.first_token_s == pytest.approx(1.0, rel=0.1)


def test_too_little_is_said_to_be_too_little(tmp_path: Path) -> None:
    """A few answers give no latency model, and fewer than two attempts no calibration at all."""
    recording = record(Provider(latency=QUICK), demand(0.7, duration_s=10.0), tmp_path / "few.jsonl")
    assert "a model needs 20" in calibrate(recording).report()
    with pytest.raises(ConfigurationError, match=r"few: 0 attempts sent before 0 s; calibration needs two"):
        calibrate(recording, 0.0)
    with pytest.raises(ConfigurationError, match=r"few: calibration has seen all of it; give calibrate\(\) an until_s"):
        calibrate(recording).validate()


@pytest.mark.slow
def test_another_recording_can_be_held_out(
    rejected: tuple[Provider, Trace, Recording], calibration: Calibration, tmp_path: Path
) -> None:
    """Validation on a second recording compares all of it."""
    truth, _, _ = rejected
    other = record(truth, demand(2.5, seed=9, duration_s=120.0), tmp_path / "other.jsonl", limited=False)
    validation = calibration.validate(other, RetryOnly(RetryConfig()), seeds=2)
    assert validation.since_s == 0.0
    assert abs(validation.error("goodput")) < 0.1
    assert "other, 0 s to" in validation.report()
    assert "<table" in validation._repr_html_()


@pytest.mark.slow
def test_what_is_shown(rejected: tuple[Provider, Trace, Recording], calibration: Calibration) -> None:
    """Report, table and notebook face name each figure with its interval and how well it is known."""
    assert calibration.identified
    frame = calibration.frame()
    assert list(frame.columns) == ["value", "low", "high", "known", "note"]
    assert frame.loc["tokens: window", "value"] == "fixed, 60 s"
    row = frame.loc["tokens: limit per 60 s"]
    assert row["low"] <= 245_000 < row["high"]
    for text in (calibration.report(), repr(calibration), calibration._repr_html_()):
        assert "pinned down" in text
    assert value(calibration, "Retry-After") == "true, seconds"
    assert calibrate(rejected[2], HALVES_S).report() == calibration.report(), "not repeatable"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (59_212.0, 60_310.0, 60_000.0),
        (0.1234, 0.1239, 0.1236),
        (499.0, 500.0, 499.0),
        (500.0, 501.0, 500.0),
        (7.0, np.inf, 7.0),
    ],
)
def test_roundest(low: float, high: float, expected: float) -> None:
    """Of the numbers that fit, the one with the fewest digits is taken."""
    assert roundest(low, high) == pytest.approx(expected, rel=5e-3)
    assert low <= roundest(low, high) < high


def test_wilson() -> None:
    """The interval of a share is sensible for none, some and all."""
    assert wilson(0, 100)[0] == 0.0
    assert wilson(0, 100)[1] == pytest.approx(0.037, abs=1e-3)
    assert wilson(100, 100)[1] == pytest.approx(1.0)
    assert wilson(10, 100) == pytest.approx((0.0552, 0.1744), abs=1e-3)


def test_findings_in_words() -> None:
    """Intervals read as intervals, and what is unknown as unknown."""
    assert Finding("limit", 5.0, 4.0, np.inf).interval == "at least 4"
    assert Finding("limit", 5.0, 4.0, 6.0).interval == "4 to 6"
    assert "unknown" in str(Finding("limit", None, known=Known.UNKNOWN))
    assert [Known.by_width(low, 100.0) for low in (99.0, 80.0, 10.0)] == [Known.PINNED, Known.ROUGH, Known.LOOSE]


@pytest.mark.parametrize("quota_per_s", [7.0, 13.0])
@pytest.mark.parametrize("rejects", [True, False], ids=["rejects", "lets wait"])
def test_a_load_finds_the_quota_whatever_it_is(quota_per_s: float, rejects: bool) -> None:
    """Demand rises until it is rejected or piles up, stays about there, and goes on for what is held out."""
    rows: list[AttemptRow] = []
    load = Load(SimpleNamespace(record=rows.append))
    rejection = AttemptRow(
        0, 0, 0.0, 0.0, 0.0, None, 0.0, "m", "p", "chat", status=429, outcome=RowOutcome.RATE_LIMITED
    )
    now = begun = over = 0.0
    paces = []
    while load.goes_on(now, int(begun), int(over)):
        now += 0.1
        begun += load.per_s / 10
        passed = min(begun - over, quota_per_s / 10)
        over += passed
        if rejects and begun - over > 3.0:
            load.record(rejection)
            begun -= 1.0
        paces.append(load.per_s)
    assert load.split_s is not None
    assert now == pytest.approx(load.split_s * 5 / 3, abs=0.2)
    assert 40 < load.split_s < 130
    assert paces[0] < 0.8 * quota_per_s
    assert np.mean(paces[len(paces) // 2 :]) == pytest.approx(quota_per_s, rel=0.15)
    assert (len(rows) > 40) is rejects


@pytest.mark.report
@pytest.mark.parametrize(
    "quota", [Bucket(limit=600, burst_s=2), FixedWindow(limit=36, per_s=3, phase_s=0.5)], ids=["bucket", "fixed"]
)
def test_over_http(quota: Quota, tmp_path: Path) -> None:
    """Recorded through the real SDK, a server's quota is told although calls take time to get there."""
    provider = Provider(latency=LatencyModel(first_token_s=0.15, per_token_s=0.0, rejection_s=0.02), quotas=(quota,))
    trace = synthesize(1.0, 3000.0, cv=2.0, seed=3)
    calibration = calibrate(record_over_http(provider, trace, tmp_path / "http.jsonl").recording)
    (found,) = (each for each in calibration.provider.quotas if each.axis is Axis.REQUESTS)
    assert shape(found) == shape(quota), calibration.report()
    assert rate(found) == pytest.approx(rate(quota), rel=0.03), calibration.report()


@pytest.mark.report
def test_forty_hidden_providers() -> None:
    """Of forty random providers, shapes, limits and held-out rejections are told as the golden report says."""
    judged = list(judgements())
    counts = table(judged)
    assert len(counts) >= 30
    assert np.mean([right for each in judged for right in each.shapes]) >= 0.9
    assert np.mean([error <= 0.03 for each in judged for error in each.errors]) >= 0.95
    assert not any(each.invented for each in judged)
    assert (off(counts, "replayed", "recorded") <= 0.1).mean() >= 0.9
    assert abs(in_all(counts, "replayed", "recorded")) <= 0.1
    assert abs(in_all(counts, "simulated", "lucky")) <= 0.1
    made = {"tests/golden/calibration/hidden.txt": report(judged)}
    assert not differences(made), "if meant, run python -m reports hidden --write"
