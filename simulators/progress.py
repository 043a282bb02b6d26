"""How far long work is: a bar where somebody watches, or a function that hears it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = bool | Callable[[int, int], None]
"""True shows a bar where somebody watches (terminal, notebook), False none; a function hears (done, total)."""


@contextmanager
def reporting(progress: Progress, total: int, what: str) -> Iterator[Callable[[], None]]:
    """Yield a function to call when one more of ``total`` is done; an interruption is told how far it was."""
    done = 0
    heard, close = (progress, None) if callable(progress) else _bar(progress, total, what)

    def count() -> None:
        nonlocal done
        done += 1
        heard(done, total)

    try:
        yield count
    except KeyboardInterrupt as stopped:
        stopped.add_note(f"{what}: {done} of {total} done")
        raise
    finally:
        if close is not None:
            close()


def _bar(progress: bool, total: int, what: str) -> tuple[Callable[[int, int], None], Callable[[], None]]:
    from tqdm.auto import tqdm

    bar = tqdm(total=total, desc=what, disable=None if progress else True, leave=False)

    def advance(done: int, total: int) -> None:
        bar.update()

    return advance, bar.close
