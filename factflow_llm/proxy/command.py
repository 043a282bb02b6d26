"""``factflow-llm proxy``: runs the proxy on the loopback until it is interrupted."""

from __future__ import annotations

import argparse
import ipaddress
import sys
from pathlib import Path

from factflow_llm.errors import ConfigurationError
from factflow_llm.recorder import Recorder
from factflow_llm.settings import LLMConfig


def main(words: list[str]) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="factflow-llm proxy",
        description="Pace any program that speaks OpenAI's or Anthropic's API: give it this proxy's address as its "
        "base URL, and any key. GET /status tells what each profile does.",
    )
    parser.add_argument("--config", type=Path, required=True, help="the profiles, as LLMConfig.example() explains them")
    parser.add_argument("--port", type=int, default=8088, help="where to listen (8088)")
    parser.add_argument("--host", default="127.0.0.1", help="on which address (127.0.0.1: this machine only)")
    parser.add_argument("--record", type=Path, help="a new file for one row per attempt")
    asked = parser.parse_args(words)
    try:
        import uvicorn

        from factflow_llm.proxy.app import Proxy
    except ModuleNotFoundError as error:
        print(f'The proxy needs {error.name}: pip install "factflow-llm[proxy]"', file=sys.stderr)
        return 2
    try:
        config = LLMConfig.from_toml(asked.config)
        recorder = Recorder(asked.record) if asked.record else None
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 2
    if not _is_loopback(asked.host):
        print(f"Anybody who reaches {asked.host}:{asked.port} can spend on your keys.", file=sys.stderr)
    print(f"Pacing {len(config.providers)} profiles at http://{asked.host}:{asked.port} until Ctrl-C", flush=True)
    uvicorn.run(
        Proxy(config, recorder=recorder).app(),
        host=asked.host,
        port=asked.port,
        access_log=False,
        log_level="warning",
        server_header=False,
    )
    return 0


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
