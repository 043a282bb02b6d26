"""JSON bent at random, seeded: what a careless server, a proxy or a bug might make of a sound answer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from random import Random

ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 3, 2.5, 1e308, 10**400, "", " ", "7", "null", "[]", "{", "stop", "error", "\ud83d"),
    *([], {}, [None], [[]], {"a": 1}, ["x"], [{"text": "t"}], {"text": ["t"]}, {"type": ["text"]}, [{"type": {}}]),
    *({"error": "no"}, {"error": {"message": 5, "code": {}}}, {"code": 500, "message": []}, float("nan"), float("inf")),
    *("\u00e9" * 5, "a\u0000b", {"": ""}, {"index": "0"}, {"id": 5, "function": "f"}, ["\ude00"], {"_fields_set": 1}),
)
ODD_NAMES = (
    *("", "error", "type", "index", "text", "content", "usage", "message", "code", "success", "object"),
    "self",
)
_DEEP, _GORGE, _ABYSS = "@deep", "@gorge", "@abyss"  # nested so deeply that it is hard, or impossible, to decode


def bent(value: Any, draws: Random, *, times: int) -> Any:
    """Return a copy of some JSON with so many places of it changed, dropped, doubled, wrapped or renamed."""
    root = {"": _copy(value)}
    for _ in range(times):
        _change(*_place(root, draws), draws)
    return root[""]


def encoded(value: Any) -> bytes:
    """Return the JSON as a server sends it."""
    content = json.dumps(value)
    for word, depth in ((_DEEP, 240), (_GORGE, 470), (_ABYSS, 5_000)):
        content = content.replace(f'"{word}"', '[{"text":' * depth + "1" + "}]" * depth)
    return content.encode()


def _copy(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _place(root: dict[str, Any], draws: Random) -> tuple[Any, Any]:
    """Choose a place at random, each as likely as any other."""
    places: list[tuple[Any, Any]] = []
    pending: list[Any] = [root]
    while pending:
        holder = pending.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        for key in keys:
            places.append((holder, key))
            if isinstance(holder[key], dict | list) and holder[key]:
                pending.append(holder[key])
    return draws.choice(places)


def _change(holder: Any, key: Any, draws: Random) -> None:
    old = holder[key]
    way = draws.randrange(9)
    new: Any = draws.choice(ODD_VALUES)
    if way == 0 and key != "":
        del holder[key]
        return
    if way == 1:
        new = [old]
    elif way == 2:
        new = {draws.choice(ODD_NAMES): old}
    elif way == 3:
        new = json.dumps(old)
    elif way == 4 and isinstance(old, list) and old:
        new = [*old, _copy(draws.choice(old)), None]
    elif way == 5 and isinstance(old, dict):
        new = old | {draws.choice(ODD_NAMES): draws.choice(ODD_VALUES)}
    elif way == 6 and isinstance(old, dict) and old:
        renamed = draws.choice(list(old))
        new = {draws.choice(ODD_NAMES) if name == renamed else name: value for name, value in old.items()}
    elif way == 7 and draws.random() < 0.05:
        new = draws.choice((_DEEP, _GORGE, _ABYSS))
    holder[key] = _copy(new)
