"""Judge an error: a pure function from the extracted evidence over the tables, and the faces callers use.

The order of evidence: our own errors; the chain of causes down to the first exception of an SDK or a transport; the
machine codes in its body; ``x-should-retry``; the status; wordings, only for facts that have no code. ``str(error)`` is
never searched for "429" or "rate limit": it may hold echoed user text.
"""

from __future__ import annotations

import itertools
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from factflow_llm.errors.account import reason_of_account
from factflow_llm.errors.evidence import ErrorEvidence, chains, extract, type_name
from factflow_llm.errors.metadata import (
    REASONS,
    Consequence,
    ErrorMetadata,
    ErrorReason,
    LimitKind,
    LLMErrorClassification,
    Phase,
)
from factflow_llm.errors.tables import (
    AXIS,
    CODES,
    DAILY_WORDINGS,
    INVALID_REQUEST_WORDINGS,
    LIMIT_AND_REQUESTED,
    LIMIT_ZERO,
    PERMISSION_WORDINGS,
    RATE_LIMIT_WORDINGS,
    REFILLS,
    RESUMES,
    UNSEEN_CODES,
    WAIT,
    WEAK_CODES,
    reason_of_status,
)
from factflow_llm.headers import LimitHeaders, bounded_s, parse_duration
from factflow_llm.secrecy import holds_secret
from factflow_llm.signals import Axis, AxisLimit, Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

PATIENCE_S = 120.0  # a day's quota that refills continuously (OpenAI's, Groq's) may free one request this soon
_NEVER_S = 86_400.0  # how Azure says that a request is larger than its limit
_AGREEMENT_S = 900.0  # AWS: a marketplace agreement takes up to 15 minutes
_SPAN = re.compile(r"(\d+(?:\.\d+)?) ?([a-z]+)")
_SPAN_S = (("ms", 1e-3), ("milli", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3_600.0), ("d", 86_400.0))
_MACHINE_WORD = re.compile(r"[\w.\-\[\]/:#]{1,80}", re.ASCII)
_SECRET = re.compile(
    r"\b(?:sk|pk|rk|xai|key)-[\w-]{8,}|\b(?:AKIA|ASIA)[A-Z0-9]{12,}|\b(?:ghp|hf|gsk)_\w{8,}|\beyJ[\w-]{8,}"
)
_REFUSED_BY_LIMIT = frozenset(
    {
        *(word for word, judged in REASONS.items() if judged.classification is LLMErrorClassification.RATE_LIMITED),
        *(ErrorReason.REQUEST_EXCEEDS_LIMIT, ErrorReason.DAILY_QUOTA),
    }
)
_SENT: dict[Phase | None, bool] = {Phase.POOL: False, Phase.CONNECT: False, Phase.READ: True}
_SEVERITY = (LLMErrorClassification.RETRYABLE, LLMErrorClassification.RATE_LIMITED, LLMErrorClassification.TERMINAL)


def classify_llm_error(error: BaseException) -> LLMErrorClassification:
    """Say what to do about an error of any provider, transport or of ours.

    An error nobody knows is ``TERMINAL``: a programmer's mistake must surface, not be retried.
    """
    return get_error_metadata(error).classification


def is_fatal_llm_error(error: BaseException) -> bool:
    """Say whether every other request of the client will fail likewise: a bad key, a spent budget, no such model."""
    return get_error_metadata(error).fatal


def is_retryable_llm_error(error: BaseException) -> bool:
    """Say whether sending again can help: a predicate for ``tenacity.retry_if_exception``."""
    return classify_llm_error(error) is not LLMErrorClassification.TERMINAL


def stamina_hook(error: BaseException) -> bool | float:
    """Answer as a backoff hook of ``stamina.retry(on=…)``.

    Returns:
        ``False`` for an error to give up on, the provider's wait in seconds where it asks for one, else ``True``.
    """
    metadata = get_error_metadata(error)
    if metadata.classification is LLMErrorClassification.TERMINAL:
        return False
    return True if metadata.retry_after_s is None else metadata.retry_after_s


def get_error_metadata(error: BaseException, *, patience_s: float = PATIENCE_S) -> ErrorMetadata:
    """Describe an error: what to do, why, how long to wait, and which limit refused. Never raises.

    Of the members of an exception group, the gravest is described: fatal before terminal before rate-limited before
    retryable, and the longest wait among equals.

    Args:
        error: any exception at all.
        patience_s: a day's limit that lets one more request through within so many seconds is waited for; one that
            takes longer is the end. The retry settings' ``retry_after_cap_s``.
    """
    try:
        return _describe_gravest(error, patience_s)
    except Exception:  # an exception can be made of anything: attributes that lie, texts that raise
        return ErrorMetadata(
            classification=LLMErrorClassification.TERMINAL,
            reason=ErrorReason.UNKNOWN,
            exception_types=(type_name(type(error)),),
        )


def _describe_gravest(error: BaseException, patience_s: float) -> ErrorMetadata:
    now_utc = datetime.now(UTC)
    return max((_describe(extract(chain), now_utc, patience_s) for chain in chains(error)), key=_gravity)


def _gravity(metadata: ErrorMetadata) -> tuple[bool, int, float]:
    return metadata.fatal, _SEVERITY.index(metadata.classification), metadata.retry_after_s or 0.0


def _describe(evidence: ErrorEvidence, now_utc: datetime, patience_s: float) -> ErrorMetadata:
    headers = LimitHeaders(evidence.headers, now_utc=now_utc)
    limits = headers.limits() or evidence.limits
    reason = evidence.reason or _judge(evidence)
    refused = reason in _REFUSED_BY_LIMIT
    axis = _axis(evidence, limits) if refused else None
    wait = _wait(evidence, headers, axis, refused=refused)
    daily = refused and reason is not ErrorReason.REQUEST_EXCEEDS_LIMIT and _is_daily(evidence)
    if daily and (wait is None or wait[0] > patience_s or _is_google(evidence)):
        reason = ErrorReason.DAILY_QUOTA
    elif refused and evidence.provider == "azure" and wait is not None and wait[0] >= _NEVER_S:
        reason = ErrorReason.REQUEST_EXCEEDS_LIMIT
    consequence = _heed_advice(REASONS[reason], evidence)
    if evidence.phase is Phase.POOL:
        consequence = consequence._replace(outcome=Outcome.IGNORED)  # our own pool was empty: nobody was asked
    return ErrorMetadata(
        classification=consequence.classification,
        reason=reason,
        fatal=consequence.fatal,
        outcome=consequence.outcome,
        max_attempts=consequence.max_attempts,
        provider=evidence.provider,
        status_code=evidence.status,
        code=_machine_word(evidence.code),
        type=_machine_word(evidence.type),
        param=_machine_word(evidence.param),
        request_id=_machine_word(evidence.request_id),
        retry_after_s=wait and wait[0],
        retry_after_source=wait and wait[1],
        resumes_at=(_resumption(evidence.message) if reason is ErrorReason.QUOTA else None) or evidence.resumes_at,
        axis=axis,
        limit_kind=_limit_kind(reason, axis, daily=daily),
        limits=limits,
        in_stream=evidence.in_stream,
        phase=evidence.phase,
        request_sent=True if evidence.answered else _SENT.get(evidence.phase),
        exception_types=evidence.types,
    )


def _judge(evidence: ErrorEvidence) -> ErrorReason:
    """Find the reason in an answer: machine codes, then the status, then wordings that refine either."""
    if not evidence.answered:
        return ErrorReason.UNKNOWN
    coded = _by_codes(evidence.words)
    reason = coded or _by_status(evidence)
    text = evidence.message
    if reason is ErrorReason.RAMP and evidence.in_stream and _is_overload(evidence):
        return ErrorReason.OVERLOADED  # it let the request in and then had trouble: no word about our rate
    if reason is ErrorReason.QUOTA and evidence.status == 429 and _refills(evidence):
        return ErrorReason.RATE_LIMIT
    if reason is ErrorReason.RATE_LIMIT:
        return _reword_rate_limit(evidence)
    if reason is ErrorReason.INVALID_REQUEST or (reason is ErrorReason.CONTEXT_LENGTH and not coded):
        return _reword(text, INVALID_REQUEST_WORDINGS) or _of_account(evidence) or reason
    if reason is ErrorReason.PERMISSION:
        return _reword(text, PERMISSION_WORDINGS) or _of_account(evidence) or reason
    if reason in {ErrorReason.BAD_RESPONSE, ErrorReason.UNSPECIFIED}:
        return _of_account(evidence) or reason
    return reason


def _is_overload(evidence: ErrorEvidence) -> bool:
    return evidence.status == 503 or any(CODES.get(word) is ErrorReason.OVERLOADED for word in evidence.words)


def _of_account(evidence: ErrorEvidence) -> ErrorReason | None:
    """Say what the refusal of a request tells of the account or the place; nothing where a parameter is blamed."""
    return None if evidence.param else reason_of_account(evidence.message)


def _refills(evidence: ErrorEvidence) -> bool:
    """Tell whether what a code calls a spent quota is a limit that refills: a minute's, or any of Alibaba's."""
    return evidence.host.endswith(".aliyuncs.com") or REFILLS.search(evidence.message) is not None


def _is_google(evidence: ErrorEvidence) -> bool:
    """Tell whether Google refused: the wait it states with a day's quota is a minute's, and not to be believed."""
    return bool(evidence.quota_ids) or "resourceexhausted" in evidence.words or "for metric" in evidence.message


def _resumption(text: str) -> datetime | None:
    told = RESUMES.search(text)
    try:
        return datetime.fromisoformat(f"{told[1]}T{told[2]}+00:00") if told else None
    except ValueError:  # the 30th of February
        return None


def _by_codes(words: tuple[str, ...]) -> ErrorReason | None:
    """Take the first word that is known, else what an unseen one says; "rate limit" yields to all others' words."""
    known = (CODES[word] for word in words if word in CODES)
    unseen = (reason for word in words for pattern, reason in UNSEEN_CODES if pattern.search(word))
    found = None
    for found in itertools.chain(known, unseen):
        if found is not ErrorReason.RATE_LIMIT:
            break
    return found


def _by_status(evidence: ErrorEvidence) -> ErrorReason:
    status = evidence.status
    if status is not None and status >= 300:
        return reason_of_status(status)
    if weak := next((WEAK_CODES[word] for word in evidence.words if word in WEAK_CODES), None):
        return weak
    if status is not None and not evidence.in_stream:
        return reason_of_status(status)
    if evidence.provider == "anthropic" and evidence.words:
        return ErrorReason.UNKNOWN  # its set of types is closed, and all that can pass are listed
    return ErrorReason.UNSPECIFIED


def _reword(text: str, wordings: Mapping[ErrorReason, tuple[str, ...]]) -> ErrorReason | None:
    return next((reason for reason, phrases in wordings.items() if any(phrase in text for phrase in phrases)), None)


def _reword_rate_limit(evidence: ErrorEvidence) -> ErrorReason:
    text = evidence.message
    if LIMIT_ZERO.search(text):
        return ErrorReason.QUOTA
    if _of_account(evidence) is ErrorReason.QUOTA:
        return ErrorReason.QUOTA
    fits = False
    if sizes := LIMIT_AND_REQUESTED.search(text):
        limit, requested = (int(size.replace(",", "") or "0") for size in sizes.groups())
        fits = requested <= limit
        if not fits:
            return ErrorReason.REQUEST_EXCEEDS_LIMIT
    reason = _reword(text, RATE_LIMIT_WORDINGS) or ErrorReason.RATE_LIMIT
    if reason is ErrorReason.QUOTA and (_is_google(evidence) or _refills(evidence)):
        return ErrorReason.RATE_LIMIT  # Google calls a minute's limit a quota, in the words of OpenAI's spent budget
    return ErrorReason.RATE_LIMIT if fits and reason is ErrorReason.REQUEST_EXCEEDS_LIMIT else reason


def _is_daily(evidence: ErrorEvidence) -> bool:
    return any(phrase in text for text in evidence.quota_ids or (evidence.message,) for phrase in DAILY_WORDINGS)


def _heed_advice(consequence: Consequence, evidence: ErrorEvidence) -> Consequence:
    """Heed ``x-should-retry``: "false" vetoes any retry; "true" saves a 4xx of which no code says that it is final."""
    advice = evidence.headers.get("x-should-retry", "").lower()
    if advice == "false":
        return consequence._replace(classification=LLMErrorClassification.TERMINAL)
    final = consequence.classification is LLMErrorClassification.TERMINAL
    if advice == "true" and final and not evidence.words and 400 <= (evidence.status or 0) < 500:
        return Consequence(LLMErrorClassification.RETRYABLE)
    return consequence


def _wait(
    evidence: ErrorEvidence, headers: LimitHeaders, axis: Axis | None, *, refused: bool
) -> tuple[float, str] | None:
    """Climb the ladder: a header, a body field, the reset of a used-up limit, prose. Nothing is capped."""
    if found := headers.stated_wait():
        return found
    if evidence.body_wait and (wait_s := parse_duration(evidence.body_wait)) is not None:
        return wait_s, "body"
    if "mpagreementbeingcreated" in evidence.words:
        return _AGREEMENT_S, "documentation"
    if not refused:
        return None
    if found := headers.reset_wait(axis):
        return found
    wait_s = _wait_in_prose(evidence.message)
    return None if wait_s is None else (wait_s, "message")


def _wait_in_prose(text: str) -> float | None:
    told = WAIT.search(text)
    if told is None:
        return None
    if clock := told["clock"]:
        hours, minutes, seconds = map(float, clock.split(":"))
        return bounded_s(hours * 3_600 + minutes * 60 + seconds)
    if bare := told["bare"]:
        return bounded_s(float(bare))
    return bounded_s(sum(float(number) * _span_s(unit) for number, unit in _SPAN.findall(told["spans"])))


def _span_s(unit: str) -> float:
    return next(seconds for start, seconds in _SPAN_S if unit.startswith(start))


def _axis(evidence: ErrorEvidence, limits: tuple[AxisLimit, ...]) -> Axis | None:
    """Name the dimension that refused: by type, by quota id, by wording, by policy, or as the only one used up."""
    if evidence.axis is not None:
        return evidence.axis
    for word in evidence.words:
        if word in _AXIS_TYPES:
            return _AXIS_TYPES[word]
    for text in (*evidence.quota_ids, evidence.message, evidence.headers.get("policy-id", "").lower()):
        if named := AXIS.search(text):
            return Axis(str(named.lastgroup))
    used_up = [limit.axis for limit in limits if limit.remaining == 0]
    return used_up[0] if len(used_up) == 1 else None


_AXIS_TYPES = {axis.value.replace("_", ""): axis for axis in Axis}


def _limit_kind(reason: ErrorReason, axis: Axis | None, *, daily: bool) -> LimitKind | None:
    if reason is ErrorReason.QUOTA:
        return LimitKind.SPEND
    if daily:
        return LimitKind.DAY
    return LimitKind(axis.value) if axis else None


def _machine_word(text: str | None) -> str | None:
    """Let through what can only be a machine's word: no secret, be it ours or one by its looks, and nobody's text."""
    if text is None or not _MACHINE_WORD.fullmatch(text) or _SECRET.search(text) or holds_secret(text):
        return None
    return text
