"""Quotas of one's own: one line in code, in a file, on the command line, and a page that lists every key."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from factflow_llm.errors import ConfigurationError
from factflow_llm.signals import Axis
from simulators.providers.catalogue import keys, provider, quota_limits
from simulators.providers.machine import ProviderMachine
from simulators.providers.own_quotas import QuotaLimits
from simulators.providers.quotas import FixedWindow, SlidingWindow, Slots
from simulators.streams import Streams

PAGE = Path(__file__).parents[1] / "docs" / "providers.md"


def capacity(**limits: Any) -> dict[Axis, float]:
    """Return what Azure's preset sustains with limits of one's own."""
    return ProviderMachine(provider("azure-30k").with_quota(**limits), Streams(0)).capacity(0.0)


def test_a_quota_keeps_how_it_counts() -> None:
    """A number of one's own replaces the provider's, in its window and with its guess at tokens."""
    mine = provider("azure-30k").with_quota(requests_per_minute=90, tokens_per_minute=12_000)
    tokens, requests = mine.quotas
    assert isinstance(tokens, FixedWindow)
    assert isinstance(requests, SlidingWindow)
    assert (tokens.limit, tokens.unset_output_tokens) == (12_000, 16)
    assert (requests.limit, requests.enforced_over_s, requests.rejections_count) == (90, 10, True)
    assert capacity(requests_per_second=2) == {Axis.TOKENS: 500.0, Axis.REQUESTS: 2.0}


def test_what_a_provider_lacks_is_added_and_inf_takes_away() -> None:
    """A day stands beside the minute; calls at once are slots; no limit is no quota."""
    mine = provider("openai-tier-1").with_quota(requests_per_day=10_000, concurrency=7, tokens_per_minute=math.inf)
    assert [(quota.axis, quota.per_s) for quota in mine.quotas] == [
        (Axis.REQUESTS, 60.0), (Axis.REQUESTS, 86_400.0), (Axis.CONCURRENCY, 60.0),
    ]  # fmt: skip
    assert isinstance(mine.quotas[2], Slots)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"request_per_minute": 5}, "request_per_minute: no such limit; did you mean 'requests_per_minute'"),
        ({"tokens_per_minute": 0}, "tokens_per_minute: 0 must be a number above 0, or inf"),
        ({"tokens_per_minute": True}, "True must be a number"),
        (
            {"requests_per_minute": 1},
            "limit = 1 per 60 s leaves .*requests per enforced_over_s",
        ),
    ],
)
def test_limits_that_make_no_sense(limits: dict[str, Any], message: str) -> None:
    """A misspelt limit gets the nearest one, a senseless number its bound."""
    with pytest.raises(ConfigurationError, match=message):
        capacity(**limits)


def test_words_of_the_command_line() -> None:
    """What stands behind --quota is a limit by its span."""
    assert quota_limits(["requests=300/min", "tokens=2e6/day", "concurrency=20"]) == {
        "requests_per_minute": 300.0, "tokens_per_day": 2e6, "concurrency": 20.0,
    }  # fmt: skip
    for words, message in (("requests", "write requests=300/min"), ("tokens=e/min", "is no number")):
        with pytest.raises(ConfigurationError, match=message):
            quota_limits([words])


def test_a_file_may_start_from_a_preset(tmp_path: Path) -> None:
    """A provider's file names a preset, or a file beside it, and says in what it differs."""
    (tmp_path / "base.toml").write_text('preset = "azure-30k"\nname = "base"\n[quota]\ntokens_per_minute = 9000\n')
    (tmp_path / "mine.toml").write_text('preset = "base.toml"\n[retry_after]\nshown_in = "seconds"\n')
    mine = provider(tmp_path / "mine.toml")
    assert (mine.name, mine.quotas[0].limit, mine.retry_after.shown_in) == ("base", 9000, "seconds")
    assert mine.quotas[1] == provider("azure-30k").quotas[1]
    assert mine.latency == provider("azure-30k").latency
    (tmp_path / "circle.toml").write_text('preset = "circle.toml"\n')
    with pytest.raises(ConfigurationError, match="circle"):
        provider(tmp_path / "circle.toml")


def test_a_misspelt_key_gets_the_nearest_one(tmp_path: Path) -> None:
    """In a file, too, at whatever depth."""
    path = tmp_path / "typo.toml"
    path.write_text('preset = "bucket"\nshow_limits = true\n[quota]\nrequest_per_minute = 5\n')
    with pytest.raises(ConfigurationError, match=r"provider.show_limits: no such key; did you mean 'shows_limits'"):
        provider(path)
    path.write_text('preset = "bucket"\n[latency]\nfirst_tokens = 1\n')
    with pytest.raises(ConfigurationError, match="did you mean 'first_token_s'"):
        provider(path)


def test_the_page_lists_every_key() -> None:
    """Whatever may stand in a provider's file stands in the documentation."""
    page = PAGE.read_text(encoding="utf-8")
    listed = (*keys(), *QuotaLimits.__annotations__)
    missing = [key for key in listed if not any(f"{mark}{key}" in page for mark in ("`", "["))]
    assert missing == []
