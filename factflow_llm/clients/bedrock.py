"""Amazon Titan text embeddings on Bedrock.

Titan reads one text per call, so a batch is one text and the connection's threads are the concurrency.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar

from factflow_llm.clients.aws import BedrockConnection
from factflow_llm.clients.embeddings import BaseEmbeddingClient
from factflow_llm.clients.vectors import read_vectors
from factflow_llm.errors import BadResponseError, ConfigurationError, InvalidRequestError
from factflow_llm.types import EmbeddingResponse, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MAX_CHARS = 50_000
_V1_DIMENSIONS = 1536
_V2_DIMENSIONS = (256, 512, 1024)


class BedrockEmbeddingClient(BaseEmbeddingClient):
    """Titan text embeddings, versions 1 and 2. It is bound to no event loop.

    Credentials come from where boto3 looks for them: environment, ``~/.aws``, container or instance role.

    Args:
        model: a Titan model's id, or the ARN of one (read as version 2 unless it names version 1).
        region: AWS region; by default what the environment or ``~/.aws/config`` says.
        endpoint_url: another address of the service, such as a VPC endpoint.
        dimensions: length of the vectors: 256, 512 or 1024 for version 2; version 1 knows only 1536.
        normalize: scale vectors to length 1; version 1 always does.
        max_concurrency: calls in flight, each on a thread and a connection of its own.
        timeout_s: longest silence of the server and longest wait for a whole answer, per attempt, in seconds.
        connect_timeout_s: longest wait for a connection, in seconds.
        headers: sent with every request.
        proxy: URL of a proxy; by default what the environment says.
        aws_profile: a profile of ``~/.aws/config``.

    Raises:
        ExtraMissingError: boto3 is not installed.
        ConfigurationError: no Titan text model, no region, dimensions the model does not have, a malformed URL.
    """

    provider: ClassVar[str] = "bedrock"
    max_texts_per_batch = 1

    def __init__(
        self,
        model: str = "amazon.titan-embed-text-v2:0",
        *,
        region: str | None = None,
        endpoint_url: str | None = None,
        dimensions: int | None = None,
        normalize: bool = True,
        max_concurrency: int = 16,
        timeout_s: float = 60.0,
        connect_timeout_s: float = 5.0,
        headers: Mapping[str, str] | None = None,
        proxy: str | None = None,
        aws_profile: str | None = None,
    ) -> None:
        super().__init__(model)
        if "titan-embed-text" not in model and not model.startswith("arn:"):
            raise ConfigurationError(
                f"model={model!r} is no Titan text embedding model: write 'amazon.titan-embed-text-v2:0' "
                "or 'amazon.titan-embed-text-v1'"
            )
        self._preset_dimensions(dimensions)
        self._is_v1 = "titan-embed-text-v1" in model
        self._options = {"normalize": normalize}
        self._check_dimensions(dimensions, error=ConfigurationError)
        self._connection = BedrockConnection(
            region=region,
            endpoint_url=endpoint_url,
            max_concurrency=max_concurrency,
            timeout_s=timeout_s,
            connect_timeout_s=connect_timeout_s,
            headers=headers,
            proxy=proxy,
            aws_profile=aws_profile,
        )
        self.timeout_s = timeout_s

    @property
    def max_tokens_per_text(self) -> int | None:
        """Titan's own limit, the same for both versions."""
        return 8192

    def split(self, texts: Sequence[str]) -> list[slice]:
        """Cut ``texts`` into batches of one, as Titan wants them.

        Raises:
            InvalidRequestError: names the first text that is empty, no string, or too long for Titan.
        """
        batches = super().split(texts)
        for position, text in enumerate(texts):
            if len(text) > _MAX_CHARS:
                raise InvalidRequestError(
                    f"texts[{position}] has {len(text):,} characters; Titan reads {_MAX_CHARS:,}: cut it into pieces"
                )
        return batches

    async def embed_batch(self, texts: Sequence[str], *, dimensions: int | None = None) -> EmbeddingResponse:
        """Return the vector of the one text in the batch, in one attempt.

        A cancelled call gives up waiting at once; its thread ends with the answer or the timeout.
        """
        wanted = self._wanted_dimensions(dimensions)
        self._check_dimensions(wanted, error=InvalidRequestError)
        (text,) = texts
        body: dict[str, Any] = {"inputText": text}
        if not self._is_v1:
            body |= self._options if wanted is None else self._options | {"dimensions": wanted}
        form = "application/json"
        request = {"modelId": self.model, "body": json.dumps(body), "contentType": form, "accept": form}
        return self._read(await self.in_time(self._connection.call("invoke_model", request)), wanted)

    def _read(self, response: dict[str, Any], dimensions: int | None) -> EmbeddingResponse:
        headers = response["ResponseMetadata"]["HTTPHeaders"]
        content = response["body"]
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict) or "embedding" not in answer:
            raise BadResponseError(
                "Bedrock's answer holds no embedding: check endpoint_url, and that the model is a Titan text model",
                body=content.decode(errors="replace"),
                headers=headers,
            )
        tokens = answer.get("inputTextTokenCount")
        return EmbeddingResponse(
            vectors=read_vectors([{"embedding": answer["embedding"]}], 1, dimensions=dimensions),
            model=self.model,
            usage=Usage(input_tokens=tokens if isinstance(tokens, int) else None),
            headers=headers,
            raw=(response | {"body": answer},),
        )

    def _check_dimensions(self, dimensions: int | None, *, error: type[Exception]) -> None:
        known = (_V1_DIMENSIONS,) if self._is_v1 else _V2_DIMENSIONS
        if dimensions is not None and dimensions not in known:
            raise error(f"dimensions={dimensions!r}: {self.model} has {' or '.join(map(str, known))}; leave it out")

    def _too_slow(self, words: str) -> Exception:
        return self._connection.too_slow(words)

    async def _close(self) -> None:
        self._connection.close()
