"""What is known about other people's errors, as data: exception classes, machine codes, statuses, and wordings.

Machine codes are compared without case and punctuation, so that ``ThrottlingException``, ``throttlingException`` and
``throttling_exception`` are one. Wordings stand only for facts that have no code; they refine a verdict reached
without them, and never one about a 5xx.
"""

from __future__ import annotations

import re

from factflow_llm.errors.metadata import ErrorReason as R
from factflow_llm.errors.metadata import Phase
from factflow_llm.providers import PROVIDERS

Rule = tuple[R, Phase | None]

SDK_PACKAGES = frozenset(
    {
        *("openai", "anthropic", "botocore", "httpx", "httpx2", "requests", "aiohttp", "urllib", "urllib3"),
        *("huggingface_hub", "azure", "google", "litellm", "mistralai", "cohere", "groq", "together", "ollama"),
        *("factflow_llm",),
    }
)
"""Top-level packages whose exceptions speak for a provider; a stranger's ``status_code`` counts only without them."""

RAISED_BY = {package: str(name) for name, entry in PROVIDERS.items() for package in entry.raised_by}
"""Provider by the top-level package of an exception; Azure is told from OpenAI by its address or headers."""

_HTTPX = {
    "PoolTimeout": (R.TIMEOUT, Phase.POOL),
    "ConnectTimeout": (R.TIMEOUT, Phase.CONNECT),
    "WriteTimeout": (R.TIMEOUT, Phase.WRITE),
    "ReadTimeout": (R.TIMEOUT, Phase.READ),
    "TimeoutException": (R.TIMEOUT, None),
    "ConnectError": (R.CONNECTION, Phase.CONNECT),
    "WriteError": (R.CONNECTION, Phase.WRITE),
    "ReadError": (R.CONNECTION, Phase.READ),
    "RemoteProtocolError": (R.CONNECTION, Phase.READ),
    "LocalProtocolError": (R.CONFIGURATION, None),  # a newline in a header, usually in the API key
    "UnsupportedProtocol": (R.CONFIGURATION, None),
    "InvalidURL": (R.CONFIGURATION, None),
    "ProxyError": (R.CONNECTION, Phase.CONNECT),
    "TooManyRedirects": (R.CONFIGURATION, None),
    "DecodingError": (R.BAD_RESPONSE, None),
    "TransportError": (R.CONNECTION, None),
    "NetworkError": (R.CONNECTION, None),
    "ProtocolError": (R.CONNECTION, None),
    "ConnectionNotAvailable": (R.CONNECTION, Phase.POOL),
}

_CLASSES: dict[str, dict[str, Rule]] = {
    "openai anthropic": {
        "APITimeoutError": (R.TIMEOUT, None),
        "APIConnectionError": (R.CONNECTION, None),
        "APIResponseValidationError": (R.BAD_RESPONSE, None),
        "ContentFilterFinishReasonError": (R.CONTENT_FILTER, None),
        "LengthFinishReasonError": (R.INVALID_REQUEST, None),
        "CredentialsError": (R.AUTHENTICATION, None),
        "SubjectTokenProviderError": (R.AUTHENTICATION, None),
        "WebSocketConnectionClosedError": (R.CONNECTION, Phase.READ),
        "RetryableError": (R.UNSPECIFIED, None),
        "APIError": (R.UNSPECIFIED, None),
        "OpenAIError": (R.CONFIGURATION, None),  # the bare root: a client that could not be built
        "AnthropicError": (R.CONFIGURATION, None),
    },
    "httpx httpx2 httpcore httpcore2": _HTTPX,
    "botocore": {
        "ConnectTimeoutError": (R.TIMEOUT, Phase.CONNECT),
        "ReadTimeoutError": (R.TIMEOUT, Phase.READ),
        "EndpointConnectionError": (R.CONNECTION, Phase.CONNECT),
        "ProxyConnectionError": (R.CONNECTION, Phase.CONNECT),
        "SSLError": (R.CONNECTION, Phase.CONNECT),
        "ConnectionError": (R.CONNECTION, Phase.CONNECT),
        "ConnectionClosedError": (R.CONNECTION, Phase.READ),
        "ResponseStreamingError": (R.CONNECTION, Phase.READ),
        "IncompleteReadError": (R.CONNECTION, Phase.READ),
        "HTTPClientError": (R.CONNECTION, None),
        "ResponseParserError": (R.BAD_RESPONSE, None),
        "ChecksumError": (R.BAD_RESPONSE, None),
        "ParamValidationError": (R.INVALID_REQUEST, None),
        "NoCredentialsError": (R.AUTHENTICATION, None),
        "PartialCredentialsError": (R.AUTHENTICATION, None),
        "CredentialRetrievalError": (R.AUTHENTICATION, None),
        "NoAuthTokenError": (R.AUTHENTICATION, None),
        "TokenRetrievalError": (R.AUTHENTICATION, None),
        "SSOError": (R.AUTHENTICATION, None),
        "BotoCoreError": (R.CONFIGURATION, None),
    },
    "urllib3": {
        "ConnectTimeoutError": (R.TIMEOUT, Phase.CONNECT),
        "ReadTimeoutError": (R.TIMEOUT, Phase.READ),
        "TimeoutError": (R.TIMEOUT, None),
        "NewConnectionError": (R.CONNECTION, Phase.CONNECT),
        "EmptyPoolError": (R.TIMEOUT, Phase.POOL),
        "ProtocolError": (R.CONNECTION, Phase.READ),
        "ProxyError": (R.CONNECTION, Phase.CONNECT),
        "LocationValueError": (R.CONFIGURATION, None),
        "HTTPError": (R.CONNECTION, None),
    },
    "requests": {
        "ConnectTimeout": (R.TIMEOUT, Phase.CONNECT),
        "ReadTimeout": (R.TIMEOUT, Phase.READ),
        "Timeout": (R.TIMEOUT, None),
        "ProxyError": (R.CONNECTION, Phase.CONNECT),
        "ConnectionError": (R.CONNECTION, None),
        "ChunkedEncodingError": (R.CONNECTION, Phase.READ),
        "ContentDecodingError": (R.BAD_RESPONSE, None),
        "JSONDecodeError": (R.BAD_RESPONSE, None),
        "MissingSchema": (R.CONFIGURATION, None),
        "InvalidSchema": (R.CONFIGURATION, None),
        "InvalidURL": (R.CONFIGURATION, None),
        "InvalidHeader": (R.CONFIGURATION, None),
        "TooManyRedirects": (R.CONFIGURATION, None),
    },
    "aiohttp": {
        "ServerTimeoutError": (R.TIMEOUT, None),
        "InvalidURL": (R.CONFIGURATION, None),
        "ClientConnectorCertificateError": (R.CONFIGURATION, Phase.CONNECT),
        "ClientConnectorError": (R.CONNECTION, Phase.CONNECT),
        "ServerDisconnectedError": (R.CONNECTION, Phase.READ),
        "ClientPayloadError": (R.CONNECTION, Phase.READ),
        "ContentTypeError": (R.BAD_RESPONSE, None),
        "ClientConnectionError": (R.CONNECTION, None),
    },
    "azure": {
        "ClientAuthenticationError": (R.AUTHENTICATION, None),
        "CredentialUnavailableError": (R.AUTHENTICATION, None),
        "ServiceRequestError": (R.CONNECTION, Phase.CONNECT),
        "ServiceResponseError": (R.CONNECTION, Phase.READ),
    },
    "huggingface_hub": {
        "OfflineModeIsEnabled": (R.NOT_FOUND, None),
        "GatedRepoError": (R.PERMISSION, None),
        "RepositoryNotFoundError": (R.NOT_FOUND, None),
        "RevisionNotFoundError": (R.NOT_FOUND, None),
        "EntryNotFoundError": (R.NOT_FOUND, None),
        "HFValidationError": (R.NOT_FOUND, None),
        "LocalTokenNotFoundError": (R.AUTHENTICATION, None),
    },
    "torch": {"OutOfMemoryError": (R.OUT_OF_MEMORY, None)},
    "anyio": {
        "BrokenResourceError": (R.CONNECTION, None),
        "ClosedResourceError": (R.CONNECTION, None),
        "EndOfStream": (R.CONNECTION, Phase.READ),
    },
    "asyncio": {"CancelledError": (R.CANCELLED, None), "IncompleteReadError": (R.CONNECTION, Phase.READ)},
    "concurrent": {"CancelledError": (R.CANCELLED, None)},
    "http": {"InvalidURL": (R.CONFIGURATION, None), "HTTPException": (R.CONNECTION, Phase.READ)},
    "json": {"JSONDecodeError": (R.BAD_RESPONSE, None)},
    "socket": {"gaierror": (R.CONNECTION, Phase.CONNECT)},
    "ssl": {
        "SSLCertVerificationError": (R.CONFIGURATION, Phase.CONNECT),
        "SSLError": (R.CONNECTION, Phase.CONNECT),
    },
    "builtins": {
        "KeyboardInterrupt": (R.CANCELLED, None),
        "SystemExit": (R.CANCELLED, None),
        "GeneratorExit": (R.CANCELLED, None),
        "TimeoutError": (R.TIMEOUT, None),
        "ConnectionRefusedError": (R.CONNECTION, Phase.CONNECT),
        "ConnectionError": (R.CONNECTION, None),
        "FileNotFoundError": (R.NOT_FOUND, None),
        "NotADirectoryError": (R.NOT_FOUND, None),
        "MemoryError": (R.OUT_OF_MEMORY, None),
        "ImportError": (R.CONFIGURATION, None),
    },
}

CLASSES: dict[str, Rule] = {
    f"{package}.{name}": rule
    for packages, rules in _CLASSES.items()
    for package in packages.split()
    for name, rule in rules.items()
}
"""Rule by ``package.Class``; an exception is looked up along its MRO, so that subclasses yet unwritten are covered."""

_PUNCTUATION = re.compile(r"[^a-z0-9]+")


def squash(word: str) -> str:
    """Reduce a machine code to what its spellings share."""
    return _PUNCTUATION.sub("", word.rpartition("#")[2].partition(":")[0].lower())


_CODES: dict[R, str] = {
    R.QUOTA: """
        insufficient_quota billing_hard_limit_reached credit_balance_exhausted organization_spend_limit_exceeded
        project_spend_limit_exceeded organization_usage_limit_exceeded billing_not_active account_deactivated
        exceeded_current_quota_error billing_error enforced_spend_limit_reached contract_spend_limit_reached
        linked_organization_billing_unavailable linked_organization_spend_limit_reached insufficient_balance
        payment_required Arrearage AccountOverdueError insufficient_user_quota quota_not_enough
        AllocationQuota.FreeTierOnly
        """,
    R.RATE_LIMIT: """
        rate_limit_exceeded rate_limit_error rate_limited RateLimitReached too_many_requests TooManyRequestsException
        RESOURCE_EXHAUSTED ThrottlingException Throttling ThrottledException RequestThrottled RequestThrottledException
        RequestLimitExceeded ProvisionedThroughputExceededException LimitExceededException
        rate_limit_reached_error
        """,
    R.RAMP: "slow_down ramp_limit_exceeded",
    R.CAPACITY: "NoCapacity resource_unavailable capacity_exceeded flex_tier_capacity_exceeded",
    R.SERVICE_QUOTA: "ServiceQuotaExceededException",
    R.OVERLOADED: """
        overloaded_error overloaded server_is_overloaded engine_overloaded engine_overloaded_error
        service_unavailable_error service_unavailable ServiceUnavailableException UNAVAILABLE
        """,
    R.SERVER: """
        InternalServerException InternalFailure InternalError ModelStreamErrorException internal_server_error
        cmek_context_unavailable cmek_key_unreachable compaction_unavailable
        """,
    R.TIMEOUT: """
        timeout_error timeout ModelTimeoutException RequestTimeout RequestTimeoutException DEADLINE_EXCEEDED
        gateway_timeout request_body_timeout external_key_validation_timed_out
        """,
    R.NOT_READY: "ModelNotReadyException MPAgreementBeingCreated registration_pending",
    R.MODEL_ERROR: "ModelErrorException tool_use_failed json_validate_failed output_parse_failed",
    R.CONFLICT: "conflict_error ConflictException TransactionInProgressException PriorRequestNotComplete ABORTED",
    R.AUTHENTICATION: """
        invalid_api_key authentication_error invalid_authentication_error incorrect_api_key_error unauthorized
        UNAUTHENTICATED API_KEY_INVALID invalid_token token_expired UnrecognizedClientException
        InvalidSignatureException IncompleteSignature IncompleteSignatureException SignatureDoesNotMatch
        MissingAuthenticationToken MissingAuthenticationTokenException InvalidClientTokenId ExpiredToken
        ExpiredTokenException RequestExpired claude_code_key_creator_not_member
        """,
    R.CONFIGURATION: "RequestTimeTooSkewed claude_code_version_too_old",
    R.PERMISSION: """
        permission_error permission_denied PERMISSION_DENIED AccessDeniedException AccessDenied forbidden OptInRequired
        NotAuthorized UnauthorizedOperation unsupported_country_region_territory organization_on_hold
        organization_not_enrolled_in_beta organization_type_not_supported parent_organization_required
        cmek_key_disabled cmek_key_network_blocked organization_restricted
        """,
    R.NOT_FOUND: """
        model_not_found not_found_error not_found DeploymentNotFound ResourceNotFoundException invalid_model
        model_not_available unknown_model
        """,
    R.CONTEXT_LENGTH: "context_length_exceeded request_too_large string_above_max_length context_window_exceeded",
    R.CONTENT_FILTER: """
        content_filter content_policy_violation ResponsibleAIPolicyViolation invalid_prompt
        misalignment_policy_violation content_filter_error moderation_blocked DataInspectionFailed
        data_inspection_failed
        """,
    R.BATCH_TOO_LARGE: "max_tokens_per_request",
    R.INVALID_REQUEST: """
        ValidationException ValidationError INVALID_ARGUMENT FAILED_PRECONDITION OUT_OF_RANGE unsupported_parameter
        unsupported_value invalid_value invalid_type missing_required_parameter unknown_parameter
        file_expired thread_not_found plugin_name_taken skill_name_taken skill_read_blocked_undecryptable
        memory_precondition_failed_error memory_path_conflict_error UnknownOperationException
        SerializationException MalformedQueryString invalid_encrypted_content
        """,
}

_NUMBERS: dict[str, dict[R, str]] = {
    "base_resp": {  # MiniMax
        R.QUOTA: "1008",
        R.DAILY_QUOTA: "1028 1030 2056",
        R.RATE_LIMIT: "1002 1039 1041 2045",
        R.AUTHENTICATION: "1004 2049",
        R.PERMISSION: "2042 2061",
        R.TIMEOUT: "1001",
        R.SERVER: "1000 1013 1024 1033",
        R.CONTENT_FILTER: "1026 1027",
        R.INVALID_REQUEST: "1042 1043 2013 2015 2037",
    },
    "error_code": {  # Qianfan
        R.QUOTA: "19",
        R.DAILY_QUOTA: "17",
        R.RATE_LIMIT: "4 18 336501 336502 336503 336504 336505",
        R.AUTHENTICATION: "13 14 100 110 111",
        R.PERMISSION: "6",
        R.NOT_FOUND: "3",
        R.OVERLOADED: "2 336100",
        R.SERVER: "1 15 336000",
        R.CONTEXT_LENGTH: "336007 336103",
        R.INVALID_REQUEST: "336001 336002 336003 336004 336005 336006 336101 336102 336104 336105 336106",
    },
    "code": {  # Zhipu; four digits
        R.QUOTA: "1113 1112 1121 1309",
        R.DAILY_QUOTA: "1304 1308 1310",
        R.RATE_LIMIT: "1302 1303 1305",
        R.OVERLOADED: "1312",
        R.AUTHENTICATION: "1000 1001 1002 1003 1004 1110 1111",
        R.PERMISSION: "1220 1311",
        R.NOT_FOUND: "1211 1221 1222",
        R.SERVER: "1120 1230 1234",
        R.CONTEXT_LENGTH: "1261",
        R.CONTENT_FILTER: "1301",
        R.INVALID_REQUEST: "1210 1212 1213 1214 1215",
    },
}
"""Reason by a vendor's own number, under the name of the field that holds it: the same number says other things
elsewhere."""

CODES: dict[str, R] = {squash(word): reason for reason, words in _CODES.items() for word in words.split()} | {
    squash(f"{name}{number}"): reason
    for name, by_reason in _NUMBERS.items()
    for reason, numbers in by_reason.items()
    for number in numbers.split()
}
"""Reason by machine code; it overrides the status."""

WEAK_CODES = {
    "invalidrequesterror": R.INVALID_REQUEST,
    "badrequest": R.INVALID_REQUEST,
    "apierror": R.SERVER,
    "servererror": R.SERVER,
    "internal": R.SERVER,
}
"""Reason by codes that providers put on errors of every status; they speak only where no status does."""

UNSEEN_CODES = (
    (
        re.compile(
            r"(?:spend|billing|credit|usage)(?:hard)?limit(?!s)|insufficient(?:quota|balance|credit)"
            r"|budget(?:exceed|exhaust)|arrear|overdue|pastdue"
        ),
        R.QUOTA,
    ),
    (re.compile(r"suspended|deactivated"), R.PERMISSION),
    (re.compile(r"context(?:length|size|window)"), R.CONTEXT_LENGTH),
    (re.compile(r"content(?:filter|policy)"), R.CONTENT_FILTER),
    (re.compile(r"overloaded"), R.OVERLOADED),
    (re.compile(r"ratelimit|throttl"), R.RATE_LIMIT),
)
"""What a code nobody has listed most probably says."""

_STATUSES: dict[R, tuple[int, ...]] = {
    R.INVALID_REQUEST: (400, 405, 406, 410, 411, 412, 414, 415, 416, 417, 422, 426, 428, 431, 501, 505),
    R.AUTHENTICATION: (401,),
    R.QUOTA: (402,),
    R.PERMISSION: (403, 451),
    R.NOT_FOUND: (404,),
    R.CONFIGURATION: (407, 495, 496, 497, 511),
    R.TIMEOUT: (408, 499, 504, 524),
    R.CONFLICT: (409, 423, 425),
    R.CONTEXT_LENGTH: (413,),
    R.CONNECTION: (421, 444, 460),
    R.MODEL_ERROR: (424,),
    R.RATE_LIMIT: (429,),
    R.CAPACITY: (498,),
    R.OVERLOADED: (503, 529),
}
STATUSES = {status: reason for reason, statuses in _STATUSES.items() for status in statuses}
"""Reason by HTTP status; other 3xx are a wrong ``base_url``, other 4xx the request's fault, other 5xx the server's."""


def reason_of_status(status: int) -> R:
    """Judge by the HTTP status alone."""
    if reason := STATUSES.get(status):
        return reason
    if status < 300:
        return R.BAD_RESPONSE
    if status < 400:
        return R.CONFIGURATION
    return R.INVALID_REQUEST if status < 500 else R.SERVER


INVALID_REQUEST_WORDINGS: dict[R, tuple[str, ...]] = {
    R.BATCH_TOO_LARGE: (" tokens per request", "maximum allowed batch size"),
    R.CONTEXT_LENGTH: (
        "context length",
        "context size",
        "context window",
        "exceed context limit",
        "exceeds the maximum number of tokens",
        "expected maxlength:",
        "input is too long",
        "input token count",
        "maximum input length",
        "prompt is too long",
        "too many input tokens",
    ),
    R.CONTENT_FILTER: (
        "content filtering polic",
        "content management policy",
        "content filter",
        "safety system",
    ),
    R.NOT_FOUND: ("provided model identifier is invalid",),
}
"""What the refusal of a request says that no code tells."""

PERMISSION_WORDINGS: dict[R, tuple[str, ...]] = {
    R.QUOTA_WINDOW: ("out of call volume quota",),
    R.QUOTA: ("key limit exceeded",),
    R.CONTENT_FILTER: ("requires moderation", "input was flagged"),
}

RATE_LIMIT_WORDINGS: dict[R, tuple[str, ...]] = {
    R.REQUEST_EXCEEDS_LIMIT: ("request too large", "retry after 86400 seconds"),  # the latter is Azure's "never"
    R.QUOTA: ("reached your api usage limits", "check your plan and billing"),
    R.CAPACITY: ("experiencing high demand", "temporarily unable to process", "no capacity"),
}
"""What a rate limit's text says beyond its code."""

DAILY_WORDINGS = (
    *("per day", "per-day", "per_day", "perday", "byday", "(rpd)", "(tpd)", "daily"),
    *("per month", "/ month", "/month", "per week", "weekly", "week allocated quota", "month allocated quota"),
)
"""How a limit says that its window is a day, or longer still."""

LIMIT_AND_REQUESTED = re.compile(r"limit:? ([\d,]+).{0,40}?requested:? ~?([\d,]+)", re.DOTALL)
REFILLS = re.compile(
    r"aliyun|alibabacloud|dashscope|model-studio|per[ -_]?min(?:ute)?\b|/ ?min(?:ute)?\b|\b[rt]pm\b|\bqps\b"
    r"|per second|每分钟"
)
"""Who calls a minute's limit a spent quota, and how such a limit says that it is a minute's."""

LIMIT_ZERO = re.compile(r"\blimit:? 0(?![\d.])")
RESUMES = re.compile(r"regain access on (\d{4}-\d\d-\d\d) at (\d\d:\d\d) utc")
WAIT = re.compile(
    r"(?:again|retry(?:ing)?|wait|replenished)(?: (?:later|in|after|for|about|approximately))* "
    r"(?:(?P<clock>\d+:\d\d:\d\d)"
    r"|(?P<spans>(?:\d+(?:\.\d+)? ?(?:milliseconds?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)\b"
    r"(?:,? (?:and )?)?|\d+(?:\.\d+)?(?:h|m(?!s)|d)(?=\d))+)"
    r"|(?P<bare>\d+(?:\.\d+)?)(?=\W*$))"
)
"""A wait told in prose: ``in 7m12s``, ``after 32 seconds``, ``in 976ms``, ``replenished in 01:02:03``."""
AXIS = re.compile(
    r"(?P<concurrency>concurren|simultaneous)"
    r"|(?P<input_tokens>input[ _]tokens?[ _]per[ _]|inputtokens?|input_token|\bitpm\b)"
    r"|(?P<output_tokens>output[ _]tokens?[ _]per[ _]|outputtokens?|output_token|\botpm\b)"
    r"|(?P<tokens>(?:\b|_)(?:token rate limit|tokens?[ _]per[ _]|too many tokens\b|tpm\b|tpd\b)|ratelimit-token)"
    r"|(?P<requests>(?:\b|_)(?:(?:call|requests?) rate limit|requests?[ _]per[ _]|too many requests\b|rpm\b|rpd\b)"
    r"|call volume|generaterequests|ratelimit-call|models-per-)"
)
"""The metered dimension that a rate limit's text, quota id or policy names; the earliest mention counts.

All patterns and wordings of this file are for text in lower case.
"""
