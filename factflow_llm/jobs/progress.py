"""A job's bar, in a terminal or a notebook: tqdm's, with what calls cost and how many were refused beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from factflow_llm.errors import ExtraMissingError

if TYPE_CHECKING:
    from factflow_llm.jobs.results import Spent


class Progress:
    """The bar of one job; tqdm shows rate and time left by itself.

    Raises:
        ExtraMissingError: tqdm is not installed.
    """

    def __init__(self, total: int | None) -> None:
        try:
            from tqdm.auto import tqdm
        except ImportError:
            raise ExtraMissingError('progress=True needs tqdm: pip install "factflow-llm[jobs]"') from None
        self._bar: Any = tqdm(total=total, unit=" items")
        self._failed = 0

    def tell(self, spent: Spent, *, failed: bool) -> None:
        """Show one more item as over."""
        self._failed += failed
        told = {"429s": spent.rejected, "failed": self._failed, "tokens": f"{spent.tokens:,}"}
        if spent.cost_usd:
            told["cost"] = f"{spent.cost_usd:.2f} USD"
        self._bar.set_postfix(told, refresh=False)
        self._bar.update()

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()
