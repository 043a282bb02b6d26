"""Number conversations and measure the pauses within them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from simulators.traces.trace import UNKNOWN, Floats, Integers

if TYPE_CHECKING:
    from collections.abc import Sequence


def numbered(names: Sequence[str] | Any) -> Integers:
    """Return a number per session name, in order of appearance; -1 for an empty name."""
    column = np.array(names, dtype=object)
    column[column == ""] = None
    return np.asarray(pd.factorize(column)[0], dtype=np.int64)


def conversations(session: Integers, arrival_s: Floats, end_s: Floats) -> tuple[Integers, Floats]:
    """Return each request's place in its session and the pause since the session's previous answer.

    Requests are in order of arrival. A request that overlaps the previous answer paused for 0 s; the pause is NaN for
    first rounds, for requests of no session, and after an answer whose end is unknown.
    """
    alone = session == UNKNOWN
    groups = pd.Series(end_s).groupby(session)
    place = np.where(alone, 0, groups.cumcount().to_numpy())
    pause = arrival_s - groups.shift().to_numpy()
    return place, np.where(alone, np.nan, np.maximum(pause, 0.0))
