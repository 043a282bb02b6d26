"""How far long work is: a bar where somebody watches, or a function that hears it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = bool | Callable[[int, int], None]
"""True shows a bar where somebody watches (terminal, notebook), False none; a function hears (done, total)."""


@contextmanager
def reporting(progress: Progress, total: int, what: str) -> Iterator[Callable[[], None]]:
    """Yield a function to call when one more of ``total`` is done."""
    if callable(progress):
        done = 0

        def count() -> None:
            nonlocal done
            done += 1
            progress(done, total)

        yield count
    else:
        from tqdm.auto import tqdm

        with tqdm(total=total, desc=what, disable=None if progress else True, leave=False) as bar:

            def advance() -> None:
                bar.update()

            yield advance
