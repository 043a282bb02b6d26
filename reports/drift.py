"""What newer releases of the SDKs brought: error codes, parameters, names of headers. News, never a failure.

``python -m reports.drift`` prints what the installed releases have beside the list in ``drift.toml``;
``--write`` takes it into the list once somebody has looked at it.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LIST = Path(__file__).with_name("drift.toml")
PACKAGES = ("openai", "anthropic", "botocore")
_HEADER = re.compile(r"\"((?:x-(?:ratelimit|should|ms)-|retry-after|anthropic-ratelimit-)[a-z-]*)\"")


def anthropic_codes() -> set[str]:
    """Name the (status, code) pairs of the SDK's error table."""
    table = importlib.import_module("anthropic._error_classes").ERROR_CLASSES
    return {f"{int(status)} {code or '-'}" for status, code in table}


def bedrock_exceptions() -> set[str]:
    """Name the exceptions of Bedrock's service model."""
    loader = importlib.import_module("botocore.loaders").Loader()
    shapes = loader.load_service_model("bedrock-runtime", "service-2")["shapes"]
    return {name for name, shape in shapes.items() if shape.get("exception")}


def bedrock_converse() -> set[str]:
    """Name the members of a Converse request."""
    loader = importlib.import_module("botocore.loaders").Loader()
    return set(loader.load_service_model("bedrock-runtime", "service-2")["shapes"]["ConverseRequest"]["members"])


def openai_chat() -> set[str]:
    """Name the parameters of a chat completion."""
    client = importlib.import_module("openai").AsyncOpenAI(api_key="none")
    return set(inspect.signature(client.chat.completions.create).parameters)


def openai_responses() -> set[str]:
    """Name the parameters of a response."""
    client = importlib.import_module("openai").AsyncOpenAI(api_key="none")
    return set(inspect.signature(client.responses.create).parameters)


def openai_embeddings() -> set[str]:
    """Name the parameters of an embedding."""
    client = importlib.import_module("openai").AsyncOpenAI(api_key="none")
    return set(inspect.signature(client.embeddings.create).parameters)


def anthropic_messages() -> set[str]:
    """Name the parameters of a message."""
    client = importlib.import_module("anthropic").AsyncAnthropic(api_key="none")
    return set(inspect.signature(client.messages.create).parameters)


def headers() -> set[str]:
    """Name the headers about limits and waits that the SDKs read."""
    sources = (importlib.import_module(f"{sdk}._base_client") for sdk in ("openai", "anthropic"))
    return {name for source in sources for name in _HEADER.findall(inspect.getsource(source))}


SOURCES: tuple[Callable[[], set[str]], ...] = (
    anthropic_codes,
    bedrock_exceptions,
    bedrock_converse,
    openai_chat,
    openai_responses,
    openai_embeddings,
    anthropic_messages,
    headers,
)


def found() -> dict[str, set[str]]:
    """Ask every source; one that the installed releases do not have is left out."""
    names = {}
    for source in SOURCES:
        try:
            names[source.__name__] = source()
        except (ImportError, AttributeError, KeyError):
            continue
    return names


def news(known: dict[str, list[str]], now: dict[str, set[str]]) -> list[str]:
    """Say what is new and what has gone, a line for each source that has either."""
    lines = []
    for source, names in now.items():
        listed = set(known.get(source, ()))
        for word, changed in (("new", names - listed), ("gone", listed - names)):
            if changed:
                lines.append(f"{source}: {word}: {', '.join(sorted(changed))}")
    return lines


def _block(source: str, names: set[str]) -> str:
    return "".join([f"{source} = [\n", *(f'    "{name}",\n' for name in sorted(names)), "]\n"])


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} is not installed"


def main() -> None:
    """Print the news, or write the list anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="take what was found into the list")
    now = found()
    if parser.parse_args().write:
        blocks = (_block(key, names) for key, names in now.items())
        LIST.write_text("\n".join(blocks), encoding="utf-8")
        return
    print(*map(_version, PACKAGES), sep=", ")
    print(*(news(tomllib.loads(LIST.read_text("utf-8")), now) or ["nothing new"]), sep="\n")


if __name__ == "__main__":
    main()
