"""Which profiles may answer for another: what ``pool`` and ``fallback`` may name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from factflow_llm.providers import ModelType
from factflow_llm.tables import inherit, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping


def read_names(value: Any) -> Any:
    """Return the names that a text lists, separated by commas, as the environment says it; anything else as it is."""
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else value


def with_members_model(table: dict[str, Any], tables: Mapping[str, Any]) -> dict[str, Any]:
    """Return a pool's table; one that names no provider has provider and model of its first member."""
    pool = read_names(table.get("pool"))
    if not pool or "provider" in table or pool[0] not in tables:
        return table
    first = inherit(pool[0], tables)
    return {
        key: first[key] for key in ("provider", "type", "model", "deployment", "dimensions") if key in first
    } | table


def check_routes(name: str, profile: Any, profiles: Mapping[str, Any]) -> None:
    """Check whom a profile names to answer for it.

    Raises:
        ValueError: naming a profile that is not there, of another type, of another vector space, or no end of the way.
    """
    for key, others in (("pool", profile.pool), ("fallback", profile.fallback)):
        for other in others:
            _check(name, key, other, profiles)
        if len(set(others)) < len(others):
            raise ValueError(f"profile {name!r}: {key} names a profile twice")


def _check(name: str, key: str, other: str, profiles: Mapping[str, Any]) -> None:
    if other not in profiles:
        raise ValueError(f"profile {name!r}: {key} names no profile {other!r}{nearest(other, profiles)}")
    mine, its = profiles[name], profiles[other]
    if its.type is not mine.type:
        raise ValueError(f"profile {name!r}: {key} names {other!r}, which is of type {its.type}, not {mine.type}")
    if key == "fallback" and other == name:
        raise ValueError(f"profile {name!r}: fallback names the profile itself; it is asked first anyway")
    if other != name and (its.fallback or (key == "pool" and its.pool)):
        raise ValueError(
            f"profile {name!r}: {key} names {other!r}, which hands calls on itself; name the profiles that answer"
        )
    if mine.type is ModelType.EMBEDDING and (its.model, its.dimensions) != (mine.model, mine.dimensions):
        raise ValueError(
            f"profile {name!r}: {key} names {other!r}, whose vectors ({its.model}, dimensions {its.dimensions}) are "
            f"not those of {mine.model}, dimensions {mine.dimensions}, and cannot be compared; name the same model"
        )
