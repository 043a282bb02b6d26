"""Errors of every provider, met through the real SDKs over a loopback server, and judged against tables of payloads."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import pickle
import socket
import ssl
import struct
import subprocess
import sys
import tomllib
import zlib
from concurrent.futures import Future
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anthropic
import openai
import pytest

from factflow_llm.errors import (
    BadResponseError,
    BreakerOpenError,
    ConfigurationError,
    DeadlineExceededError,
    ErrorReason,
    ExtraMissingError,
    InvalidRequestError,
    LLMErrorClassification,
    PermitSettledError,
    Phase,
    UnknownProfileError,
    WrongEventLoopError,
    WrongModelTypeError,
    classify_llm_error,
    get_error_metadata,
    is_fatal_llm_error,
    is_retryable_llm_error,
    stamina_hook,
)
from factflow_llm.errors.metadata import REASONS
from factflow_llm.signals import Axis, Outcome
from tests.support.loopback import Drop, Events, Hang, Loopback, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DATA = Path(__file__).parent / "data"
CASES: list[dict[str, Any]] = tomllib.loads((DATA / "error_payloads.toml").read_text("utf-8"))["case"]
STATUSES: dict[str, list[int | list[int]]] = tomllib.loads((DATA / "statuses.toml").read_text("utf-8"))
ANTHROPIC_CODES: dict[str, dict[str, list[str]]] = tomllib.loads(
    (DATA / "anthropic_error_codes.toml").read_text("utf-8")
)
HELLO: Any = [{"role": "user", "content": "the prompt is a secret"}]
KEY = "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789"


@pytest.fixture(scope="module")
def server() -> Iterator[Loopback]:
    """Serve one scripted answer after another for the whole module."""
    with Loopback(Drop()) as loopback:
        yield loopback


def ask_openai(url: str, *, stream: bool = False, key: str = KEY, timeout_s: float = 5.0) -> object:
    """Make one chat call with the openai SDK."""
    with openai.OpenAI(api_key=key, base_url=f"{url}/v1", max_retries=0, timeout=timeout_s) as client:
        answer = client.chat.completions.create(model="m", messages=HELLO, stream=stream)
        return list(answer) if stream else answer


def ask_azure(url: str, *, stream: bool = False, key: str = KEY) -> object:
    """Make one chat call with the openai SDK's Azure client."""
    with openai.AzureOpenAI(
        api_key=key, azure_endpoint=url, api_version="2024-10-21", max_retries=0, timeout=5.0
    ) as client:
        answer = client.chat.completions.create(model="m", messages=HELLO, stream=stream)
        return list(answer) if stream else answer


def ask_anthropic(url: str, *, stream: bool = False, key: str = KEY, timeout_s: float = 5.0) -> object:
    """Make one chat call with the anthropic SDK."""
    with anthropic.Anthropic(api_key=key, base_url=url, max_retries=0, timeout=timeout_s) as client:
        answer = client.messages.create(model="m", max_tokens=5, messages=HELLO, stream=stream)
        return list(answer) if stream else answer


def ask_bedrock(url: str, *, stream: bool = False, timeout_s: float = 5.0) -> object:
    """Make one call with boto3."""
    boto3 = pytest.importorskip("boto3")
    from botocore.config import Config

    client = boto3.client(
        "bedrock-runtime",
        region_name="us-east-1",
        endpoint_url=url,
        aws_access_key_id="AKIAABCDEFGHIJKLMNOP",
        aws_secret_access_key=KEY,
        config=Config(
            retries={"total_max_attempts": 1, "mode": "standard"}, read_timeout=timeout_s, connect_timeout=timeout_s
        ),
    )
    if stream:
        return list(client.invoke_model_with_response_stream(modelId="m", body=b"{}")["body"])
    return client.invoke_model(modelId="m", body=b"{}")["body"].read()


ASK: dict[str, Callable[..., object]] = {
    "openai": ask_openai,
    "azure": ask_azure,
    "anthropic": ask_anthropic,
    "bedrock": ask_bedrock,
}


def event_stream_exception(name: str, payload: str) -> bytes:
    """Encode one exception message of AWS's event stream."""

    def header(key: str, text: str) -> bytes:
        return bytes([len(key)]) + key.encode() + b"\x07" + struct.pack(">H", len(text)) + text.encode()

    headers = header(":message-type", "exception") + header(":exception-type", name)
    total = 16 + len(headers) + len(payload.encode())
    prelude = struct.pack(">II", total, len(headers))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + payload.encode()
    return message + struct.pack(">I", zlib.crc32(message))


def reply_of(case: dict[str, Any]) -> Reply | Events:
    """Say what the server answers in a case."""
    headers = dict(case.get("headers", {}))
    if case.get("stream") and case["sdk"] == "bedrock":
        body = event_stream_exception(case["error_type"], case["body"])
        return Reply(body, content_type="application/vnd.amazon.eventstream")
    if case.get("stream"):
        return Events([json.loads(case["body"])], headers=headers)
    if "error_type" in case:
        headers["x-amzn-errortype"] = case["error_type"]
    content_type = case.get("content_type", "application/json")
    return Reply(case["body"].encode(), status=case["status"], headers=headers, content_type=content_type)


def provoke(ask: Callable[..., object], *args: Any, **kwargs: Any) -> BaseException:
    """Return the exception that a call ends in."""
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        ask(*args, **kwargs)
    return caught.value


class Duck(Exception):  # noqa: N818
    """An exception of nobody, with the attributes it is given."""

    def __init__(self, text: str = "", **attributes: Any) -> None:
        super().__init__(text)
        vars(self).update(attributes)


def sdk_class(package: str, name: str, *bases: type) -> type[Any]:
    """Make a class that looks as if it came from a package that need not be installed."""
    return type(name, bases or (Exception,), {"__module__": package})


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_payload(case: dict[str, Any], server: Loopback) -> None:
    """Every collected error payload is judged as labelled, through the SDK of its provider."""
    server.script[:] = [reply_of(case)]

    error = provoke(ASK[case["sdk"]], server.url, stream=case.get("stream", False))
    metadata = get_error_metadata(error)

    assert (metadata.classification, metadata.reason, metadata.fatal) == (
        case["is"],
        case["reason"],
        case.get("fatal", False),
    )
    assert metadata.retry_after_s == pytest.approx(case.get("retry_after_s"))
    assert metadata.retry_after_source == case.get("source")
    assert (metadata.axis, metadata.limit_kind) == (case.get("axis"), case.get("limit_kind"))
    assert metadata.resumes_at == case.get("resumes_at")
    assert metadata.provider == case["sdk"]
    assert metadata.in_stream is case.get("stream", False)
    assert metadata.request_sent is True


@pytest.mark.parametrize("case", CASES[::4], ids=[case["name"] for case in CASES[::4]])
def test_metadata_travels_and_tells_no_secret(case: dict[str, Any], server: Loopback) -> None:
    """Metadata survives pickling and holds neither the key, the prompt, nor the provider's prose."""
    server.script[:] = [reply_of(case)]

    metadata = get_error_metadata(provoke(ASK[case["sdk"]], server.url, stream=case.get("stream", False)))

    assert pickle.loads(pickle.dumps(metadata)) == metadata
    shown = f"{metadata!r} {metadata}"
    assert KEY not in shown
    assert "secret" not in shown
    assert "lease" not in shown  # of "please", which half of all error messages contain


def test_echoes_and_keys_in_machine_fields_are_left_out() -> None:
    """A code, type or parameter that is no machine's word, or that looks like a key, is not repeated."""
    error = Duck(status_code=400, body={"code": KEY, "type": "the user's own words", "param": "messages[0].content"})

    metadata = get_error_metadata(error)

    assert (metadata.code, metadata.type, metadata.param) == (None, None, "messages[0].content")


def test_details_of_a_rate_limit(server: Loopback) -> None:
    """Status, code, type, request id, limits and the chain of types are told."""
    headers = {
        "x-request-id": "req_1",
        "x-ratelimit-limit-requests": "500",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "120ms",
    }
    body = {"error": {"message": "…", "type": "requests", "param": None, "code": "rate_limit_exceeded"}}
    server.script[:] = [Reply(body, status=429, headers=headers)]

    metadata = get_error_metadata(provoke(ask_openai, server.url))

    assert (metadata.status_code, metadata.code, metadata.type) == (429, "rate_limit_exceeded", "requests")
    assert metadata.request_id == "req_1"
    assert metadata.exception_types[0] == "openai.RateLimitError"
    assert metadata.limits == ((Axis.REQUESTS, 500.0, 0.0, 0.12),)
    assert metadata.retry_after_source == "x-ratelimit-reset-requests"
    assert metadata.outcome is Outcome.RATE_LIMITED
    assert str(metadata) == (
        "rate_limited (rate_limit), openai, HTTP 429, rate_limit_exceeded, requests limit, "
        "retry after 0.12 s (x-ratelimit-reset-requests)"
    )


# --- exhaustiveness, from sources that are not ours -----------------------------------------------------------------


def statuses() -> Iterator[tuple[int, str]]:
    """Yield every status and its reason."""
    for reason, listed in STATUSES.items():
        for entry in listed:
            first, last = entry if isinstance(entry, list) else (entry, entry)
            yield from ((status, reason) for status in range(first, last + 1))


def test_every_status_is_listed_once() -> None:
    """The table of statuses covers 400 to 599 without gap or doublet."""
    assert sorted(status for status, _ in statuses()) == list(range(400, 600))


def response_of(status: int, body: object = None) -> Any:
    """Make a response of the HTTP library that the SDKs here are built on."""
    httpx = importlib.import_module("httpx2" if importlib.util.find_spec("httpx2") else "httpx")
    return httpx.Response(status, json=body, request=httpx.Request("POST", "http://127.0.0.1"))


openai_client = cache(lambda: openai.OpenAI(api_key=KEY, base_url="http://127.0.0.1"))
azure_client = cache(
    lambda: openai.AzureOpenAI(api_key=KEY, azure_endpoint="http://127.0.0.1", api_version="2024-10-21")
)
anthropic_client = cache(lambda: anthropic.Anthropic(api_key=KEY, base_url="http://127.0.0.1"))


def of_openai(status: int) -> Exception:
    """Let the openai SDK make the exception for a status."""
    response = response_of(status)
    return openai_client()._make_status_error_from_response(response)


def of_azure(status: int) -> Exception:
    """Let the openai SDK's Azure client make the exception for a status."""
    response = response_of(status)
    return azure_client()._make_status_error_from_response(response)


def of_anthropic(status: int) -> Exception:
    """Let the anthropic SDK make the exception for a status."""
    response = response_of(status)
    return anthropic_client()._make_status_error_from_response(response)


def of_bedrock(status: int) -> Exception:
    """Make botocore's exception for a status that its model does not name."""
    exceptions = pytest.importorskip("botocore.exceptions")
    response = {"Error": {"Code": str(status)}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error: Exception = exceptions.ClientError(response, "InvokeModel")
    return error


def of_hub(status: int) -> Exception:
    """Let huggingface_hub make the exception for a status."""
    utils = pytest.importorskip("huggingface_hub.utils")
    with pytest.raises(utils.HfHubHTTPError) as caught:
        utils.hf_raise_for_status(response_of(status))
    error: Exception = caught.value
    return error


@pytest.mark.parametrize("make", [of_openai, of_azure, of_anthropic, of_bedrock, of_hub])
def test_every_status_has_a_deliberate_category(make: Callable[[int], Exception]) -> None:
    """A bare status means the same whoever sends it, and exactly what the table says."""
    found = {status: get_error_metadata(make(status)).reason for status in range(400, 600)}

    assert found == dict(statuses())


def test_every_code_of_the_anthropic_sdk_is_judged_sanely() -> None:
    """Of the SDK's own error table, a pair in ours is judged so; one yet unseen as its status, or as its words say."""
    table = pytest.importorskip("anthropic._error_classes", reason="this anthropic SDK has no error table")
    ours = {
        (int(status), code): reason
        for reason, by_status in ANTHROPIC_CODES.items()
        for status, codes in by_status.items()
        for code in codes
    }
    found, sane = {}, {}
    for status, code in table.ERROR_CLASSES:
        body = {"error": {"type": "whatever", "message": "…", "details": {"error_code": code} if code else None}}
        error = table.make_status_error("…", body=body, response=response_of(status, body))
        found[status, code] = str(get_error_metadata(error).reason)
        sane[status, code] = [ours[status, code or ""]] if (status, code or "") in ours else by_rule(status, code)

    assert found
    assert {pair: reason for pair, reason in found.items() if reason not in sane[pair]} == {}


def by_rule(status: int, code: str | None) -> set[str]:
    """Name the reasons that a code nobody has listed may be given: its status's, or what its own words say."""
    words = {
        ErrorReason.QUOTA: ("limit", "quota", "credit", "balance", "budget", "billing", "spend", "payment"),
        ErrorReason.RATE_LIMIT: ("rate_limit", "throttl", "too_many_requests"),
        ErrorReason.CONTEXT_LENGTH: ("context",),
        ErrorReason.CONTENT_FILTER: ("content_filter", "content_policy"),
        ErrorReason.OVERLOADED: ("overloaded", "unavailable"),
        ErrorReason.TIMEOUT: ("timeout", "timed_out"),
    }
    said = {str(reason) for reason, starts in words.items() if any(start in (code or "") for start in starts)}
    return {str(get_error_metadata(of_anthropic(status)).reason), *said}


def test_a_code_of_tomorrow_is_judged_by_its_status() -> None:
    """A code that no release has yet brought says what its status says."""
    for status, reason in statuses():
        error = sdk_class("anthropic", "APIStatusError")("…")
        error.status_code, error.body = status, {"error": {"details": {"error_code": "moon_in_the_wrong_phase"}}}
        assert get_error_metadata(error).reason == reason, status


def test_codes_of_anthropic_on_any_sdk() -> None:
    """The same table holds for an SDK that knows none of the codes."""
    error_class = sdk_class("anthropic", "APIStatusError")
    for reason, by_status in ANTHROPIC_CODES.items():
        for status, codes in by_status.items():
            for code in codes:
                error = error_class("…")
                error.status_code, error.body = int(status), {"error": {"details": {"error_code": code}}}
                assert get_error_metadata(error).reason == reason, code


BEDROCK = {
    "AccessDeniedException": ("terminal", "permission"),
    "ConflictException": ("retryable", "conflict"),
    "InternalServerException": ("retryable", "server"),
    "ModelErrorException": ("retryable", "model_error"),
    "ModelNotReadyException": ("retryable", "not_ready"),
    "ModelStreamErrorException": ("retryable", "server"),
    "ModelTimeoutException": ("retryable", "timeout"),
    "ResourceNotFoundException": ("terminal", "not_found"),
    "ServiceQuotaExceededException": ("rate_limited", "service_quota"),
    "ServiceUnavailableException": ("retryable", "overloaded"),
    "ThrottlingException": ("rate_limited", "rate_limit"),
    "ValidationException": ("terminal", "invalid_request"),
}


def test_every_exception_of_bedrock_has_a_deliberate_category(server: Loopback) -> None:
    """Each exception of botocore's service model, answered over HTTP with its own status, is judged as listed.

    One that a newer release has brought is judged as its status.
    """
    loaders = pytest.importorskip("botocore.loaders")
    model = loaders.Loader().load_service_model("bedrock-runtime", "service-2")
    exceptions = {name: shape["error"] for name, shape in model["shapes"].items() if shape.get("exception")}
    assert exceptions
    for name, error in exceptions.items():
        headers = {"x-amzn-errortype": name}
        server.script[:] = [Reply({"message": "…"}, status=error["httpStatusCode"], headers=headers)]
        metadata = get_error_metadata(provoke(ask_bedrock, server.url))
        assert metadata.code == name
        bare = get_error_metadata(of_bedrock(error["httpStatusCode"]))
        expected = BEDROCK.get(name, (bare.classification, bare.reason))
        assert (metadata.classification, metadata.reason) == expected, name


@pytest.mark.parametrize("name", BEDROCK)
def test_exceptions_of_bedrock_with_no_model(name: str) -> None:
    """The table holds for a botocore that knows none of the names."""
    response = {"Error": {"Code": name, "Message": "…"}, "ResponseMetadata": {}}
    error = sdk_class("botocore.exceptions", "ClientError")("…")
    error.response = response

    assert (get_error_metadata(error).classification, get_error_metadata(error).reason) == BEDROCK[name]


def test_every_stream_event_of_bedrock_that_is_an_exception(server: Loopback) -> None:
    """The same names in lower camel case, without a status, mean the same inside a stream."""
    loaders = pytest.importorskip("botocore.loaders")
    model = loaders.Loader().load_service_model("bedrock-runtime", "service-2")
    members = {
        name
        for shape in model["shapes"].values()
        if shape.get("eventstream")
        for name in shape["members"]
        if name.endswith("Exception")
    }
    assert members
    for name in sorted(members):
        body = event_stream_exception(name, '{"message":"…"}')
        server.script[:] = [Reply(body, content_type="application/vnd.amazon.eventstream")]
        metadata = get_error_metadata(provoke(ask_bedrock, server.url, stream=True))
        assert metadata.in_stream
        if (known := BEDROCK.get(name[0].upper() + name[1:])) is not None:
            assert (metadata.classification, metadata.reason) == known, name


def test_every_reason_has_a_consequence() -> None:
    """The vocabulary of reasons and the table of consequences are one."""
    assert set(REASONS) == set(ErrorReason)


# --- transport ------------------------------------------------------------------------------------------------------


def refused_url() -> str:
    """Return the URL of a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.parametrize("sdk", ["openai", "anthropic", "bedrock"])
def test_connection_refused(sdk: str) -> None:
    """Nothing was sent, so the call may be sent again without a doublet."""
    metadata = get_error_metadata(provoke(ASK[sdk], refused_url()))

    assert (metadata.classification, metadata.reason) == ("retryable", "connection")
    assert (metadata.phase, metadata.request_sent) == (Phase.CONNECT, False)
    assert (metadata.provider, metadata.outcome) == (sdk, Outcome.IGNORED)


@pytest.mark.parametrize("sdk", ["openai", "anthropic", "bedrock"])
def test_unknown_host(sdk: str) -> None:
    """A name that does not resolve is a connection that failed."""
    metadata = get_error_metadata(provoke(ASK[sdk], "http://nowhere.invalid"))

    assert (metadata.classification, metadata.reason, metadata.phase) == ("retryable", "connection", "connect")


@pytest.mark.parametrize("sdk", ["openai", "anthropic", "bedrock"])
def test_read_timeout(sdk: str) -> None:
    """A server that says nothing is a timeout of the reading phase: the request was sent."""
    with Loopback(Hang()) as server:
        metadata = get_error_metadata(provoke(ASK[sdk], server.url, timeout_s=0.05))

    assert (metadata.classification, metadata.reason) == ("retryable", "timeout")
    assert (metadata.phase, metadata.request_sent) == (Phase.READ, True)
    assert metadata.outcome is Outcome.OVERLOADED


@pytest.mark.parametrize("sdk", ["openai", "anthropic", "bedrock"])
def test_connection_dropped_without_an_answer(sdk: str, server: Loopback) -> None:
    """A connection closed before the answer is worth another attempt."""
    server.script[:] = [Drop()]

    metadata = get_error_metadata(provoke(ASK[sdk], server.url))

    assert (metadata.classification, metadata.reason, metadata.phase) == ("retryable", "connection", "read")


@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
def test_connection_dropped_in_mid_stream(sdk: str, server: Loopback) -> None:
    """A stream cut half way is the transport's failure, whichever class the SDK lets through."""
    server.script[:] = [Events([{"type": "ping"} if sdk == "anthropic" else {"id": "c", "choices": []}], cut=True)]

    metadata = get_error_metadata(provoke(ASK[sdk], server.url, stream=True))

    assert (metadata.classification, metadata.reason, metadata.phase) == ("retryable", "connection", "read")


@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
def test_base_url_without_a_scheme(sdk: str) -> None:
    """A mistyped address fails for ever: it is terminal, though the SDK calls it a connection error."""
    metadata = get_error_metadata(provoke(ASK[sdk], "127.0.0.1:9"))

    assert (metadata.classification, metadata.reason, metadata.fatal) == ("terminal", "configuration", True)


@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
def test_key_with_a_newline(sdk: str, server: Loopback) -> None:
    """A header that cannot be sent fails for ever, and the key in it is not told."""
    server.script[:] = [Drop()]

    metadata = get_error_metadata(provoke(ASK[sdk], server.url, key=f"{KEY}\nx"))

    assert (metadata.classification, metadata.reason) == ("terminal", "configuration")
    assert KEY not in repr(metadata)


def test_key_that_is_not_ascii(server: Loopback) -> None:
    """So does a header that cannot be encoded."""
    metadata = get_error_metadata(provoke(ask_openai, server.url, key="clé"))

    assert (metadata.classification, metadata.reason) == ("terminal", "configuration")


@pytest.mark.parametrize("sdk", ["openai", "anthropic", "bedrock"])
def test_https_to_a_server_that_speaks_http(sdk: str, server: Loopback) -> None:
    """TLS that can never come about is a mistake of configuration."""
    metadata = get_error_metadata(provoke(ASK[sdk], server.url.replace("http:", "https:")))

    assert (metadata.classification, metadata.reason) == ("terminal", "configuration")


@pytest.fixture
def self_signed(tmp_path: Path) -> Iterator[str]:
    """Serve TLS with a certificate that nobody trusts."""
    pem = tmp_path / "server.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    try:
        subprocess.run(
            [*command, "-days", "2", "-subj", "/CN=localhost", "-keyout", pem, "-out", tmp_path / "certificate.pem"],
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("there is no openssl to make a certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate.pem", pem)
    with Loopback(Drop()) as server:
        server._server.socket = context.wrap_socket(server._server.socket, server_side=True)
        yield server.url.replace("http:", "https:")


@pytest.mark.parametrize("sdk", ["openai", "anthropic", "bedrock"])
def test_certificate_nobody_trusts(sdk: str, self_signed: str) -> None:
    """A certificate that does not verify will not verify the second time."""
    metadata = get_error_metadata(provoke(ASK[sdk], self_signed))

    assert (metadata.classification, metadata.reason, metadata.phase) == ("terminal", "configuration", "connect")


def test_client_of_a_closed_loop(server: Loopback) -> None:
    """A client met again after its event loop has closed is a connection lost, whichever way the SDK says so."""
    answer = {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": []}
    server.script[:] = [Reply(answer)]
    client = openai.AsyncOpenAI(api_key=KEY, base_url=f"{server.url}/v1", max_retries=0)

    def ask() -> object:
        return asyncio.run(client.chat.completions.create(model="m", messages=HELLO))

    ask()
    metadata = get_error_metadata(provoke(ask))

    assert (metadata.classification, metadata.reason) == ("retryable", "connection")


@pytest.mark.parametrize(
    "broken",
    [
        Reply(b'{"id": "c", "choi'),
        Reply(b"hello", headers={"content-encoding": "gzip"}),  # the SDK calls this a failed connection
    ],
    ids=["cut", "not compressed"],
)
def test_answers_that_are_no_json(broken: Reply, server: Loopback) -> None:
    """A body under a status of 200 that cannot be read is worth one more attempt, and no more."""
    server.script[:] = [broken]

    metadata = get_error_metadata(provoke(ask_openai, server.url))

    assert (metadata.classification, metadata.reason) == ("retryable", "bad_response")
    assert metadata.max_attempts == 2


TRANSPORT = [
    ("httpx", "PoolTimeout", "retryable", "timeout", "pool", False),
    ("httpx2", "ConnectTimeout", "retryable", "timeout", "connect", False),
    ("httpcore", "WriteTimeout", "retryable", "timeout", "write", None),
    ("httpcore2", "ReadError", "retryable", "connection", "read", True),
    ("httpx2", "RemoteProtocolError", "retryable", "connection", "read", True),
    ("httpx", "WriteError", "retryable", "connection", "write", None),
    ("httpx2", "LocalProtocolError", "terminal", "configuration", None, None),
    ("httpx", "UnsupportedProtocol", "terminal", "configuration", None, None),
    ("httpx2", "InvalidURL", "terminal", "configuration", None, None),
    ("urllib3.exceptions", "ProtocolError", "retryable", "connection", "read", True),
    ("requests.exceptions", "ReadTimeout", "retryable", "timeout", "read", True),
    ("requests.exceptions", "MissingSchema", "terminal", "configuration", None, None),
    ("aiohttp.client_exceptions", "ServerDisconnectedError", "retryable", "connection", "read", True),
    ("aiohttp.client_exceptions", "ClientConnectorCertificateError", "terminal", "configuration", "connect", False),
    ("botocore.exceptions", "ConnectTimeoutError", "retryable", "timeout", "connect", False),
    ("botocore.exceptions", "ResponseStreamingError", "retryable", "connection", "read", True),
    ("botocore.exceptions", "NoCredentialsError", "terminal", "authentication", None, None),
    ("botocore.exceptions", "NoRegionError", "terminal", "unknown", None, None),
    ("botocore.exceptions", "ParamValidationError", "terminal", "invalid_request", None, None),
    ("torch", "OutOfMemoryError", "terminal", "out_of_memory", None, None),
    ("huggingface_hub.errors", "OfflineModeIsEnabled", "terminal", "not_found", None, None),
    ("huggingface_hub.errors", "GatedRepoError", "terminal", "permission", None, None),
]


@pytest.mark.parametrize(("module", "name", "classification", "reason", "phase", "sent"), TRANSPORT)
def test_classes_by_name(
    module: str, name: str, classification: str, reason: str, phase: str | None, sent: bool | None
) -> None:
    """An exception is known by its name and package, below any wrapper, whether or not the package is installed."""
    bare = sdk_class(module, name)("…")
    wrapped = RuntimeError("it failed")
    wrapped.__cause__ = bare

    for error in (bare, wrapped):
        metadata = get_error_metadata(error)
        assert (metadata.classification, metadata.reason) == (classification, reason)
        assert (metadata.phase, metadata.request_sent) == (phase, sent)


@pytest.mark.parametrize(("module", "name"), [("httpx2", "PoolTimeout"), ("urllib3.exceptions", "EmptyPoolError")])
def test_an_empty_pool_is_no_quota(module: str, name: str) -> None:
    """That our own pool has no connection left is worth another attempt, and the limiter learns nothing from it."""
    wrapped = chained(sdk_class("openai", "APITimeoutError")("Request timed out."), sdk_class(module, name)())

    metadata = get_error_metadata(wrapped)

    assert (metadata.classification, metadata.reason, metadata.outcome) == ("retryable", "timeout", Outcome.IGNORED)
    assert metadata.request_sent is False


def test_patience_decides_about_a_day_that_refills() -> None:
    """A day's limit that lets a request through within the patience is a wait, and else the end."""
    text = "Rate limit reached on requests per day (RPD): Limit 10, Used 10, Requested 1."
    error = Duck(status_code=429, body={"message": text}, headers={"retry-after": "300"})

    assert get_error_metadata(error).reason == "daily_quota"
    assert get_error_metadata(error, patience_s=600.0).reason == "rate_limit"
    assert get_error_metadata(error, patience_s=600.0).limit_kind == "day"


@pytest.mark.parametrize(
    "text",
    [
        "Unsupported file type: application/zip is not supported",
        "The parameter region is not supported with this model",
        "The user message was blocked",
        "用户请求异常",
        "Invalid value for content: `your account is suspended`",
        "Unknown argument: account; the laptop up there is no tool",
        "max_tokens is too large: 5000; this model supports at most 4096 completion tokens",
        "tools[0].function.description: overly long",
    ],
)
def test_words_that_only_resemble_those_of_an_account(text: str) -> None:
    """A refusal of this request is not taken for one of the account, lest one bad request end a run."""
    metadata = get_error_metadata(Duck(status_code=400, body={"error": {"message": text, "type": "bad_request"}}))

    assert (metadata.classification, metadata.reason, metadata.fatal) == ("terminal", "invalid_request", False)


def test_limits_in_a_body() -> None:
    """Gemini tells a minute's limit by quota id and value, OpenRouter its headers inside the body."""
    violations = [{"quotaId": "GenerateRequestsPerMinutePerProjectPerModel", "quotaValue": "12"}]
    gemini = Duck(status_code=429, body={"status": "RESOURCE_EXHAUSTED", "details": [{"violations": violations}]})
    told = {"X-RateLimit-Limit": "18", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1796000000000"}
    gateway = Duck(
        status_code=429,
        body={"error": {"code": 429, "metadata": {"headers": told}}},
        headers={"date": datetime.fromtimestamp(1795999960, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")},
    )

    assert get_error_metadata(gemini).limits == ((Axis.REQUESTS, 12.0, 0.0, None),)
    assert get_error_metadata(gateway).limits == ((Axis.REQUESTS, 18.0, 0.0, 40.0),)
    assert get_error_metadata(gateway).retry_after_s == 40.0


def test_bedrock_without_credentials_or_region(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A client that AWS cannot be asked with is a matter of set-up."""
    boto3 = pytest.importorskip("boto3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    without_keys = boto3.session.Session().client(
        "bedrock-runtime", region_name="us-east-1", endpoint_url="http://127.0.0.1:9"
    )

    assert get_error_metadata(provoke(boto3.session.Session().client, "bedrock-runtime")).reason == "configuration"
    assert get_error_metadata(provoke(without_keys.invoke_model, modelId="m", body=b"")).reason == "authentication"
    assert get_error_metadata(provoke(without_keys.invoke_model, body=b"")).reason == "invalid_request"


def test_sdk_clients_that_cannot_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bare root class of an SDK is raised when a key is missing, and is no error of the provider."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    metadata = get_error_metadata(provoke(openai.OpenAI))

    assert (metadata.classification, metadata.fatal) == ("terminal", True)


# --- local models ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("MPS backend out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
)
def test_out_of_memory(error: BaseException) -> None:
    """Running out of memory is terminal for a batch of this size."""
    metadata = get_error_metadata(error)

    assert (metadata.classification, metadata.reason, metadata.fatal) == ("terminal", "out_of_memory", False)


def test_real_out_of_memory() -> None:
    """The class that torch raises is the one that is known."""
    torch = pytest.importorskip("torch")

    assert get_error_metadata(torch.OutOfMemoryError("CUDA out of memory.")).reason == "out_of_memory"
    assert get_error_metadata(torch.OutOfMemoryError("CUDA out of memory.")).provider == "huggingface"


@pytest.mark.parametrize(
    "load",
    [
        lambda st, folder: st.SentenceTransformer("no/such-model", local_files_only=True),
        lambda st, folder: st.SentenceTransformer(str(folder / "nowhere" / "model"), local_files_only=True),
    ],
)
def test_models_that_cannot_be_loaded(load: Callable[..., object], tmp_path: Path) -> None:
    """A model that is neither here nor to be had offline will not appear by retrying."""
    library = pytest.importorskip("sentence_transformers")

    metadata = get_error_metadata(provoke(load, library, tmp_path))

    assert (metadata.classification, metadata.reason) == ("terminal", "not_found")


def test_hub_that_is_down_for_a_moment() -> None:
    """A model missing only because the hub answered 503 is worth another attempt."""
    missing = sdk_class("huggingface_hub.errors", "EntryNotFoundError")("not in the cache")
    down = sdk_class("huggingface_hub.errors", "HfHubHTTPError", OSError)("503")
    down.response = Duck(status_code=503, headers={"retry-after": "7"}, text="")
    missing.__cause__ = down
    outer = OSError("We couldn't connect to the hub to load this file.")
    outer.__cause__ = missing

    metadata = get_error_metadata(outer)

    assert (metadata.classification, metadata.reason, metadata.retry_after_s) == ("retryable", "overloaded", 7.0)
    down.response = None
    assert classify_llm_error(outer) is LLMErrorClassification.TERMINAL


# --- chains, groups, strangers --------------------------------------------------------------------------------------


def rate_limited(wait_s: float = 3.0) -> Duck:
    """Make a rate limit of nobody in particular."""
    return Duck(status_code=429, body={"code": "rate_limit_exceeded"}, headers={"Retry-After": str(wait_s)})


def chained(outer: BaseException, cause: BaseException) -> BaseException:
    """Raise one error from another, without raising it."""
    outer.__cause__ = cause
    return outer


def test_explicit_causes_are_followed() -> None:
    """An application's wrapper says nothing; what it wraps does, however deep."""
    error: BaseException = rate_limited()
    for depth in range(50):
        error = chained(ValueError(f"wrapped {depth}"), error)

    assert get_error_metadata(error).reason == "rate_limit"
    assert len(get_error_metadata(error).exception_types) == 51


def test_cycles_end() -> None:
    """A chain that bites its tail is read once."""
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first

    assert get_error_metadata(first).reason == "unknown"


def test_implicit_context() -> None:
    """A context is followed when an exception stands for another, not when a bug shows while handling one."""
    instead, bug = RuntimeError("the call failed"), KeyError("typo")
    instead.__context__ = bug.__context__ = rate_limited()

    assert get_error_metadata(instead).reason == "rate_limit"
    assert get_error_metadata(bug).reason == "unknown"


def test_suppressed_context_is_not_followed() -> None:
    """``raise … from None`` means that what came before does not matter."""
    error = RuntimeError("something else")
    error.__context__, error.__suppress_context__ = rate_limited(), True

    assert classify_llm_error(error) is LLMErrorClassification.TERMINAL


def test_exception_group_speaks_by_its_gravest_member() -> None:
    """Of several failures the fatal one decides; among equals, the longest wait."""
    quota = Duck(status_code=429, body={"code": "insufficient_quota"})
    limited = ExceptionGroup("calls", [rate_limited(2), ExceptionGroup("inner", [rate_limited(9), TimeoutError()])])

    assert get_error_metadata(limited).retry_after_s == 9.0
    assert is_fatal_llm_error(ExceptionGroup("calls", [limited, quota]))
    assert get_error_metadata(chained(RuntimeError("batch"), limited)).reason == "rate_limit"


def test_shared_member_of_a_group_is_read_each_time() -> None:
    """One exception standing twice in a group does not hide itself."""
    error = rate_limited()

    assert get_error_metadata(ExceptionGroup("twice", [error, error])).reason == "rate_limit"


def test_tenacity_wrapper_is_opened() -> None:
    """The error inside ``RetryError`` counts, by its cause or by the attempt it holds."""
    attempt: Future[None] = Future()
    attempt.set_exception(rate_limited())
    error = sdk_class("tenacity", "RetryError")("gave up")
    error.last_attempt = attempt

    assert get_error_metadata(error).reason == "rate_limit"


def test_sdk_below_a_stranger_counts_more() -> None:
    """An application's own ``status_code`` does not hide the provider's answer below it."""
    inner = sdk_class("openai", "RateLimitError")("…")
    inner.status_code, inner.body = 429, {"code": "insufficient_quota"}

    assert get_error_metadata(chained(Duck(status_code=502), inner)).reason == "quota"
    assert get_error_metadata(Duck(status_code=502)).reason == "server"


def test_mistake_wrapped_as_connection_error() -> None:
    """An SDK that wraps whatever happens while sending does not turn a bug of ours into a reason to retry."""
    error = chained(sdk_class("openai", "APIConnectionError")("Connection error."), TypeError("not callable"))

    assert (get_error_metadata(error).classification, get_error_metadata(error).reason) == ("terminal", "unknown")


@pytest.mark.parametrize(
    "error", [ValueError("429 rate limit"), KeyError("retry after 5 seconds"), AssertionError(), ZeroDivisionError()]
)
def test_unknown_errors_surface(error: Exception) -> None:
    """Nobody's error is terminal whatever its text says, and concerns this call only."""
    metadata = get_error_metadata(error)

    assert (metadata.classification, metadata.reason, metadata.fatal) == ("terminal", "unknown", False)


@pytest.mark.parametrize("error", [asyncio.CancelledError(), KeyboardInterrupt(), SystemExit(2), GeneratorExit()])
def test_cancellation_is_never_retried(error: BaseException) -> None:
    """A cancellation is no failure, and the limiter learns nothing from it."""
    metadata = get_error_metadata(error)

    assert (metadata.classification, metadata.reason) == ("terminal", "cancelled")
    assert metadata.outcome is Outcome.IGNORED


def test_attributes_with_opinions() -> None:
    """A property that raises, an enum for a status, a body in bytes: nothing of it breaks the classifier."""

    class Odd(Exception):  # noqa: N818
        status_code = 503
        body = b'{"error": {"code": "overloaded", "message": 5, "details": [1, {"violations": 3}]}}'

        @property
        def response(self) -> object:
            raise RuntimeError("not read yet")

    assert get_error_metadata(Odd()).reason == "overloaded"


@pytest.mark.parametrize("body", [None, "", "[]", "{", [], [1], {}, {"error": None}, {"error": []}, 7, b"\xff\xfe"])
def test_bodies_that_say_nothing(body: object) -> None:
    """Whatever a body is, the status is still read."""
    assert get_error_metadata(Duck(status_code=503, body=body)).reason == "overloaded"


# --- our own --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "reason", "fatal"),
    [
        (ConfigurationError("…"), "configuration", True),
        (UnknownProfileError("…"), "configuration", True),
        (WrongModelTypeError("…"), "configuration", True),
        (ExtraMissingError("…"), "configuration", True),
        (InvalidRequestError("…"), "invalid_request", False),
        (DeadlineExceededError("…"), "deadline", False),
        (BreakerOpenError("…", reason=ErrorReason.DAILY_QUOTA), "daily_quota", True),
        (WrongEventLoopError("…"), "misuse", False),
        (PermitSettledError("…"), "misuse", False),
    ],
)
def test_our_own_errors(error: Exception, reason: str, fatal: bool) -> None:
    """Our own errors are terminal, decide before whatever caused them, and survive pickling."""
    error.__cause__ = rate_limited()
    copy = pickle.loads(pickle.dumps(error))

    metadata = get_error_metadata(error)

    assert (metadata.classification, metadata.reason, metadata.fatal) == ("terminal", reason, fatal)
    assert (str(copy), copy.__dict__) == (str(error), error.__dict__)


def test_own_errors_are_what_python_calls_them() -> None:
    """They can be caught as the built-in errors they are."""
    assert issubclass(DeadlineExceededError, TimeoutError)
    assert issubclass(ExtraMissingError, ImportError)
    assert issubclass(ConfigurationError, ValueError)


@pytest.mark.parametrize(
    ("body", "classification", "reason"),
    [
        ("<html>login</html>", "retryable", "bad_response"),
        ({"unexpected": 1}, "retryable", "bad_response"),
        ({"error": {"code": 429, "message": "slow"}}, "rate_limited", "rate_limit"),
        ({"error": {"code": 502, "message": "upstream"}}, "retryable", "server"),
        ({"error": {"code": "insufficient_quota", "message": "…"}}, "terminal", "quota"),
        ({"error": {"code": 402, "message": "Insufficient credits"}}, "terminal", "quota"),
    ],
)
def test_success_that_is_none(body: object, classification: str, reason: str) -> None:
    """An error object under a status of 200 is judged as the status it names; anything else is a bad response."""
    error = BadResponseError("HTTP 200 without an answer", body=body)

    metadata = get_error_metadata(error)

    assert (metadata.classification, metadata.reason, metadata.in_stream) == (classification, reason, False)
    assert "html" not in repr(error)


# --- faces ----------------------------------------------------------------------------------------------------------


def test_stamina_hook() -> None:
    """The hook answers no, yes, or how many seconds."""
    assert stamina_hook(ValueError()) is False
    assert stamina_hook(TimeoutError()) is True
    assert stamina_hook(rate_limited(2.5)) == 2.5


def test_stamina_itself() -> None:
    """Stamina takes the hook and retries what it should, no more."""
    stamina = pytest.importorskip("stamina")
    tried: list[int] = []

    @stamina.retry(on=stamina_hook, attempts=3)  # type: ignore[untyped-decorator, unused-ignore]
    def call(error: Exception) -> None:
        tried.append(1)
        raise error

    with stamina.set_testing(True, attempts=3), pytest.raises(Duck):
        call(rate_limited(60))
    assert len(tried) == 3
    with stamina.set_testing(True, attempts=3), pytest.raises(ValueError, match="no"):
        call(ValueError("no"))
    assert len(tried) == 4


def test_stamina_waits_as_told() -> None:
    """What the provider asked for is what stamina waits, and no backoff of its own."""
    stamina = pytest.importorskip("stamina")
    told: list[float] = []
    before = stamina.instrumentation.get_on_retry_hooks()
    stamina.instrumentation.set_on_retry_hooks([lambda details: told.append(details.wait_for)])

    @stamina.retry(on=stamina_hook, attempts=2, wait_initial=30.0)  # type: ignore[untyped-decorator, unused-ignore]
    def call() -> None:
        raise rate_limited(0.002)

    try:
        with pytest.raises(Duck):
            call()
    finally:
        stamina.instrumentation.set_on_retry_hooks(before)
    assert told == [0.002]


def test_tenacity_itself() -> None:
    """Tenacity takes the predicate."""
    tenacity = pytest.importorskip("tenacity")
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_retryable_llm_error), stop=tenacity.stop_after_attempt(3)
    )
    tried: list[int] = []

    def call(error: Exception) -> None:
        tried.append(1)
        raise error

    with pytest.raises(tenacity.RetryError) as gave_up:
        retrying(call, rate_limited())
    assert len(tried) == 3
    assert get_error_metadata(gave_up.value).reason == "rate_limit"
    with pytest.raises(ValueError, match="no"):
        retrying(call, ValueError("no"))
    assert len(tried) == 4


def test_resumption_is_a_moment() -> None:
    """The date at which access returns is told apart from a wait."""
    text = "You have reached your specified API usage limits. You will regain access on 2027-01-31 at 12:30 UTC."
    metadata = get_error_metadata(Duck(status_code=400, body={"error": {"message": text}}))

    assert metadata.resumes_at == datetime(2027, 1, 31, 12, 30, tzinfo=UTC)
    assert metadata.retry_after_s is None


def test_open_breaker_tells_when_access_returns() -> None:
    """A call that was not sent for a spent quota hands on the moment the provider named, or none."""
    moment = datetime(2027, 1, 31, 12, 30, tzinfo=UTC)

    assert get_error_metadata(BreakerOpenError("…", resumes_at=moment)).resumes_at == moment
    assert get_error_metadata(BreakerOpenError("…")).resumes_at is None


def test_needs_no_sdk() -> None:
    """The module works where no SDK can be imported, and imports none where one can."""
    program = """
import sys
for name in ("openai", "anthropic", "boto3", "botocore", "httpx", "httpx2", "torch", "pydantic", "asyncio"):
    sys.modules[name] = None
from factflow_llm.errors import get_error_metadata
RateLimitError = type("RateLimitError", (Exception,), {"__module__": "openai"})
error = RateLimitError("…")
error.status_code, error.body = 429, {"code": "insufficient_quota"}
print(get_error_metadata(error).reason)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert ran.stdout.strip() == "quota"
