"""Presets and provider files: what ships is sound, sourced, and what is wrong in a file is said clearly."""

from __future__ import annotations

from pathlib import Path

import pytest

import simulators
from factflow_llm.errors import ConfigurationError
from factflow_llm.signals import Axis
from simulators.providers.calls import Call
from simulators.providers.catalogue import Provider, provider, provider_names
from simulators.providers.faults import incident
from simulators.providers.machine import ProviderMachine
from simulators.providers.quotas import Slots
from simulators.streams import Streams
from simulators.studies.parallel import quotas

FOLDER = Path(simulators.__file__).parent / "presets"


def test_the_promised_presets_are_there() -> None:
    """Names that documentation and tuning rely on exist."""
    promised = {"openai-tier-1", "openai-tier-3", "anthropic-start", "azure-30k", "bedrock-titan"}
    assert promised | {"bucket", "fixed-window", "slots"} <= set(provider_names())


@pytest.mark.parametrize("name", provider_names())
def test_every_preset_says_who_it_is_and_where_its_numbers_come_from(name: str) -> None:
    """The name is the file's, there is a sentence, and the file cites a source."""
    spec = provider(name)
    assert spec.name == name
    assert spec.description.endswith(".")
    assert "facts/" not in (FOLDER / f"{name}.toml").read_text()
    assert (FOLDER / f"{name}.toml").read_text().startswith("# ")


@pytest.mark.parametrize("name", provider_names())
def test_every_preset_serves_a_call(name: str) -> None:
    """A fresh machine of each preset admits a small call."""
    assert ProviderMachine(provider(name), Streams(1)).send(0.0, Call(0, 100, 50, 100)).status == 200


@pytest.mark.parametrize("name", provider_names())
def test_every_preset_survives_being_written_down(name: str, tmp_path: Path) -> None:
    """What a provider dumps, in Python, JSON and TOML, makes the same provider again, defaults included."""
    spec = provider(name)
    assert Provider(**spec.model_dump()) == spec
    assert Provider.model_validate(spec.model_dump(mode="json")) == spec
    assert Provider.model_validate_json(spec.model_dump_json()) == spec
    spec.to_toml(tmp_path / "written.toml", comment="first line\nsecond line")
    assert provider(tmp_path / "written.toml") == spec


def test_what_goes_wrong_is_written_down_too(tmp_path: Path) -> None:
    """Quotas and faults keep their kinds in the file, and what is default is left out."""
    spec = provider("slots").with_faults(*incident("anthropic-529-storm", start_s=300))
    text = spec.to_toml(tmp_path / "written.toml")
    assert provider(tmp_path / "written.toml") == spec
    assert '[[quotas]]\nkind = "slots"' in text
    assert text.count('[[faults]]\nkind = "refused"') == 2
    assert "clock_skew_s" not in text
    with pytest.raises(ConfigurationError, match="the file exists"):
        spec.to_toml(tmp_path / "written.toml")


@pytest.mark.parametrize(
    ("name", "capacity"),
    [
        ("openai-tier-1", {Axis.REQUESTS: 500 / 60, Axis.TOKENS: 200_000 / 60}),
        ("openai-tier-3", {Axis.REQUESTS: 5_000 / 60, Axis.TOKENS: 4_000_000 / 60}),
        ("azure-30k", {Axis.REQUESTS: 3, Axis.TOKENS: 500}),
        ("bedrock-titan", {Axis.REQUESTS: 1}),
        ("bucket", {Axis.REQUESTS: 10}),
        ("fixed-window", {Axis.REQUESTS: 10}),
        ("slots", {Axis.CONCURRENCY: 20}),
    ],
)
def test_presets_have_the_published_limits(name: str, capacity: dict[Axis, float]) -> None:
    """Sustained capacity is what the tables say."""
    assert ProviderMachine(provider(name), Streams(1)).capacity(0.0) == pytest.approx(capacity)


def test_the_documentation_lists_the_presets_with_their_quotas() -> None:
    """The table is what `factflow-llm providers` prints."""
    page = (FOLDER.parents[1] / "docs" / "simulator.md").read_text(encoding="utf-8")
    rows = [f"| `{name}` | {quotas(provider(name))} |" for name in provider_names()]
    assert "\n".join(["| preset | quotas |", "|---|---|", *rows]) in page


def test_an_unknown_name_suggests_the_nearest() -> None:
    """A slip of the keyboard is answered by what was probably meant."""
    with pytest.raises(ConfigurationError, match=r"'opnai-tier-1'.*openai-tier-1"):
        provider("opnai-tier-1")


def test_a_path_is_read(tmp_path: Path) -> None:
    """A file of one's own works like a preset."""
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\n[[quotas]]\nkind = "slots"\nlimit = 3\n')
    assert ProviderMachine(provider(path), Streams(1)).capacity(0.0) == {Axis.CONCURRENCY: 3}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = ", "not valid TOML"),
        ('nane = "x"', "nane: no such key"),
        ('[[quotas]]\nkind = "buckt"\nlimit = 3', "buckt"),
        ('[[quotas]]\nkind = "bucket"\nlimit = -3', "quotas.0.*limit.*greater than 0.*-3"),
        ('[[quotas]]\nkind = "bucket"\nlimit = 30\nburst_s = 1', "at least 2"),
        ("[latency]\nfirst_token_s = nan", "latency.first_token_s.*finite"),
        ("[retry_after]\nfactor = 3", 'needs habit = "late"'),
    ],
)
def test_bad_files_are_named_with_place_and_remedy(tmp_path: Path, text: str, words: str) -> None:
    """The error has the file, the key, the value and what to write instead."""
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=rf"bad\.toml: .*{words}"):
        provider(path)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", None])
def test_unreadable_files_are_errors_of_ours(tmp_path: Path, content: bytes | None) -> None:
    """Neither bytes that are no text nor a missing file escapes as a foreign exception."""
    path = tmp_path / "odd.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"odd\.toml"):
        provider(path)


def test_quotas_may_be_called_meters() -> None:
    """Files that were written before the quotas had their name are still read, and so are overridden presets."""
    assert Provider.model_validate({"meters": [{"kind": "slots", "limit": 4}]}) == Provider(quotas=(Slots(limit=4),))
    known = provider("bucket").model_dump() | {"meters": [Slots(limit=4)]}
    assert Provider.model_validate(known).quotas == (Slots(limit=4),)
