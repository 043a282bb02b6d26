"""Reports, grants and states as JSON, for stores to keep and carry."""

from __future__ import annotations

import json
from typing import Any

from factflow_llm.ratelimit.said import Answer, Asked, Exhausted, Grant, Law, OpenAgain, Rejected, Report, Seen, Shown
from factflow_llm.ratelimit.shared import Member, State


def report_to_json(report: Report) -> str:
    """Write what a member says."""
    fields = report._asdict()
    for name in ("law", "rejected", "reopened", "answer", "exhausted"):
        fields[name] = fields[name] and fields[name]._asdict()
    fields["shown"] = {axis: shown._asdict() for axis, shown in report.shown.items()}
    return json.dumps(fields)


def grant_from_json(text: str | bytes) -> Grant:
    """Read what a member gets.

    Raises:
        ValueError: it is no grant.
    """
    try:
        fields = json.loads(text)
        fields["law"] = fields["law"] and Law(**fields["law"])
        fields["asked"] = Asked(**fields["asked"])
        fields["seen"] = fields["seen"] and _seen(fields["seen"])
        fields["exhausted"] = fields["exhausted"] and Exhausted(**fields["exhausted"])
        fields["shown"] = {axis: Shown(**shown) for axis, shown in fields["shown"].items()}
        return Grant(**fields)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(str(error)) from None


def _answer(fields: dict[str, Any]) -> Answer:
    return Answer(fields["number"], tuple(fields["admitted"]), fields["in_flight"])


def _seen(fields: dict[str, Any]) -> Seen:
    fields["rejected"] = fields["rejected"] and Rejected(**fields["rejected"])
    fields["reopened"] = fields["reopened"] and OpenAgain(**fields["reopened"])
    return Seen(**fields)


def state_to_json(state: State) -> str:
    """Write a state."""
    fields = {name: getattr(state, name) for name in State.__slots__}
    fields["members"] = {
        name: {key: getattr(member, key) for key in Member.__slots__} for name, member in state.members.items()
    }
    for member in fields["members"].values():
        member["answer"] = member["answer"] and member["answer"]._asdict()
    fields["law"] = state.law and state.law._asdict()
    fields["rejected"] = state.rejected and state.rejected._asdict()
    fields["exhausted"] = state.exhausted and (state.exhausted[0]._asdict(), state.exhausted[1])
    fields["shown"] = {axis: (shown._asdict(), at_s) for axis, (shown, at_s) in state.shown.items()}
    return json.dumps(fields)


def state_from_json(text: str) -> State:
    """Read a state.

    Raises:
        ValueError: it is none.
    """
    try:
        fields: dict[str, Any] = json.loads(text)
        fields["members"] = {
            name: Member(
                **member
                | {"wants": {int(key): want for key, want in member["wants"].items()}}
                | {key: tuple(member[key]) for key in ("admitted", "per_s")}
                | {"answer": member["answer"] and _answer(member["answer"])}
            )
            for name, member in fields["members"].items()
        }
        fields["gone"] = tuple(fields["gone"])
        fields["reopened"] = fields["reopened"] and tuple(fields["reopened"])
        fields["law"] = fields["law"] and Law(**fields["law"])
        fields["rejected"] = fields["rejected"] and Rejected(**fields["rejected"])
        if (exhausted := fields.get("exhausted")) is not None:
            fields["exhausted"] = Exhausted(**exhausted[0]), exhausted[1]
        fields["shown"] = {axis: (Shown(**shown), at_s) for axis, (shown, at_s) in fields["shown"].items()}
        return State(**fields)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(str(error)) from None
