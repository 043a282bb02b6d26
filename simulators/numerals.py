"""Numbers for people: four figures, thousands apart, no trailing zeros, a dash for what is unknown."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def figure_text(value: Any) -> str:
    """Return a value for the eye; what is no float is written as it is."""
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return "-"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame of texts for the eye, for ``to_string`` and ``to_html``; its index stays."""
    return frame.map(figure_text)
