"""What servers do to batches of texts, over the real SDK: refuse their size, garble vectors, fail one of several."""

from __future__ import annotations

import asyncio
import math
import pickle
from typing import TYPE_CHECKING, Any

import pytest

from factflow_llm.clients.openai import OpenAIClient
from factflow_llm.errors import (
    BadResponseError,
    ConfigurationError,
    ErrorReason,
    InvalidRequestError,
    LLMErrorClassification,
    PartialEmbeddingError,
    get_error_metadata,
    is_fatal_llm_error,
)
from factflow_llm.ratelimit.client import RateLimitedEmbeddingClient
from factflow_llm.ratelimit.config import RetryConfig
from factflow_llm.ratelimit.limiter import AdaptiveRateLimiter
from tests.support.loopback import Asked, Loopback, Reply, Scripted

if TYPE_CHECKING:
    from collections.abc import Callable

    from factflow_llm.types import EmbeddingResponse


def answer(asked: Asked) -> Reply:
    """Answer each text with the number it is."""
    data = [{"index": index, "embedding": [float(text), 0.5]} for index, text in enumerate(asked.body["input"])]
    return Reply({"object": "list", "model": "m", "data": data, "usage": {"prompt_tokens": 1, "total_tokens": 1}})


def refuse(message: str, status: int = 400, **error: Any) -> Reply:
    """Refuse in OpenAI's envelope."""
    return Reply({"error": {"message": message, "type": "invalid_request_error", **error}}, status=status)


def numbers(count: int) -> list[str]:
    """Make texts that are numbers."""
    return [str(number) for number in range(count)]


def embed(
    server: Loopback, texts: list[str], *, times: int = 1, limited: bool = False, **made: Any
) -> EmbeddingResponse:
    """Embed with one client, as often as asked; return the last response."""

    async def main() -> EmbeddingResponse:
        async with OpenAIClient("m", api_key="k", base_url=f"{server.url}/v1", **made) as client:
            retry = RetryConfig(max_attempts=1)
            asked: Any = RateLimitedEmbeddingClient(client, AdaptiveRateLimiter(), retry=retry) if limited else client
            for _ in range(times - 1):
                await asked.embed(texts)
            return await asked.embed(texts)

    return asyncio.run(main())


def sizes(server: Loopback) -> list[int]:
    """Return how many texts each request held, smallest first."""
    return sorted(len(asked.body["input"]) for asked in server.asked)


def takes(most: int, message: str, status: int = 400) -> Callable[[Asked], Reply]:
    """Make a server that takes so many texts and refuses more in these words."""

    def serve(asked: Asked) -> Reply:
        return answer(asked) if len(asked.body["input"]) <= most else refuse(message, status)

    return serve


REFUSALS = [
    (10, "<400> InternalError.Algo.InvalidParameter: batch size is invalid, it should not be larger than 10.", 400),
    (7, "* BatchEmbedContentsRequest.requests: at most 7 requests can be in one batch", 400),
    (16, "Too many inputs. The max number of inputs is 16. We hope to increase it soon.", 400),
    (9, "batch size 23 > maximum allowed batch size 9", 413),
    (9, "batch size 23 > maximum allowed batch size 9", 422),
    (12, "invalid request: total number of texts must be at most 12 but received 23", 400),
    (20, "Invalid 'input': array too long. Expected an array with maximum length 20, but got one with length 23.", 400),
    (8, "[{'type': 'too_long', 'msg': 'List should have at most 8 items after validation, not 23'}]", 422),
    (11, "input数组最大不得超过11条", 400),
    (5, "input must be an array of 5 or fewer strings", 400),
    (6, "Range of input list size should be [1, 6]", 400),
    (1, "Batch requests are not supported for this model", 400),
]


@pytest.mark.parametrize("limited", [False, True], ids=["bare", "limited"])
@pytest.mark.parametrize(("most", "message", "status"), REFUSALS)
def test_a_refusal_teaches_the_size_of_a_batch(most: int, message: str, status: int, limited: bool) -> None:
    """The size that a refusal names is what is sent from then on; nothing is asked twice but the refused batch."""
    with Loopback(takes(most, message, status)) as server:
        response = embed(server, numbers(23), times=2, limited=limited)
        assert [vector[0] for vector in response.vectors] == list(map(float, range(23)))
        pieces = [min(most, 23 - start) for start in range(0, 23, most)]
        assert sizes(server) == sorted([23, *pieces, *pieces])


@pytest.mark.parametrize(
    ("message", "status"),
    [
        ("Request Entity Too Large", 413),
        ("too many inputs", 400),
        ("batch is too big", 422),
        ("input array is too long", 400),
    ],
)
def test_a_size_that_is_not_told_is_found_by_halving(message: str, status: int) -> None:
    """Halves of halves are tried until they pass, and the size that passed is kept."""
    with Loopback(takes(3, message, status)) as server:
        response = embed(server, numbers(10), times=2)
        assert len(response.vectors) == 10
        assert sizes(server)[-3:] == [5, 5, 10]
        assert max(sizes(server)[:-3]) == 3


@pytest.mark.parametrize(
    ("message", "status"),
    [
        ("This model's maximum context length is 5 tokens, your input has 9", 400),
        ("inputs must be at most 4 characters each", 400),
        ("dimensions must be at most 2", 400),
        ("Incorrect API key provided: at most 3 inputs", 401),
        ("Rate limit reached: at most 3 inputs", 429),
        ("at most 64 inputs", 400),
    ],
)
def test_other_refusals_teach_nothing(message: str, status: int) -> None:
    """Bounds on tokens, on characters and on other things, and refusals of another kind, are no sizes of a batch."""
    with Loopback(refuse(message, status)) as server:
        with pytest.raises(Exception, match="Error code"):
            embed(server, numbers(6))
        assert sizes(server) == [6]


def test_batch_size_is_a_setting() -> None:
    """A client told the size sends no larger batch; one that is no number is refused with the bound."""
    with Loopback(answer) as server:
        assert len(embed(server, numbers(7), batch_size=3).vectors) == 7
        assert sizes(server) == [1, 3, 3]
    with pytest.raises(ConfigurationError, match="batch_size=0 must be a whole number from 1"):
        OpenAIClient("m", api_key="k", batch_size=0)


@pytest.mark.parametrize(
    "refusal",
    [
        refuse("encoding_format base64 is not supported", param="encoding_format"),
        refuse("Unsupported value: 'base64'", 422),
        Reply({"detail": [{"loc": ["body", "encoding_format"], "msg": "Input should be 'float'"}]}, status=422),
    ],
)
def test_a_server_that_cannot_pack_is_asked_for_plain_vectors(refusal: Reply) -> None:
    """Base64 refused once is not asked for again; the batches that were refused are sent again."""

    def serve(asked: Asked) -> Reply:
        return refusal if asked.body["encoding_format"] == "base64" else answer(asked)

    with Loopback(serve) as server:
        response = embed(server, numbers(4), times=2, batch_size=2)
        assert [vector[0] for vector in response.vectors] == [0.0, 1.0, 2.0, 3.0]
        forms = [asked.body["encoding_format"] for asked in server.asked]
        assert forms.count("float") == 4
        assert 1 <= forms.count("base64") <= 2, "two batches go at once, and the second may know already"
        assert set(forms[-2:]) == {"float"}


def test_a_server_that_refuses_plain_vectors_too_is_asked_twice() -> None:
    """Asking otherwise is tried once; a form that the caller chose is not tried otherwise at all."""
    with Loopback(refuse("encoding_format: unknown parameter")) as server:
        with pytest.raises(Exception, match="unknown parameter"):
            embed(server, ["1"])
        assert len(server.asked) == 2
        with pytest.raises(Exception, match="unknown parameter"):
            embed(server, ["1"], options={"encoding_format": "base64"})
        assert len(server.asked) == 3


GARBLED: dict[str, tuple[list[Any], str]] = {
    "no vector": ([[1.0], None], r"texts\[1\] has no vector of numbers"),
    "too few": ([[1.0]], r"texts\[1\] has no vector: 1 came for 2 texts"),
    "too many": ([[1.0], [2.0], [3.0]], "a vector came with index 2 where 2 texts were sent"),
    "empty": ([[1.0], []], r"texts\[1\] has an empty vector"),
    "unequal": ([[1.0, 2.0], [1.0]], r"texts\[1\] has a vector of 1 numbers, the one before it 2"),
    "not a number": ([[1.0], [math.nan]], r"texts\[1\] has a vector with a NaN"),
    "infinite": ([[1.0], [-math.inf]], r"texts\[1\] has a vector with a NaN or an infinite"),
    "null inside": ([[1.0], [None]], r"texts\[1\] has no vector of numbers"),
    "nested": ([[1.0], [[1.0]]], r"texts\[1\] has no vector of numbers"),
    "no base64": ([[1.0], "=?="], r"texts\[1\] has no vector of numbers"),
    "half a number": ([[1.0], "AAA="], r"texts\[1\] has no vector of numbers"),
    "an object": ([[1.0], {"float": [1.0]}], r"texts\[1\] has no vector of numbers but a value of type"),
}


@pytest.mark.parametrize("case", GARBLED)
def test_garbled_vectors_are_named_by_position(case: str) -> None:
    """What is no vector of the right length is an error of ours that names the text in the caller's list."""
    values, words = GARBLED[case]
    data = [{"index": index, "embedding": value} for index, value in enumerate(values)]
    with (
        Loopback(Reply({"data": data, "model": "m"})) as server,
        pytest.raises(BadResponseError, match=words) as caught,
    ):
        embed(server, ["0", "1"])
    assert get_error_metadata(caught.value).reason is ErrorReason.BAD_RESPONSE


@pytest.mark.parametrize(
    ("indices", "order"),
    [
        ([None, None, None], [0, 1, 2]),
        ([2, 0, 1], [1, 2, 0]),
        (["1", "0", "2"], [1, 0, 2]),
        ([2.0, 1.0, 0.0], [2, 1, 0]),
        ([None, 1, 2], [0, 1, 2]),
        ([1, 2, None], [2, 0, 1]),
    ],
)
def test_order_is_found_where_it_can_be(indices: list[Any], order: list[int]) -> None:
    """An index may be written otherwise, left out by all, or left out by the only row that remains."""
    rows = [
        {"embedding": [float(row)]} | ({} if index is None else {"index": index}) for row, index in enumerate(indices)
    ]
    with Loopback(Reply({"data": rows})) as server:
        assert [vector[0] for vector in embed(server, numbers(3)).vectors] == order


def test_bare_vectors_are_in_the_order_of_the_texts() -> None:
    """A server that sends vectors alone, or the one it has as no list, is understood."""
    with Loopback(Reply({"data": [[1.0], [2.0]]}), Reply({"data": {"index": 0, "embedding": [3.0]}})) as server:
        assert embed(server, numbers(2)).vectors == ((1.0,), (2.0,))
        assert embed(server, numbers(1)).vectors == ((3.0,),)


@pytest.mark.parametrize("indices", [[0, 0, 0], [0, 0, 1], [0, 1, 3], [-1, 0, 1], [None, None, 0], [True, 1, 0.5]])
def test_order_is_not_guessed(indices: list[Any]) -> None:
    """Two vectors for one text, one for no text, several without index beside others: an error, no mixed-up order."""
    rows = [
        {"embedding": [float(row)]} | ({} if index is None else {"index": index}) for row, index in enumerate(indices)
    ]
    with Loopback(Reply({"data": rows})) as server, pytest.raises(BadResponseError, match=r"index|two vectors"):
        embed(server, numbers(3))


def test_dimensions_that_a_server_ignores_are_an_error() -> None:
    """Longer vectors than asked for would not fit where they are to be stored."""

    async def main(server: Loopback) -> None:
        async with OpenAIClient("m", api_key="k", base_url=server.url) as client:
            await client.embed(["1"], dimensions=3)

    with Loopback(answer) as server, pytest.raises(BadResponseError, match="2 numbers where dimensions=3 was asked"):
        asyncio.run(main(server))


def failing(*bad: str, reply: Scripted) -> Callable[[Asked], Any]:
    """Make a server that answers thus to a batch with any of these texts in it."""

    def serve(asked: Asked) -> Any:
        if not set(bad) & set(asked.body["input"]):
            return answer(asked)
        return reply(asked) if callable(reply) else reply

    return serve


@pytest.mark.parametrize("limited", [False, True], ids=["bare", "limited"])
def test_one_failed_batch_does_not_lose_the_others(limited: bool) -> None:
    """The error carries the finished vectors and the missing positions, and classifies as its cause."""
    with (
        Loopback(failing("4", reply=refuse("no such thing", 400))) as server,
        pytest.raises(PartialEmbeddingError) as caught,
    ):
        embed(server, numbers(9), batch_size=3, limited=limited)
    error = caught.value
    assert error.missing == (3, 4, 5)
    assert [vector and vector[0] for vector in error.vectors] == [0.0, 1.0, 2.0, None, None, None, 6.0, 7.0, 8.0]
    assert error.input_tokens == 2
    assert get_error_metadata(error).status_code == 400
    assert get_error_metadata(error).reason is ErrorReason.INVALID_REQUEST
    assert "texts[3] the first" in str(error)
    assert "no such thing" not in str(error)


def test_a_partial_error_crosses_a_process() -> None:
    """What was finished and the verdict survive pickling, though the cause does not."""
    with (
        Loopback(failing("4", reply=refuse("slow", 429, code="rate_limit_exceeded"))) as server,
        pytest.raises(PartialEmbeddingError) as caught,
    ):
        embed(server, numbers(6), batch_size=3)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.missing, copy.vectors) == (caught.value.missing, caught.value.vectors)
    assert get_error_metadata(copy).classification is LLMErrorClassification.RATE_LIMITED


def test_garbled_batch_is_named_in_the_callers_list() -> None:
    """A position in the third batch is counted from the first text of all."""
    null = Reply({"data": [{"index": 0, "embedding": [1.0, 0.5]}, {"index": 1, "embedding": None}]})
    with Loopback(failing("5", reply=null)) as server, pytest.raises(PartialEmbeddingError) as caught:
        embed(server, numbers(6), batch_size=2)
    assert isinstance(caught.value.__cause__, BadResponseError)
    assert "texts[5]" in str(caught.value.__cause__)
    assert caught.value.missing == (4, 5)


def test_batches_of_unequal_length_are_told() -> None:
    """Vectors of another batch's length would break what stores them: that batch is missing."""
    long = Reply({"data": [{"index": 0, "embedding": [1.0] * 3}, {"index": 1, "embedding": [1.0] * 3}]})
    with Loopback(failing("0", reply=long)) as server, pytest.raises(PartialEmbeddingError) as caught:
        embed(server, numbers(4), batch_size=2)
    assert caught.value.missing in {(0, 1), (2, 3)}
    assert isinstance(caught.value.__cause__, BadResponseError)


def test_what_every_request_will_meet_is_not_waited_for() -> None:
    """A wrong key ends the call at once, with the other batches' requests given up."""
    with (
        Loopback(refuse("Incorrect API key", 401, code="invalid_api_key")) as server,
        pytest.raises(Exception, match="Incorrect API key") as caught,
    ):
        embed(server, numbers(40), batch_size=1)
    assert is_fatal_llm_error(caught.value)


def test_a_text_that_the_provider_blames_is_named() -> None:
    """A refusal that names a text by its place in the batch is told by its place in the list, beside the others."""
    with (
        Loopback(failing("3", reply=refuse("Invalid 'input[1]': too long."))) as server,
        pytest.raises(PartialEmbeddingError) as caught,
    ):
        embed(server, numbers(4), batch_size=2)
    assert isinstance(caught.value.__cause__, InvalidRequestError)
    assert str(caught.value.__cause__).startswith("texts[3] was refused")
