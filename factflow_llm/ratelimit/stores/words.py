"""Reports, grants and states as JSON, for stores to keep and carry."""

from __future__ import annotations

import json
from typing import Any

from factflow_llm.ratelimit.shared import Exhausted, Grant, Law, Member, Rejected, Report, Shown, State


def report_to_json(report: Report) -> str:
    """Write what a member says."""
    fields = report._asdict()
    fields["law"] = report.law and report.law._asdict()
    fields["rejected"] = report.rejected and report.rejected._asdict()
    fields["exhausted"] = report.exhausted and report.exhausted._asdict()
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
        fields["rejected"] = fields["rejected"] and Rejected(**fields["rejected"])
        fields["exhausted"] = fields["exhausted"] and Exhausted(**fields["exhausted"])
        fields["shown"] = {axis: Shown(**shown) for axis, shown in fields["shown"].items()}
        return Grant(**fields)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(str(error)) from None


def state_to_json(state: State) -> str:
    """Write a state."""
    fields = {name: getattr(state, name) for name in State.__slots__}
    fields["members"] = {
        name: {key: getattr(member, key) for key in Member.__slots__} for name, member in state.members.items()
    }
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
            )
            for name, member in fields["members"].items()
        }
        fields["gone"] = tuple(fields["gone"])
        fields["law"] = fields["law"] and Law(**fields["law"])
        fields["rejected"] = fields["rejected"] and Rejected(**fields["rejected"])
        if (exhausted := fields.get("exhausted")) is not None:
            fields["exhausted"] = Exhausted(**exhausted[0]), exhausted[1]
        fields["shown"] = {axis: (Shown(**shown), at_s) for axis, (shown, at_s) in fields["shown"].items()}
        return State(**fields)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(str(error)) from None
