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


def share_text(share: float) -> str:
    """Return a share in per cent, with two figures where it is small and no false 100: 0.73 %, 50 %, 99.96 %."""
    percent = 100 * share
    if 99.0 < percent < 100.0:
        return f"{min(percent, 99.99):.2f} %"
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.2g} %"


def seconds_text(value: float) -> str:
    """Return a duration in the largest unit that suits it: 0.2 s, 45 s, 3 min, 2.5 h."""
    if math.isinf(value):
        return "for ever"
    for unit_s, unit in ((3600.0, "h"), (60.0, "min")):
        if value >= 2 * unit_s:
            return f"{value / unit_s:.3g} {unit}"
    return f"{value:.2g} s" if value < 10 else f"{value:.0f} s"


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame of texts for the eye, for ``to_string`` and ``to_html``; its index stays."""
    return frame.map(figure_text)
