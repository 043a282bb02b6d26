"""What `import factflow_llm` costs, what it offers, and the command it installs."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import factflow_llm
from factflow_llm import _console

if TYPE_CHECKING:
    from types import ModuleType

HEAVY = [
    "openai",
    "anthropic",
    "boto3",
    "botocore",
    "tiktoken",
    "httpx",
    "httpx2",
    "torch",
    "transformers",
    "sentence_transformers",
    "numpy",
    "pandas",
    "matplotlib",
    "IPython",
    "ipywidgets",
    "optuna",
    "typer",
    "rich",
    "starlette",
    "uvicorn",
    "pydantic",
    "asyncio",
]

PROMISED = {
    "LLMClientFactory",
    "BaseLLMClient",
    "OpenAIClient",
    "AzureOpenAIClient",
    "AnthropicClient",
    "BedrockEmbeddingClient",
    "HuggingFaceEmbeddingClient",
    "AdaptiveRateLimiter",
    "AIMDMetrics",
    "RateLimitConfig",
    "RateLimitSignal",
    "RateLimitedClient",
    "RateLimitedEmbeddingClient",
    "LLMErrorClassification",
    "classify_llm_error",
    "get_error_metadata",
    "is_fatal_llm_error",
    "Message",
    "Role",
    "StreamChunk",
    "CompletionResponse",
    "EmbeddingResponse",
    "LLMClientProtocol",
    "EmbeddingClientProtocol",
    "ANTHROPIC_AVAILABLE",
    "BEDROCK_AVAILABLE",
    "SENTENCE_TRANSFORMERS_AVAILABLE",
    "LLMConfig",
    "LLMProviderConfig",
    "ModelType",
}


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_import_loads_nothing_heavy() -> None:
    """Importing the package imports no SDK, no pydantic, nothing of the laboratory."""
    done = python(f"import sys, factflow_llm; print(*sorted({{*{HEAVY}}} & {{*sys.modules}}))")
    assert (done.returncode, done.stdout.strip()) == (0, "")


def test_availability_flags_import_nothing() -> None:
    """The flags look for packages without importing them."""
    flags = "ANTHROPIC_AVAILABLE, BEDROCK_AVAILABLE, SENTENCE_TRANSFORMERS_AVAILABLE"
    done = python(
        f"import sys; from factflow_llm import {flags}; print({flags});sys.exit(bool({{*{HEAVY}}} & {{*sys.modules}}))"
    )
    packages = ("anthropic", "boto3", "sentence_transformers")
    assert done.stdout.split() == [str(find_spec(package) is not None) for package in packages]
    assert done.returncode == 0


@pytest.mark.parametrize(
    "name", ["LLMConfig", "RateLimitConfig", "AdaptiveRateLimiter", "classify_llm_error", "OpenAIClient"]
)
def test_no_public_name_imports_an_sdk(name: str) -> None:
    """Even the client classes load without their SDK; only making a client needs it."""
    done = python(
        f"import sys; from factflow_llm import {name};"
        "sys.exit(bool({'openai', 'anthropic', 'boto3', 'torch', 'pandas', 'simulators'} & {*sys.modules}))"
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_import_is_cheap() -> None:
    """The package executes far fewer modules than pydantic alone does."""
    count = "import sys; before = len(sys.modules); import {}; print(len(sys.modules) - before)"
    ours, pydantics = (int(python(count.format(package)).stdout) for package in ("factflow_llm", "pydantic"))
    assert ours < pydantics


def test_all_is_sorted_complete_and_loadable() -> None:
    """Every name in __all__ can be loaded, the promised ones are among them, and dir() shows them."""
    names = factflow_llm.__all__
    assert names == sorted(set(names))
    assert set(names) >= PROMISED
    assert set(names) <= set(dir(factflow_llm))
    assert [name for name in names if getattr(factflow_llm, name, None) is None] == []


def test_editors_see_what_is_loaded_at_run_time() -> None:
    """The names under TYPE_CHECKING, the table of their homes and __all__ agree."""
    source = Path(factflow_llm.__file__).read_text(encoding="utf-8")
    block = next(node for node in ast.parse(source).body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    seen = {alias.name: node.module for node in imports for alias in node.names}
    assert seen == factflow_llm._HOMES
    assert {*seen, *factflow_llm._PACKAGES} == {*factflow_llm.__all__}


def test_unknown_name_is_an_attribute_error() -> None:
    """A misspelt name fails as in any module."""
    with pytest.raises(AttributeError, match="has no attribute 'LLMClientFactroy'"):
        factflow_llm.LLMClientFactroy  # noqa: B018


def test_console_runs_the_laboratory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command is the laboratory's main."""
    called: list[bool] = []

    class Laboratory:
        @staticmethod
        def main() -> None:
            called.append(True)

    monkeypatch.setattr(_console.importlib, "import_module", lambda name: {"simulators.__main__": Laboratory}[name])
    _console.main()
    assert called == [True]


@pytest.mark.parametrize("missing", ["typer", "pandas"])
def test_console_without_the_laboratory_says_how_to_get_it(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the lab extra the command prints the pip line and exits with 2."""
    monkeypatch.setattr(_console.importlib, "import_module", _raising(missing))
    with pytest.raises(SystemExit) as left:
        _console.main()
    assert left.value.code == 2
    assert 'pip install "factflow-llm[lab]"' in capsys.readouterr().err


def test_console_hides_no_fault_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of ours that is missing is a fault, not a missing extra."""
    monkeypatch.setattr(_console.importlib, "import_module", _raising("simulators.engine.loop"))
    with pytest.raises(ModuleNotFoundError):
        _console.main()


def _raising(name: str) -> Any:
    def import_module(_: str) -> ModuleType:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    return import_module


def test_console_runs_without_site_packages() -> None:
    """With nothing installed the command still answers, in a real process."""
    root = str(Path(factflow_llm.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-S", "-c", "from factflow_llm._console import main; main()"],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "factflow-llm[lab]" in done.stderr) == (2, True)


@pytest.mark.parametrize("name", ["signals", "headers"])
def test_old_doors_lead_to_the_same_things(name: str) -> None:
    """What moved to the ground is still found where it was, under every name, and is the same object."""
    old, new = import_module(f"factflow_llm.ratelimit.{name}"), import_module(f"factflow_llm.{name}")
    assert old.__all__
    assert all(getattr(old, each) is getattr(new, each) for each in old.__all__)
