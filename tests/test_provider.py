"""The provider machine: atomic admission, refusals, settlement, headers that parse back, faults, own hardware."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factflow_llm.headers import parse_limits, parse_retry_after
from factflow_llm.signals import Axis, AxisLimit
from simulators.providers.calls import Call, Settlement
from simulators.providers.catalogue import Compute, Provider, RetryAfter, provider, provider_names
from simulators.providers.faults import Refused
from simulators.providers.latency import LatencyModel, Load
from simulators.providers.limit_headers import Api
from simulators.providers.machine import ProviderMachine, Verdict
from simulators.providers.quotas import Bucket, FixedWindow, RejectionKind, SlidingWindow, Slots
from simulators.streams import Streams

QUICK = LatencyModel(first_token_s=1, first_token_sigma=0, per_token_s=0.1, per_token_sigma=0)


def machine(*meters: object, **more: object) -> ProviderMachine:
    """Make a quick provider with these quotas."""
    return ProviderMachine(Provider(quotas=meters, **({"latency": QUICK} | more)), Streams(7))


def test_all_quotas_must_admit_and_none_is_charged_otherwise() -> None:
    """A call refused by tokens takes nothing from the request quota."""
    world = machine(Bucket(limit=10), Bucket(axis=Axis.TOKENS, limit=1000))
    assert world.send(0.0, Call(0, 900, 1, 100)).status == 200
    refused = world.send(0.0, Call(1, 900, 1, 100))
    assert (refused.status, refused.error, refused.axis) == (429, "rate_limit", Axis.TOKENS)
    detail = world.rejection(0.0, Call(1, 900, 1, 100), refused.axis)
    assert detail is not None
    assert detail[1:] == pytest.approx((1000, 60, 1000, 1000, 60))
    assert repr(world) == "<ProviderMachine custom at 0.000 s: 9 requests left, 0 tokens left>"


def test_refusals_count_where_the_provider_says_so() -> None:
    """With ``rejections_count`` a client that hammers an empty bucket keeps it empty."""
    fair = machine(Bucket(limit=60))
    harsh = machine(Bucket(limit=60, rejections_count=True))
    for world in (fair, harsh):
        for index in range(60):
            world.send(0.0, Call(index, 1))
        verdicts = [world.send(0.3 * step, Call(100 + step, 1)).status for step in range(1, 30)]
        assert (200 in verdicts) is (world is fair)


def test_the_wait_that_is_told_is_enough_for_every_quota() -> None:
    """A true Retry-After names the moment at which all quotas admit, not only the one that refused."""
    world = machine(Bucket(limit=1, per_s=1), Bucket(axis=Axis.TOKENS, limit=616, per_s=61.6))
    assert world.send(0.0, Call(0, 600)).axis is None
    refused = world.send(0.0, Call(1, 300))
    assert refused.retry_after_s == pytest.approx(31.6)  # 300 + 16 tokens at 10 per second
    assert world.send(31.6, Call(1, 300)).status == 200


@pytest.mark.parametrize(
    ("habit", "told_s"),
    [
        (RetryAfter(), 1.235),
        (RetryAfter(shown_in="milliseconds"), 1.235),
        (RetryAfter(shown_in="whole_seconds"), 2.0),
        (RetryAfter(habit="late", factor=2), 2.47),
        (RetryAfter(habit="late", factor=0.1), 0.124),
        (RetryAfter(constant_s=5), 5.0),
        (RetryAfter(habit="absent"), None),
    ],
)
def test_retry_after_habits(habit: RetryAfter, told_s: float | None) -> None:
    """Truth, lateness, constants and silence reach the client, rounded up to what the header can show."""
    assert habit.told_s(1.23456) == told_s


def test_a_call_larger_than_a_quota_is_never_admissible() -> None:
    """It gets a 429 like any other, marked as hopeless; Azure even says to come back in a day."""
    world = ProviderMachine(provider("azure-30k"), Streams(1))
    verdict = world.send(0.0, Call(0, 20_000, 10, 20_000))
    assert (verdict.status, verdict.error, verdict.retry_after_s) == (429, "request_exceeds_limit", 86_400)
    assert math.isinf(world.wait_s(0.0, Call(0, 20_000, 10, 20_000)))


def test_a_spend_cap_is_refused_without_retry_after() -> None:
    """When the month's money is gone the provider tells no time."""
    cap = FixedWindow(axis=Axis.TOKENS, limit=1000, per_s=2_592_000, rejection=RejectionKind.QUOTA)
    world = machine(cap)
    world.send(0.0, Call(0, 990, 1, 10))
    assert world.send(1.0, Call(1, 990, 1, 10))[:4] == (429, "quota", Axis.TOKENS, None)


@pytest.mark.parametrize(("api", "status"), [(Api.OPENAI, 503), (Api.ANTHROPIC, 529)])
def test_some_caps_are_told_as_an_overload(api: Api, status: int) -> None:
    """A proxy that caps calls in flight says that it is overloaded, in its provider's way."""
    world = machine(Slots(limit=1, rejection=RejectionKind.OVERLOADED), api=api)
    world.send(0.0, Call(0, 1, 10))
    assert world.send(0.5, Call(1, 1))[:2] == (status, "overloaded")


def test_slots_are_free_again_after_finish() -> None:
    """A slot is held from sending to finish, however the answer ends."""
    world = machine(Slots(limit=1))
    first = world.send(0.0, Call(0, 1, 10))
    assert world.send(0.5, Call(1, 1))[:4] == (429, "rate_limit", Axis.CONCURRENCY, 1.0)
    world.finish(0.6, first.handle)
    assert world.send(0.6, Call(1, 1)).status == 200


def test_settlement_returns_what_was_not_used() -> None:
    """A reservation of max_tokens shrinks to the tokens really written."""
    world = machine(Bucket(axis=Axis.OUTPUT_TOKENS, limit=1000, settlement=Settlement.AT_END))
    verdict = world.send(0.0, Call(0, 10, 11, 1000))
    assert world.wait_s(0.0, Call(1, 10, 11, 900)) > 50
    world.finish(verdict.duration_s, verdict.handle)
    assert world.wait_s(verdict.duration_s, Call(1, 10, 11, 900)) == 0


def test_a_dropped_connection_pays_for_what_was_written() -> None:
    """Half an answer costs half its tokens."""
    world = machine(Bucket(axis=Axis.OUTPUT_TOKENS, limit=1000, settlement=Settlement.REALTIME))
    verdict = world.send(0.0, Call(0, 10, 1001, 4000))
    middle_s = (verdict.first_chunk_s + verdict.duration_s) / 2
    world.finish(middle_s, verdict.handle)
    assert world.rejection(middle_s, Call(1, 10), Axis.OUTPUT_TOKENS) is None
    assert world._gates[0].meter.show(middle_s)[1] == pytest.approx(1000 - 501, abs=1)


def test_realtime_output_may_overdraw_and_then_refuses() -> None:
    """Output is known only once written; a quota overdrawn by it refuses until it is back above nothing."""
    world = machine(Bucket(axis=Axis.OUTPUT_TOKENS, limit=600, settlement=Settlement.REALTIME))
    verdict = world.send(0.0, Call(0, 10, 1200, 4000))
    world.finish(verdict.duration_s, verdict.handle)
    refused = world.send(verdict.duration_s, Call(1, 10, 10, 4000))
    assert refused.axis is Axis.OUTPUT_TOKENS
    assert refused.retry_after_s == pytest.approx(60, abs=0.01)


def test_events_scale_and_do_not_accumulate() -> None:
    """Every factor is of the nominal quota; one axis can be meant alone."""
    world = machine(Bucket(limit=600), Bucket(axis=Axis.TOKENS, limit=6000), Slots(limit=10))
    world.scale(0.0, 0.5)
    world.scale(0.0, 0.5)
    assert world.capacity(0.0) == {Axis.REQUESTS: 5, Axis.TOKENS: 50, Axis.CONCURRENCY: 5}
    world.scale(0.0, 2.0, Axis.TOKENS)
    assert world.capacity(0.0) == {Axis.REQUESTS: 5, Axis.TOKENS: 200, Axis.CONCURRENCY: 5}


@pytest.mark.parametrize("factor", [0, -1, math.nan, math.inf])
def test_senseless_factors_are_refused(factor: float) -> None:
    """A quota cannot be scaled to nothing; outages are faults."""
    with pytest.raises(ValueError, match="use a fault"):
        machine(Bucket(limit=60)).scale(0.0, factor)


def test_a_quota_too_small_for_one_request_is_refused() -> None:
    """A burst of less than one request would never admit any."""
    with pytest.raises(ValueError, match="no room for a single request"):
        machine(Bucket(limit=10, per_s=1, burst_s=1)).scale(0.0, 0.05)


def test_daily_quotas_do_not_count_as_sustained_capacity() -> None:
    """Capacity is what a plot of minutes compares with."""
    assert machine(Bucket(limit=600), Bucket(limit=1000, per_s=86_400)).capacity(0.0) == {Axis.REQUESTS: 10}


def test_calls_queue_for_own_hardware() -> None:
    """Two workers serve two calls at once; the third waits for the first that is free."""
    world = machine(compute=Compute(workers=2), api="local")
    times = [world.send(0.0, Call(index, 10, 11)).duration_s for index in range(3)]
    assert times == pytest.approx([2, 2, 4])


def test_a_batch_too_large_runs_out_of_memory() -> None:
    """Beyond the memory a local model fails; the call occupies nobody."""
    world = machine(compute=Compute(memory_tokens=1000), api="local")
    assert world.send(0.0, Call(0, 1001)).error == "out_of_memory"
    assert world.send(0.0, Call(1, 1000, 1)).duration_s == pytest.approx(1)


def test_load_makes_later_calls_slower() -> None:
    """With a load model, calls in flight slow the next one down until they finish."""
    world = machine(latency=QUICK.model_copy(update={"load": Load(knee=1, slope=1)}))
    handles = [world.send(0.0, Call(index, 1, 1)) for index in range(3)]
    assert [round(one.first_chunk_s, 6) for one in handles] == [1, 1, 2]
    for one in handles:
        world.finish(3.0, one.handle)
    assert world.send(3.0, Call(9, 1, 1)).first_chunk_s == pytest.approx(1)


@given(seed=st.integers(0, 10_000), name=st.sampled_from(provider_names()))
def test_equal_worlds_give_equal_verdicts(seed: int, name: str) -> None:
    """Verdicts are a function of seed and calls."""
    assert play(provider(name), seed) == play(provider(name), seed)


@given(
    seed=st.integers(0, 10_000),
    name=st.sampled_from([one for one in provider_names() if provider(one).shows_limits]),
    skew_s=st.sampled_from([0.0, 4000.25, -77.5]),
)
def test_headers_say_exactly_what_the_verdict_says(seed: int, name: str, skew_s: float) -> None:
    """What the parser reads from the headers is what a client in process is handed, whatever the provider's clock."""
    spec = provider(name).model_copy(update={"clock_skew_s": skew_s})
    world = ProviderMachine(spec, Streams(seed))
    for now, verdict in zip(*play_on(world, seed), strict=True):
        headers = world.headers(now, verdict)
        assert parse_limits(headers, now_utc=datetime(2000, 1, 1, tzinfo=UTC)) == verdict.limits
        if verdict.retry_after_s is not None:
            told = parse_retry_after(headers)
            assert told is not None
            assert told[0] == verdict.retry_after_s


@given(seed=st.integers(0, 10_000), name=st.sampled_from(provider_names()))
def test_wait_s_foretells_every_verdict(seed: int, name: str) -> None:
    """0 means admitted now, infinity means never, anything else is refused now; refusals without a quota are chance."""
    world = ProviderMachine(provider(name).model_copy(update={"faults": ()}), Streams(seed))
    luck = random.Random(seed)
    now = 0.0
    for index in range(200):
        now += luck.expovariate(10)
        call = Call(index, luck.randrange(1, 4000), 50, luck.choice([None, 500, 40_000]))
        wait_s = world.wait_s(now, call)
        verdict = world.send(now, call)
        assert (verdict.status == 200) is (wait_s == 0)
        assert (verdict.error == "request_exceeds_limit") is math.isinf(wait_s)


def play_on(world: ProviderMachine, seed: int) -> tuple[list[float], list[Verdict]]:
    """Send a random load and settle half of it."""
    luck = random.Random(seed)
    times, verdicts = [], []
    now = 0.0
    for index in range(150):
        now += luck.expovariate(20)
        times.append(now)
        verdicts.append(world.send(now, Call(index, luck.randrange(1, 3000), 50, luck.choice([None, 500, 4000]))))
        if luck.random() < 0.5:
            world.finish(now, verdicts[-1].handle)
    return times, verdicts


def play(spec: Provider, seed: int) -> list[tuple[object, ...]]:
    """Return the verdicts of a random load on a new machine."""
    return [verdict[:-1] for verdict in play_on(ProviderMachine(spec, Streams(seed)), seed)[1]]


def test_headers_show_what_captures_of_openai_show() -> None:
    """A day's window that is furthest from full is the one shown: limit 10 000, remaining 9 999, reset 8.64 s."""
    spec = Provider(
        quotas=(Bucket(limit=500), Bucket(limit=10_000, per_s=86_400), Bucket(axis=Axis.TOKENS, limit=200_000)),
        shows_limits=True,
    )
    world = ProviderMachine(spec, Streams(1))
    headers = world.headers(0.0, world.send(0.0, Call(0, 13)))
    assert {name: value for name, value in headers.items() if name.startswith("x-")} == {
        "x-ratelimit-limit-requests": "10000",
        "x-ratelimit-remaining-requests": "9999",
        "x-ratelimit-reset-requests": "8.64s",
        "x-ratelimit-limit-tokens": "200000",
        "x-ratelimit-remaining-tokens": "199971",
        "x-ratelimit-reset-tokens": "8ms",
    }


def test_azure_headers_are_whole_seconds() -> None:
    """Azure tells resets as bare integers and the wait in milliseconds."""
    world = ProviderMachine(provider("azure-30k"), Streams(1))
    world.send(12.3, Call(0, 20_000, 1, 5_000))
    refused = world.send(12.4, Call(1, 20_000, 1, 5_000))
    headers = world.headers(12.4, refused)
    assert (headers["x-ratelimit-reset-tokens"], headers["retry-after-ms"]) == ("48", "47600")


def test_anthropic_headers_are_times_of_day_and_thousands() -> None:
    """Anthropic rounds tokens to thousands, names the second of full replenishment, and adds an aggregate."""
    world = ProviderMachine(provider("anthropic-start"), Streams(1))
    verdict = world.send(0.0, Call(0, 14_600, 10, 100))
    headers = world.headers(0.0, verdict)
    assert headers["anthropic-ratelimit-input-tokens-remaining"] == "1985000"
    assert headers["anthropic-ratelimit-tokens-limit"] == "2400000"
    assert headers["anthropic-ratelimit-requests-reset"] == "2026-01-01T00:00:01Z"
    assert AxisLimit(Axis.REQUESTS, 1000, 999, 1) in verdict.limits


def test_bedrock_shows_nothing() -> None:
    """Neither limits nor a wait reach a client of Bedrock."""
    world = ProviderMachine(provider("bedrock-titan"), Streams(1))
    verdicts = [world.send(0.0, Call(index, 10)) for index in range(61)]
    assert verdicts[-1][:5] == (429, "rate_limit", Axis.REQUESTS, None, ())
    assert set(world.headers(0.0, verdicts[-1])) == {"date"}


def test_an_api_without_headers_cannot_show_limits() -> None:
    """A contradiction in the description is an error that names both sides."""
    with pytest.raises(ValueError, match="bedrock"):
        Provider(api=Api.BEDROCK, shows_limits=True)


def test_a_workspace_lies_inside_its_organisation() -> None:
    """Nested limits are quotas side by side: the smaller one refuses first."""
    organisation = Bucket(axis=Axis.INPUT_TOKENS, limit=2_000_000)
    workspace = Bucket(axis=Axis.INPUT_TOKENS, limit=30_000, shown=False)
    world = machine(organisation, workspace, api="anthropic", shows_limits=True)
    world.send(0.0, Call(0, 30_000))
    refused = world.send(0.0, Call(1, 30_000))
    assert refused.error == "rate_limit"
    assert [limit.limit for limit in refused.limits] == [2_000_000]


def test_faults_lie_over_any_provider() -> None:
    """A storm refuses calls although quota is left, and takes none."""
    spec = provider("bucket").with_faults(Refused(status=529, start_s=10, duration_s=10))
    world = ProviderMachine(spec, Streams(7))
    assert world.send(0.0, Call(0, 1)).status == 200
    assert world.send(15.0, Call(1, 1))[:2] == (529, "overloaded")
    assert world.send(20.0, Call(2, 1)).status == 200


def test_a_sliding_minute_matches_microsofts_simulator() -> None:
    """30 000 TPM allow 30 requests per 10 s, as aoai-api-simulator has it."""
    world = machine(SlidingWindow(limit=180, per_s=60, enforced_over_s=10))
    assert [world.send(0.1 * step, Call(step, 1)).status for step in range(31)] == [200] * 30 + [429]
