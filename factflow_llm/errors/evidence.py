"""Extract what an exception tells, into one provider-blind form, by duck typing alone.

Works with no SDK installed and on every version of those that are: nothing here is looked up by ``isinstance`` of a
foreign class. What is extracted may hold user text; it stays inside this package.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from factflow_llm.errors.bodies import MOST_MESSAGE, is_status, read_body, scalar
from factflow_llm.errors.exceptions import BadResponseError, FactflowLLMError, PartialEmbeddingError
from factflow_llm.errors.metadata import ErrorReason, Phase
from factflow_llm.errors.tables import CLASSES, RAISED_BY, SDK_PACKAGES, Rule, squash

if TYPE_CHECKING:
    from datetime import datetime

    from factflow_llm.signals import Axis, AxisLimit

_MISTAKES = (TypeError, AttributeError, NameError, LookupError, AssertionError, NotImplementedError, ValueError)
_TLS = re.compile(r"\[SSL: (\w+)\]")  # OpenSSL's own word, kept in the text by every wrapper
_TLS_MISTAKES = ("CERTIFICATE", "VERSION", "UNKNOWN_CA", "HANDSHAKE_FAILURE", "PROTOCOL", "HTTP_REQUEST")
_UNREACHABLE = frozenset({32, 100, 101, 102, 103, 104, 110, 111, 112, 113})  # EPIPE, ENETDOWN … EHOSTUNREACH
_TRANSPORT = frozenset({ErrorReason.CONNECTION, ErrorReason.TIMEOUT})
_BENEATH = frozenset({ErrorReason.CONFIGURATION, ErrorReason.BAD_RESPONSE})  # what SDKs call a transport's failure too
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")


@dataclass(slots=True)
class ErrorEvidence:
    """What one chain of exceptions tells.

    Attributes:
        reason: what the exception classes say; ``None`` when they say nothing.
        words: squashed machine codes of the body, in order of authority.
        quota_ids: names of the quotas that a body says are used up, in lower case.
        body_wait: the wait that the body states in a field of its own.
        message: the provider's own words in lower case.
        headers: by lower-case name; those that a gateway puts into its body among them.
        answered: an answer came from the provider.
        host: where the request went, in lower case; empty when that is not known.
        limits: what the body, not the headers, says of limits.
    """

    types: tuple[str, ...] = ()
    provider: str | None = None
    reason: ErrorReason | None = None
    phase: Phase | None = None
    axis: Axis | None = None
    answered: bool = False
    in_stream: bool = False
    status: int | None = None
    code: str | None = None
    type: str | None = None
    param: str | None = None
    words: tuple[str, ...] = ()
    message: str = field(default="", repr=False)
    quota_ids: tuple[str, ...] = ()
    body_wait: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    request_id: str | None = None
    resumes_at: datetime | None = None
    host: str = ""
    limits: tuple[AxisLimit, ...] = ()


def chains(error: BaseException) -> list[list[BaseException]]:
    """List the chains of causes under an exception: one, or one for each member of the groups in it.

    Follows ``__cause__``, an implicit ``__context__`` unless it is suppressed or the exception is a programmer's
    mistake made while handling another, and the attempt inside tenacity's ``RetryError``. Cycles end a chain.
    """
    found: list[list[BaseException]] = []
    pending: list[tuple[BaseException | None, list[BaseException]]] = [(error, [])]
    while pending:
        link, chain = pending.pop()
        seen = set(map(id, chain))
        while link is not None and id(link) not in seen:
            seen.add(id(link))
            chain.append(link)
            if isinstance(link, BaseExceptionGroup):
                pending.extend((member, list(chain)) for member in reversed(link.exceptions))
                break
            link = _under(link)
        else:
            found.append(chain)
    return found


def _under(error: BaseException) -> BaseException | None:
    if error.__cause__ is not None:
        return error.__cause__
    if (inner := _last_attempt(error)) is not None:
        return inner
    if error.__suppress_context__ or (isinstance(error, _MISTAKES) and type(error).__module__ == "builtins"):
        return None
    return error.__context__


def _last_attempt(error: BaseException) -> BaseException | None:
    """Open tenacity's ``RetryError``."""
    attempt = _get(error, "last_attempt")
    try:
        inner = attempt.exception() if attempt is not None and attempt.done() else None
    except Exception:
        return None
    return inner if isinstance(inner, BaseException) else None


def extract(chain: list[BaseException]) -> ErrorEvidence:
    """Gather what a chain of exceptions tells, outermost first; the first that knows something decides.

    A transport error is read to the bottom, where its phase and a TLS or address mistake are told.
    """
    evidence = ErrorEvidence(types=tuple(type_name(type(error)) for error in chain))
    strangers: list[BaseException] = []
    for error in chain:
        if isinstance(error, PartialEmbeddingError) and error is not chain[-1]:
            continue  # its cause tells
        package, rule = _known(type(error).__mro__)
        evidence.provider = evidence.provider or RAISED_BY.get(package)
        if isinstance(error, FactflowLLMError) and not isinstance(error, BadResponseError):
            evidence.reason = evidence.reason or error.reason
            evidence.axis = _get(error, "axis")
            evidence.resumes_at = _get(error, "resumes_at")
            break
        rule = _closer_look(error, package, rule)
        conclusive = rule is not None and rule[0] is not ErrorReason.UNSPECIFIED
        if not conclusive and evidence.reason in {None, ErrorReason.NOT_FOUND}:
            if package not in SDK_PACKAGES:
                strangers.append(error)
            elif _read_answer(error, evidence):
                evidence.reason = None
                break
        if rule is not None:
            _add(rule, evidence)
    else:
        if evidence.reason is None:
            any(_read_answer(error, evidence) for error in strangers)
    return evidence


def _add(rule: Rule, evidence: ErrorEvidence) -> None:
    reason, phase = rule
    if evidence.reason is None or (evidence.reason in _TRANSPORT and reason in _BENEATH):
        evidence.reason = reason
    evidence.phase = evidence.phase or phase


def type_name(cls: type) -> str:
    """Name a class by its top-level package and itself."""
    return f"{cls.__module__.partition('.')[0]}.{cls.__name__}"


@lru_cache(maxsize=512)
def _known(ancestry: tuple[type, ...]) -> tuple[str, Rule | None]:
    """Look a class up along its MRO: its most telling package, and the rule for it or its nearest known base."""
    names = [type_name(base) for base in ancestry]
    packages = [name.partition(".")[0] for name in names]
    package = next((package for package in packages if package in RAISED_BY or package in SDK_PACKAGES), packages[0])
    return package, next((CLASSES[name] for name in names if name in CLASSES), None)


def _closer_look(error: BaseException, package: str, rule: Rule | None) -> Rule | None:
    """Refine a class's rule where only the instance tells: TLS, proxies, closed loops, memory, files, bugs of ours."""
    if isinstance(error, UnicodeEncodeError):
        return (ErrorReason.INVALID_REQUEST if error.encoding == "utf-8" else ErrorReason.CONFIGURATION), None
    if isinstance(error, RuntimeError) and rule is None:
        text = _words(error)
        if "Event loop is closed" in text:
            return ErrorReason.CONNECTION, None
        return (ErrorReason.OUT_OF_MEMORY, None) if any(words in text for words in _OUT_OF_MEMORY) else None
    if type(error) is OSError:
        if error.errno is None:
            return ErrorReason.NOT_FOUND, None  # how transformers says that a model cannot be loaded
        return (ErrorReason.CONNECTION, None) if error.errno in _UNREACHABLE else None
    if rule is not None and rule[0] is ErrorReason.CONNECTION:
        text = _words(error)
        tls = _TLS.search(text)
        if tls and any(word in tls[1] for word in _TLS_MISTAKES):
            return ErrorReason.CONFIGURATION, Phase.CONNECT
        if "Proxy" in type(error).__name__ and "407" in text:
            return ErrorReason.CONFIGURATION, Phase.CONNECT
        cause = error.__cause__
        if isinstance(cause, _MISTAKES) and _closer_look(cause, *_known(type(cause).__mro__)) is None:
            return ErrorReason.UNKNOWN, None  # SDKs wrap whatever happened while sending, a programmer's mistake too
    return rule


def _words(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return ""


def _read_answer(error: BaseException, evidence: ErrorEvidence) -> bool:
    """Read the provider's answer that an exception carries; return whether there is one."""
    response = _get(error, "response")
    if isinstance(response, Mapping) and isinstance(response.get("Error"), Mapping):
        _read_aws(error, response, evidence)
        return True
    content = _get(error, "body")
    told = [_get(error, "status_code"), _get(error, "status"), _get(response, "status_code"), _get(response, "status")]
    if content is None:
        told.append(_get(error, "code"))  # beside a body it is the body's, not a status
    status = next(filter(is_status, told), None)
    if status is not None and not isinstance(content, Mapping | list):
        content = _get(response, "text") or content  # openai keeps only what "error" held, be it a sentence
    if status is None and content is None:
        return False
    body = read_body(content)
    headers = body.headers | _lower(_get(response, "headers") or _get(error, "headers"))
    evidence.answered = True
    evidence.headers = headers
    evidence.in_stream = (
        error.in_stream if isinstance(error, BadResponseError) else status is None or 200 <= status < 300
    )
    evidence.status = body.status if body.status and (status is None or status < 300) else status
    evidence.code, evidence.type, evidence.param = body.code, body.type, body.param
    evidence.words, evidence.message = tuple(body.words), body.message.lower()
    evidence.quota_ids, evidence.body_wait, evidence.limits = tuple(body.quota_ids), body.wait, tuple(body.limits)
    evidence.host = _host(error)
    evidence.request_id = scalar(_get(error, "request_id")) or headers.get("x-request-id") or headers.get("request-id")
    if evidence.provider == "openai" and _is_azure(error, headers):
        evidence.provider = "azure"
    return True


def _read_aws(error: BaseException, response: Mapping[str, Any], evidence: ErrorEvidence) -> None:
    told, meta = response["Error"], response.get("ResponseMetadata")
    meta = meta if isinstance(meta, Mapping) else {}
    code = scalar(told.get("Code"))
    status, original = meta.get("HTTPStatusCode"), response.get("originalStatusCode")
    evidence.answered = True
    evidence.in_stream = type(error).__name__ == "EventStreamError"
    evidence.code = code
    evidence.status = (
        status if is_status(status) else int(code) if code and code.isdecimal() and len(code) == 3 else None
    )
    evidence.words = (squash(code),) if code and not code.isdecimal() else ()
    if is_status(original) and evidence.words == ("modelerrorexception",):
        evidence.status, evidence.words = original, ()
    evidence.message = (scalar(told.get("Message")) or "")[:MOST_MESSAGE].lower()
    evidence.headers = _lower(meta.get("HTTPHeaders"))
    evidence.request_id = scalar(meta.get("RequestId"))


def _get(value: Any, name: str) -> Any:
    """Read an attribute that may be a property with opinions; ``None`` when it has none."""
    try:
        return getattr(value, name, None)
    except Exception:
        return None


def _lower(headers: Any) -> dict[str, str]:
    if not isinstance(headers, Mapping):
        return {}
    try:
        return {name.lower(): text for name, text in headers.items() if isinstance(name, str) and isinstance(text, str)}
    except Exception:
        return {}


def _host(error: BaseException) -> str:
    host = _get(_get(_get(error, "request"), "url"), "host")
    return host.lower() if isinstance(host, str) else ""


def _is_azure(error: BaseException, headers: Mapping[str, str]) -> bool:
    if "apim-request-id" in headers or "x-ms-region" in headers:
        return True
    host, path = _host(error), _get(_get(_get(error, "request"), "url"), "path")
    path = path if isinstance(path, str) else ""
    return host.endswith((".azure.com", ".azure-api.net")) or "/openai/deployments/" in path
