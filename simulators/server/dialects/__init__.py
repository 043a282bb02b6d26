"""How each provider speaks HTTP, one file each: what it reads, what it answers, and in which words it rejects."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulators.providers.limit_headers import Api
    from simulators.server.dialects.base import Dialect


def dialect_of(api: Api) -> Dialect:
    """Return the dialect of an api, which the file of that name holds; a local model has none."""
    dialect: Dialect = import_module(f"{__name__}.{api.value}").DIALECT
    return dialect
