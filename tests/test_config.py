"""Settings: frozen, named in their errors, and the same after a trip through a file."""

from __future__ import annotations

import math
import pickle
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factflow_llm.errors import ConfigurationError
from factflow_llm.ratelimit.config import RateLimitConfig, RetryConfig

if TYPE_CHECKING:
    from pathlib import Path

positive = st.floats(min_value=1e-6, max_value=1e12, allow_nan=False)
retries = st.builds(
    RetryConfig,
    max_attempts=st.integers(1, 1000),
    backoff_base_s=positive,
    backoff_cap_s=positive,
    retry_after_cap_s=positive,
    deadline_s=st.none() | positive,
)
configs = st.builds(
    RateLimitConfig,
    input_tokens_per_minute=st.none() | positive,
    tokens_per_minute=st.none() | positive,
    initial_concurrency=st.integers(1, 64),
    max_concurrency=st.integers(64, 4096),
    decrease=st.floats(0.01, 0.99),
    probe_s=positive,
    search_s=positive,
    cool_off_cap_s=st.floats(1.0, 1e6),
    retry=retries,
)


def test_nothing_is_needed() -> None:
    """The limiter starts without a single setting."""
    assert RateLimitConfig() == RateLimitConfig(retry=RetryConfig())


def test_a_value_like_any_other() -> None:
    """Settings compare and hash by value, pickle, and cannot be changed in place."""
    config = RateLimitConfig(requests_per_minute=500)
    assert pickle.loads(pickle.dumps(config)) == config
    assert hash(config) == hash(RateLimitConfig(requests_per_minute=500.0))
    with pytest.raises(ValueError, match="frozen"):
        config.decrease = 0.3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"requests_per_minute": 0}, r"requests_per_minute: .*greater than 0.*given: 0"),
        ({"tokens_per_minute": -3}, r"tokens_per_minute: .*greater than 0.*given: -3"),
        ({"decrease": 1}, r"decrease: .*less than 1.*given: 1"),
        ({"decrease": math.nan}, r"decrease: .*finite.*given: nan"),
        ({"probe_s": math.inf}, r"probe_s: .*finite.*given: inf"),
        ({"initial_concurrency": 2.5}, r"initial_concurrency: .*integer.*given: 2.5"),
        ({"max_concurrency": 0}, r"max_concurrency: .*greater than or equal to 1.*given: 0"),
        ({"requests_per_minute": "fast"}, r"requests_per_minute: .*number.*given: 'fast'"),
        ({"retry": {"max_attempts": 0}}, r"retry.*max_attempts: .*greater than or equal to 1.*given: 0"),
        ({"initial_concurrency": 9, "max_concurrency": 4}, r"initial_concurrency 9 is above max_concurrency 4; lower"),
        ({"requests_per_minute": 90, "max_requests_per_minute": 60}, r"90 is above max_requests_per_minute 60; lower"),
        ({"requests_per_minute": 0.1}, r"requests_per_minute 0\.1 is below min_requests_per_minute 0\.5"),
    ],
)
def test_what_is_out_of_bounds_is_named(values: dict[str, Any], expected: str) -> None:
    """An error says which key, what it got, and what the bound is."""
    with pytest.raises(ConfigurationError, match=expected):
        RateLimitConfig(**values)


def test_the_retry_table_is_shown_once() -> None:
    """A bad key inside a table is reported by its own value, not by a dump of the table around it."""
    with pytest.raises(ConfigurationError) as caught:
        RateLimitConfig(retry={"max_attempts": 0})  # type: ignore[arg-type]
    assert str(caught.value).count("given") == 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"decreese": 0.9}, "decreese: unknown key; did you mean 'decrease'"),
        ({"retry": {"max_atempts": 3}}, "max_atempts: unknown key; did you mean 'max_attempts'"),
        ({"zzz": 1}, "zzz: unknown key; known keys: breaker_s, "),
    ],
)
def test_an_unknown_key_is_an_error(values: dict[str, Any], expected: str) -> None:
    """Nothing is ignored; a near miss is answered with the right name."""
    with pytest.raises(ConfigurationError, match=expected):
        RateLimitConfig.from_dict(values)


@given(configs)
@settings(max_examples=60, deadline=None)
def test_toml_and_back(config: RateLimitConfig) -> None:
    """What is written is read back equal, to the last bit."""
    import tomllib

    assert RateLimitConfig.from_dict(tomllib.loads(config.to_toml(comment="tuned on\ntwo scenarios"))) == config


def test_a_file_and_back(tmp_path: Path) -> None:
    """The file that the laboratory writes is the file that production loads; nothing is overwritten by accident."""
    path = tmp_path / "limiter.toml"
    config = RateLimitConfig(requests_per_minute=500, retry=RetryConfig(deadline_s=60))
    text = config.to_toml(path, comment="why")
    assert path.read_text(encoding="utf-8") == text
    assert text.startswith("# why\n")
    assert RateLimitConfig.from_toml(path) == config
    with pytest.raises(ConfigurationError, match=r"limiter\.toml: the file exists"):
        RateLimitConfig().to_toml(path)
    assert RateLimitConfig.from_toml(path) == config
    RateLimitConfig().to_toml(path, overwrite=True)
    assert RateLimitConfig.from_toml(path) == RateLimitConfig()
    assert [entry.name for entry in tmp_path.iterdir()] == ["limiter.toml"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"decrease = ", "not valid TOML"),
        (b"decrease = 2.0", "decrease: .*less than 1"),
        (b"speed = 9", "speed: unknown key"),
        (b"\xff\xfe\x00", "not valid TOML"),
        (b"decrease = 0.9\ndecrease = 0.8", "not valid TOML"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, content: bytes, expected: str) -> None:
    """Whatever is wrong with a file, the error names the file and what to look at."""
    path = tmp_path / "limiter.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=rf"limiter\.toml: .*{expected}"):
        RateLimitConfig.from_toml(path)


def test_a_file_that_cannot_be_used(tmp_path: Path) -> None:
    """A missing file, a folder, and a place that cannot be written are configuration errors."""
    with pytest.raises(ConfigurationError, match=r"nowhere\.toml: cannot be read"):
        RateLimitConfig.from_toml(tmp_path / "nowhere.toml")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        RateLimitConfig.from_toml(tmp_path)
    with pytest.raises(ConfigurationError, match="cannot be written"):
        RateLimitConfig().to_toml(tmp_path / "no" / "folder.toml")
