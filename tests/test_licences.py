"""The list of licences names everything an extra brings, and what releases say of themselves."""

from __future__ import annotations

from importlib.metadata import distribution
from typing import TYPE_CHECKING

from reports import licences

if TYPE_CHECKING:
    import pytest


def test_everything_an_extra_brings_is_listed() -> None:
    """What is required, and what that requires in turn, of extras of extras, too."""
    always = licences.closure(licences.PACKAGE, "")
    assert {"openai", "pydantic", "pydantic-core"} <= always.keys()
    assert {"boto3", "botocore"} <= licences.closure(licences.PACKAGE, "bedrock").keys()
    assert "botocore" not in always


def test_what_users_install_is_listed_under_a_licence(capsys: pytest.CaptureFixture[str]) -> None:
    """Each extra has its list; developers' tools are none of them."""
    licences.main()
    printed = capsys.readouterr().out
    assert "factflow-llm[bedrock]" in printed
    assert "factflow-llm[dev]" not in printed
    assert licences.licence(distribution("pytest")) in {"MIT", "MIT License"}
    assert "says nothing" not in printed.split("factflow-llm[")[0]
