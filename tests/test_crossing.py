"""SDK exceptions cross a process pool: same class, same verdict, and the key stays behind."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import pytest

from factflow_llm.errors import get_error_metadata
from factflow_llm.errors.crossing import let_cross
from tests.support.loopback import Drop, Events, Hang, Loopback, Reply
from tests.test_errors import ASK, KEY, provoke, refused_url

if TYPE_CHECKING:
    from collections.abc import Iterator

SDKS = ["openai", "azure", "anthropic", "bedrock"]


@pytest.fixture(autouse=True, scope="module")
def crossing() -> None:
    """Let the exceptions cross, as every client of ours does when it connects."""
    let_cross()


@pytest.fixture(scope="module")
def server() -> Iterator[Loopback]:
    """Serve one scripted answer after another for the whole module."""
    with Loopback(Drop()) as loopback:
        yield loopback


def cross(error: BaseException) -> BaseException:
    """Send an exception through a pickle, and check that nothing secret went with it."""
    pickled = pickle.dumps(error)
    assert KEY.encode() not in pickled
    assert b"the prompt is a secret" not in pickled
    copy = pickle.loads(pickled)
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    return copy


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize("status", [400, 401, 404, 409, 429, 500, 503, 529])
def test_a_refusal_crosses(sdk: str, status: int, server: Loopback) -> None:
    """A refused call has the same verdict on the other side: status, codes, waits and limits."""
    headers = {"retry-after": "7", "x-request-id": "r", "x-ratelimit-remaining-requests": "0"}
    body = {"error": {"message": "no", "type": "t", "code": "rate_limit_exceeded" if status == 429 else "c"}}
    server.script[:] = [Reply(body, status=status, headers=headers)]

    error = provoke(ASK[sdk], server.url)
    there = get_error_metadata(pickle.loads(pickle.dumps(error)) if sdk == "bedrock" else cross(error))

    here = get_error_metadata(error)
    assert (there.classification, there.reason, there.status_code) == (here.classification, here.reason, status)
    assert (there.retry_after_s, there.limits) == (here.retry_after_s, here.limits)


@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
def test_transport_failures_cross(sdk: str, server: Loopback) -> None:
    """A lost connection keeps its cause, and so its phase; a time-out and a cut stream do, too."""
    server.script[:] = [Drop()]
    lost = [provoke(ASK[sdk], refused_url()), provoke(ASK[sdk], server.url)]
    with Loopback(Hang()) as silent:
        lost.append(provoke(ASK[sdk], silent.url, timeout_s=0.05))
    server.script[:] = [Events([{"type": "ping"} if sdk == "anthropic" else {"id": "c", "choices": []}], cut=True)]
    lost.append(provoke(ASK[sdk], server.url, stream=True))

    for error in lost:
        here, there = get_error_metadata(error), get_error_metadata(cross(error))
        assert (there.reason, there.phase) == (here.reason, here.phase)
