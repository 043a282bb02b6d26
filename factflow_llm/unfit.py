"""What pydantic did not accept, read in one place; each kind of settings words it for its own readers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pydantic import ValidationError


class Unfit(NamedTuple):
    """One value that does not fit, or a key that is unknown or missing."""

    path: tuple[int | str, ...]
    """The keys that lead to it; empty where a whole table does not fit."""
    kind: str
    """pydantic's word, such as ``extra_forbidden``, ``missing``, ``value_error`` or ``greater_than``."""
    text: str
    """What is wrong, in words."""
    given: Any
    """The value itself, which may be a secret."""

    @property
    def key(self) -> str:
        """The keys that lead to it, as people write them: ``retry.max_attempts``."""
        return ".".join(map(str, self.path))

    @property
    def unknown(self) -> bool:
        """Whether there is no such key."""
        return self.kind == "extra_forbidden"

    @property
    def missing(self) -> bool:
        """Whether a key that has to be there is not."""
        return self.kind == "missing"


def unfit(error: ValidationError) -> list[Unfit]:
    """Return everything that pydantic complains about, in its order."""
    problems = error.errors(include_url=False, include_context=False)
    return [
        Unfit(each["loc"], each["type"], each["msg"].removeprefix("Value error, "), each.get("input"))
        for each in problems
    ]
