"""What a class tells the compiler, where the core is compiled; nothing at all where it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mypy_extensions import mypyc_attr
else:

    def mypyc_attr(**_: Any) -> Any:
        """Return a decorator that leaves the class as it is."""
        return lambda cls: cls


__all__ = ["mypyc_attr"]
