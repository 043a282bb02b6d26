"""Stores: the same grants as the protocol, wherever it runs; and errors that say what to write."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sqlite3
import time
import uuid
from typing import TYPE_CHECKING

import pytest

from factflow_llm import AdaptiveRateLimiter, RateLimitConfig
from factflow_llm.errors import ConfigurationError
from factflow_llm.ratelimit.said import SAMPLES, Answer, Exhausted, Grant, Law, OpenAgain, Rejected, Report, Shown
from factflow_llm.ratelimit.shared import refresh
from factflow_llm.ratelimit.stores.opening import open_store
from factflow_llm.ratelimit.stores.words import state_from_json, state_to_json

if TYPE_CHECKING:
    from pathlib import Path

    from factflow_llm.ratelimit.shared import State

REDIS = os.environ.get("FACTFLOW_TEST_REDIS", "")
needs_redis = [pytest.mark.redis, pytest.mark.skipif(not REDIS, reason="FACTFLOW_TEST_REDIS names no Redis server")]


def story(seed: int, length: int = 160) -> list[Report]:
    """Return what some members say, one after the other: every word there is occurs."""
    luck = random.Random(seed)
    told = {"epoch": 0}
    reports = []
    for _ in range(length):
        if luck.random() < 0.1:
            told["epoch"] += 1
        axis = luck.choice(["requests", "tokens"])
        rate = luck.uniform(1.0, 9.0)
        law = Law(
            rates={axis: rate},
            known={axis: rate},
            fall_back={axis: 0.5 * rate},
            calls_per_s=luck.choice([None, luck.uniform(2.0, 40.0)]),
            slots=luck.uniform(1, 30),
            slots_before=luck.uniform(1, 30),
            slots_open=luck.random() < 0.5,
            searching=False,
        )
        reports.append(
            Report(
                member=luck.choice("abcdefg"),
                weight=luck.choice([0.5, 1.0, 2.0]),
                wants={priority: luck.uniform(0.0, 9.0) for priority in luck.sample([-1, 0, 3, 10], 2)},
                wants_slots=luck.randrange(12),
                in_flight=luck.randrange(5),
                limited=luck.random() < 0.5,
                admitted=(luck.randrange(99), luck.uniform(0, 9e3), luck.uniform(0, 9e3)),
                per_s=(luck.uniform(0, 0.05), luck.uniform(0, 0.5), luck.uniform(0, 0.5)),
                share=luck.random(),
                born=luck.choice([0.0, 5.0]),
                epoch=luck.choice([0, told["epoch"]]),
                law=luck.choice([None, law]),
                rejected=luck.choice([None, None, Rejected(0.0, luck.choice([None, axis]))]),
                reopened=luck.choice([None, OpenAgain(0.25, 0.1)]),
                answer=Answer(0, (luck.randrange(99), 5.0, 5.0), [luck.randrange(9)] * SAMPLES),
                closed_s=luck.choice([0.0, 0.0, 4.0]),
                breaker_s=luck.choice([None, None, 0.0, 60.0]),
                exhausted=luck.choice([None, Exhausted("daily_quota", luck.choice([None, 7_200.0]))]),
                shown={axis: Shown(500.0, luck.uniform(0, 499), 10.0, luck.uniform(0, 3))},
                leaves=luck.random() < 0.05,
            )
        )
    return reports


def assert_alike(grant: Grant, expected: Grant) -> None:
    """Compare all but what moves with the clock of the store."""
    alike = ("slots", "leads", "members", "epoch", "others_in_flight")
    assert [getattr(grant, name) for name in alike] == [getattr(expected, name) for name in alike]
    assert grant.share == pytest.approx(expected.share, abs=1e-9)
    assert grant.others_per_s == pytest.approx(expected.others_per_s, rel=1e-9)
    assert grant.others_admitted == pytest.approx(expected.others_admitted, rel=1e-6, abs=20.0)
    assert grant.asked[::2] == expected.asked[::2]
    assert grant.asked.ago_s == pytest.approx(expected.asked.ago_s, abs=0.5)
    assert (grant.seen is None) == (expected.seen is None)
    if grant.seen is not None and expected.seen is not None:
        assert list(grant.seen.in_flight) == list(expected.seen.in_flight)
        assert grant.seen.admitted == pytest.approx(expected.seen.admitted, rel=1e-6, abs=20.0)
        assert (grant.seen.rejected is None) == (expected.seen.rejected is None)
        assert (grant.seen.reopened is None) == (expected.seen.reopened is None)
    assert (grant.breaker_s is None) == (expected.breaker_s is None)
    assert (grant.exhausted is None) == (expected.exhausted is None)
    if grant.exhausted is not None and expected.exhausted is not None:
        assert grant.exhausted.reason == expected.exhausted.reason
        assert grant.exhausted.resumes_s == pytest.approx(expected.exhausted.resumes_s, abs=1.0)
    assert grant.closed_s == pytest.approx(expected.closed_s, abs=0.5)
    assert (grant.law is None) == (expected.law is None)
    assert grant.law is None or grant.law.rates == pytest.approx(expected.law.rates if expected.law else {})
    assert grant.shown.keys() == expected.shown.keys()


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=needs_redis)])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the address of an empty store."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/quota.db"
    return f"{REDIS}?namespace=test-{uuid.uuid4().hex}"


@pytest.mark.parametrize("seed", range(3))
def test_a_store_grants_what_the_protocol_says(address: str, seed: int) -> None:
    """Seven members, every word they can say, and grants to the last digit."""

    async def main() -> None:
        store = open_store(address, "quota")
        state: State | None = None
        born, judged, asked, seen = 0.0, 0, 0, 0
        try:
            for number, report in enumerate(story(seed)):
                if report.answer is not None:
                    report = report._replace(answer=report.answer._replace(number=asked if number % 9 else 0))  # noqa: PLW2901
                report = report._replace(seen=seen)  # noqa: PLW2901
                told = report._replace(born=born if report.born else 0.0)
                grant = await store.refresh(told)
                if state is not None:
                    told = report._replace(born=state.born if report.born else 0.0)
                born = grant.born
                state, expected = refresh(state, told, time.time())
                assert_alike(grant, expected)
                asked = expected.asked.number
                seen = asked if expected.seen is not None else 0
                judged += expected.seen is not None and expected.seen.rejected is not None
        finally:
            await store.aclose()
        assert judged > 2

    asyncio.run(main())


def test_quotas_and_namespaces_are_told_apart(address: str) -> None:
    """Two quotas of one store, and one quota of two namespaces, know nothing of each other."""

    async def main() -> None:
        elsewhere = f"{address.partition('?')[0]}?namespace=other-{uuid.uuid4().hex}"
        stores = [open_store(address, "one"), open_store(address, "two"), open_store(elsewhere, "one")]
        grants = [await store.refresh(story(0)[0]) for store in stores]
        assert [grant.members for grant in grants] == [1, 1, 1]
        for store in stores:
            await store.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("seed", range(3))
def test_a_state_survives_as_text(seed: int) -> None:
    """What a file keeps is what was known."""
    state: State | None = None
    for report in story(seed):
        state, _ = refresh(state, report, 1000.0)
        assert state_from_json(state_to_json(state)) == state


# --- addresses that are none --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "remedy"),
    [
        ("localhost:6379", 'write "sqlite:///path/to/file"'),
        ("http://host/0", "no store is known by 'http'"),
        ("redis:///0", "the host is missing"),
        ("redis://host:port/0", "this is no address"),
        ("redis://:hunter22@host/0", 'write ":${NAME}@"'),
        ("redis://host/0?namespace={team}", "letters, digits and . : _ -"),
        ("redis://host/0?names=team", "only namespace may follow"),
        ("sqlite://quota.db", "write three slashes"),
        ("sqlite:///", "write three slashes"),
        ("redis+sentinel://host:26379", "the name of the master is missing"),
        ("", "no store is known by"),
    ],
)
def test_an_address_that_is_none_says_what_to_write(address: str, remedy: str) -> None:
    """At once, where it is written; and no password comes out."""
    with pytest.raises(ConfigurationError) as caught:
        RateLimitConfig(shared=address)
    assert remedy in str(caught.value)
    assert "shared: " in str(caught.value)
    assert "hunter22" not in str(caught.value)


def test_a_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials come from the environment."""
    monkeypatch.delenv("QUOTA_PASSWORD", raising=False)
    with pytest.raises(ConfigurationError, match="QUOTA_PASSWORD, which is not set"):
        open_store("rediss://:${QUOTA_PASSWORD}@host/0", "quota")


def test_settings_with_a_store_are_written_and_read(tmp_path: Path) -> None:
    """As one wrote them, the reference to the password included."""
    config = RateLimitConfig(shared="redis://:${QUOTA_PASSWORD}@host/0?namespace=team", shared_required=False, weight=2)
    config.to_toml(tmp_path / "limits.toml")
    assert RateLimitConfig.from_toml(tmp_path / "limits.toml") == config


# --- stores that cannot be used -----------------------------------------------------------------------------------


def refused(address: str) -> str:
    """Make one call with a store that cannot be used; return the error's text."""

    async def main() -> str:
        limiter = AdaptiveRateLimiter(RateLimitConfig(shared=address))
        with pytest.raises(ConfigurationError) as caught:
            async with limiter.permit():
                pass
        await limiter.aclose()
        return str(caught.value)

    return asyncio.run(main())


def test_a_process_closed_twice_says_goodbye(tmp_path: Path) -> None:
    """The second close does not cut off the word that the first one began."""

    async def main() -> None:
        limiter = AdaptiveRateLimiter(RateLimitConfig(shared=f"sqlite:///{tmp_path}/quota.db"))
        async with limiter.permit() as permit:
            permit.succeeded()
        limiter.close()
        await asyncio.sleep(0)  # it has begun to say goodbye
        await limiter.aclose()

    asyncio.run(main())
    with contextlib.closing(sqlite3.connect(tmp_path / "quota.db")) as file:
        (state,) = file.execute("SELECT state FROM quota").fetchone()
    assert json.loads(state)["members"] == {}


def test_a_file_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    """In a folder that is not there."""
    assert "unable to open database file" in refused(f"sqlite:///{tmp_path}/nowhere/quota.db")


def test_a_file_that_holds_something_else_is_an_error(tmp_path: Path) -> None:
    """No database, or another one's row under the key."""
    (tmp_path / "notes.txt").write_text("Dear diary, " * 400)
    assert "name a file of its own" in refused(f"sqlite:///{tmp_path}/notes.txt")
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE quota (key TEXT PRIMARY KEY, state TEXT NOT NULL)")
        other.execute("""INSERT INTO quota VALUES ('factflow:default:1', '{"colour": "red"}')""")
    other.close()
    assert "'factflow:default:1' holds something else" in refused(f"sqlite:///{tmp_path}/other.db")


def test_a_file_that_may_only_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says who has to be allowed what. Root may write to every file, so the question is answered for it."""
    path = tmp_path / "quota.db"
    path.touch()
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "let this process write to it" in refused(f"sqlite:///{path}")


def test_a_server_that_is_not_there_is_an_error_at_the_start() -> None:
    """Unless the settings say that it is not required: then the process begins alone."""
    pytest.importorskip("redis")
    address = "redis://127.0.0.1:1/0"
    assert "start it, or write shared_required = false" in refused(address)

    async def alone() -> float:
        limiter = AdaptiveRateLimiter(RateLimitConfig(shared=address, shared_required=False))
        async with limiter.permit() as permit:
            permit.succeeded()
        await limiter.aclose()
        return limiter.metrics.succeeded

    assert asyncio.run(alone()) == 1


@pytest.mark.redis
@pytest.mark.skipif(not REDIS, reason="FACTFLOW_TEST_REDIS names no Redis server")
@pytest.mark.parametrize("what", ["another type", "another state", "a wrong password"])
def test_what_a_server_refuses_is_an_error(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something else under the key, or credentials that it does not know."""
    from redis import Redis

    namespace = f"test-{uuid.uuid4().hex}"
    address = f"{REDIS}?namespace={namespace}"
    with Redis.from_url(REDIS) as server:
        if what == "another type":
            server.set(f"{{{namespace}:default}}:1", "mine")
            assert "choose another ?namespace=" in refused(address)
        elif what == "another state":
            server.hset(f"{{{namespace}:default}}:1", mapping={"law": "my word"})
            assert "choose another ?namespace=" in refused(address)
        else:
            monkeypatch.setenv("QUOTA_PASSWORD", "wrong-and-secret")
            text = refused(REDIS.replace("://", "://somebody:${QUOTA_PASSWORD}@") + f"?namespace={namespace}")
            assert "redis://user:${NAME}@host/0" in text
            assert "wrong-and-secret" not in text
