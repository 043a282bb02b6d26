"""Embeddings from a local sentence-transformers model, computed in a thread; its clients share the model and its lock.

The library (and torch behind it) is imported and the model loaded in that thread with the first text, so making a
client costs nothing and blocks no event loop.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakValueDictionary

from factflow_llm.clients.checks import check_count
from factflow_llm.clients.embeddings import BaseEmbeddingClient
from factflow_llm.clients.vectors import check_vectors
from factflow_llm.errors import (
    ConfigurationError,
    ErrorReason,
    ExtraMissingError,
    InvalidRequestError,
    get_error_metadata,
)
from factflow_llm.types import EmbeddingResponse, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class _LocalModel:
    """A model loaded with the first use, for one computation at a time."""

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        self.lock = threading.Lock()
        self._name = name
        self._options = options
        self._model: Any = None

    def load(self) -> Any:
        """Return the model; the caller holds the lock."""
        if self._model is None:
            from sentence_transformers import SentenceTransformer

            self._model = SentenceTransformer(self._name, **self._options)
        return self._model


_shared: WeakValueDictionary[str, _LocalModel] = WeakValueDictionary()
_shared_lock = threading.Lock()


def _share(name: str, options: Mapping[str, Any]) -> _LocalModel:
    """Return the model that clients with the same settings use, in whichever event loop: memory holds it once."""
    with _shared_lock:
        return _shared.setdefault(repr((name, sorted(options.items()))), _LocalModel(name, options))


class HuggingFaceEmbeddingClient(BaseEmbeddingClient):
    """A sentence-transformers model on this machine. It is bound to no event loop.

    Args:
        model: a name on the Hugging Face hub, or a folder. Offline, set ``HF_HUB_OFFLINE=1``: without it a model that
            is not in the cache is looked for in vain for about 20 s.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``…; by default the best there is.
        batch_size: texts computed together; halved, and kept halved, when memory runs out.
        prompt: written before each text; models trained with instructions want one.
        prompt_name: likewise, by a name the model itself defines, such as ``query`` or ``document``.
        normalize: scale vectors to length 1.
        dimensions: length of the vectors; shorter than the model's own only for models trained so (Matryoshka).
        truncate: let the model read only the beginning of a text that is too long for it, instead of refusing it.
        local_files_only: never ask the hub.
        options: further arguments of ``SentenceTransformer``, such as ``revision`` or ``model_kwargs``.

    Raises:
        ExtraMissingError: sentence-transformers is not installed.
        ConfigurationError: both kinds of prompt, or a senseless number.
    """

    provider: ClassVar[str] = "huggingface"
    max_texts_per_batch = 512

    def __init__(
        self,
        model: str = "sentence-transformers/all-MiniLM-L6-v2",
        *,
        device: str | None = None,
        batch_size: int = 32,
        prompt: str | None = None,
        prompt_name: str | None = None,
        normalize: bool = True,
        dimensions: int | None = None,
        truncate: bool = False,
        local_files_only: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(model, options=options)
        if find_spec("sentence_transformers") is None:
            raise ExtraMissingError(
                'local embeddings need sentence-transformers: pip install "factflow-llm[huggingface]"'
            )
        if prompt is not None and prompt_name is not None:
            raise ConfigurationError("give either prompt or prompt_name: one writes the prompt, the other picks it")
        self._preset_dimensions(dimensions)
        self.batch_size = check_count(batch_size, name="batch_size")
        self._truncate = truncate
        self._normalize = normalize
        self._prompt = prompt
        self._prompt_name = prompt_name
        self._local = _share(model, {"device": device, "local_files_only": local_files_only, **self._options})
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sentence-transformers")

    async def embed_batch(self, texts: Sequence[str], *, dimensions: int | None = None) -> EmbeddingResponse:
        """Return the vectors of one batch; the first call loads the model.

        A cancelled call gives up waiting at once; the thread finishes what it began.

        Raises:
            InvalidRequestError: a text is too long for the model and may not be truncated, or too many dimensions.
            BadResponseError: a vector is not finite, as half precision on a CPU may make it.
            OSError: the model cannot be had; transformers says why.
            Exception: torch's own ``OutOfMemoryError`` when not even a single text fits.
        """
        loop = asyncio.get_running_loop()
        wanted = self._wanted_dimensions(dimensions)
        vectors, tokens = await loop.run_in_executor(self._thread, self._embed, list(texts), wanted)
        return EmbeddingResponse(
            vectors=check_vectors([tuple(vector) for vector in vectors.tolist()], dimensions=wanted),
            model=self.model,
            usage=Usage(input_tokens=tokens),
            raw=(vectors,),
        )

    def _embed(self, texts: list[str], dimensions: int | None) -> tuple[Any, int]:
        with self._local.lock:
            model = self._local.load()
            prompt = self._find_prompt(model)
            tokens = self._count(model, [prompt + text for text in texts])
            vectors = self._encode(model, texts, prompt)
        if dimensions is not None and dimensions > vectors.shape[1]:
            raise InvalidRequestError(f"dimensions={dimensions}: {self.model} has {vectors.shape[1]}; ask for no more")
        vectors = vectors[:, :dimensions]
        if self._normalize:  # here and not by the library, whose vectors lose their length when they are cut afterwards
            vectors = vectors / ((vectors**2).sum(axis=1, keepdims=True) ** 0.5).clip(min=1e-12)
        return vectors, tokens

    def _find_prompt(self, model: Any) -> str:
        name = self._prompt_name or model.default_prompt_name
        if self._prompt is not None or name is None:
            return self._prompt or ""
        if name not in model.prompts:
            raise ConfigurationError(f"prompt_name={name!r}: {self.model} knows {', '.join(model.prompts) or 'none'}")
        return str(model.prompts[name])

    def _count(self, model: Any, texts: list[str]) -> int:
        """Return the tokens the model will read; the library would cut a longer text without a word."""
        counts = [len(ids) for ids in model.tokenizer(texts, verbose=False)["input_ids"]]
        limit = model.max_seq_length or max(counts)
        for position, count in enumerate(counts):
            if count > limit and not self._truncate:
                raise InvalidRequestError(
                    f"'input[{position}]' has {count:,} tokens; {self.model} reads {limit:,}: cut it into pieces, "
                    "or make the client with truncate=True"
                )
        return sum(min(count, limit) for count in counts)

    def _encode(self, model: Any, texts: list[str], prompt: str) -> Any:
        while True:
            try:
                return model.encode(texts, batch_size=self.batch_size, show_progress_bar=False, prompt=prompt)
            except Exception as error:
                if self.batch_size == 1 or get_error_metadata(error).reason is not ErrorReason.OUT_OF_MEMORY:
                    raise
            self.batch_size //= 2

    async def _close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
