"""Named random streams, all from one seed, addressed by number: request 17 meets the same luck under every policy.

A stream's draws are a pure function of (seed, name, index): nothing depends on who asks first, on other streams, on the
process or on ``PYTHONHASHSEED``.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np

from factflow_llm.errors import ConfigurationError

Distribution = Literal["uniform", "normal", "exponential"]
Seeds = int | Sequence[int]
"""How many seeds, from 0 on, or which."""

_CHUNK: Final = 1024
"""Rows drawn at once: that they are so many is part of what a seed means."""
_BLOCK: Final = 32
"""Rows made Python's at once: a stream of which few rows are asked for makes few."""
_KEPT: Final = 16


class Stream:
    """An endless row of standard draws, fetched by index; chunks are drawn when touched, the latest are kept."""

    __slots__ = ("_blocks", "_chunks", "_distribution", "_key", "_last", "_last_number", "_width")

    def __init__(self, seed: int, name: str, distribution: Distribution, width: int) -> None:
        self._key = _key(seed, name)
        self._distribution = distribution
        self._width = width
        self._chunks: dict[int, Any] = {}
        self._blocks: dict[int, list[list[float]]] = {}
        self._last_number = -1
        self._last: list[list[float]] = []

    def row(self, index: int) -> list[float]:
        """Return the ``width`` draws that belong to ``index`` (index >= 0)."""
        number = index // _BLOCK
        if number != self._last_number:
            block = self._blocks.get(number)
            if block is None:
                if len(self._blocks) == _KEPT * _CHUNK // _BLOCK:
                    del self._blocks[next(iter(self._blocks))]
                block = self._blocks[number] = self._read(number * _BLOCK)
            self._last, self._last_number = block, number
        return self._last[index % _BLOCK]

    def _read(self, start: int) -> list[list[float]]:
        number, offset = start // _CHUNK, start % _CHUNK
        chunk = self._chunks.get(number)
        if chunk is None:
            if len(self._chunks) == _KEPT:
                del self._chunks[next(iter(self._chunks))]
            chunk = self._chunks[number] = self._draw(number)
        rows: list[list[float]] = chunk[offset : offset + _BLOCK].tolist()
        return rows

    def _draw(self, number: int) -> Any:
        generator = np.random.Generator(np.random.Philox(key=self._key, counter=[0, 0, 0, number]))
        shape = (_CHUNK, self._width)
        if self._distribution == "uniform":
            return generator.random(shape)
        if self._distribution == "normal":
            return generator.standard_normal(shape)
        return generator.standard_exponential(shape)


class Streams:
    """All streams of one run.

    Args:
        seed: any integer; equal seeds give equal worlds.

    Raises:
        ConfigurationError: for a seed that is no integer.
    """

    def __init__(self, seed: object) -> None:
        if not isinstance(seed, int | np.integer):
            msg = f"seed = {seed!r} must be a whole number; equal seeds give equal worlds"
            raise ConfigurationError(msg)
        self.seed = int(seed)

    def stream(self, name: str, distribution: Distribution = "uniform", width: int = 1) -> Stream:
        """Return the stream called ``name``: ``width`` draws per index."""
        return Stream(self.seed, name, distribution, width)


def seeds_of(seeds: Seeds) -> tuple[int, ...]:
    """Return the seeds that are meant.

    Raises:
        ConfigurationError: for none at all, or one that is given twice.
    """
    chosen = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not chosen:
        msg = f"seeds = {seeds!r}: give a number of at least 1, or a list of seeds"
        raise ConfigurationError(msg)
    if len(set(chosen)) < len(chosen):
        msg = f"seeds = {seeds!r}: a seed stands there twice; equal seeds give equal runs"
        raise ConfigurationError(msg)
    return chosen


def generator(seed: int, name: str) -> np.random.Generator:
    """Return a generator for draws in a row: equal seed and name give equal draws in every process."""
    return np.random.Generator(np.random.Philox(key=_key(seed, name)))


def _key(seed: int, name: str) -> Any:
    return np.array([seed & 0xFFFFFFFFFFFFFFFF, zlib.crc32(name.encode())], dtype=np.uint64)
