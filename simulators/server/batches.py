"""Batches of a simulated provider: files of lines at OpenAI's and Azure's, lists at Anthropic's; answered in time.

They draw on no live quota, as at the providers. A scripted fault befalls a line of a batch as it would a request: an
error is that line's answer, and to a line that stalls the batch does not come before it expires.
"""

from __future__ import annotations

import email
import itertools
import json
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from simulators.server.bodies import bounded_body, json_object
from simulators.server.conduct import Asked
from simulators.server.dialects.base import CREATED, InvalidAskingError, Json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.requests import Request

    from simulators.providers.calls import Call
    from simulators.server.conduct import Conduct
    from simulators.server.dialects.base import ApiRoute, Asking, Dialect

_MOST_LINES, _MOST_LISTED = 50_000, 100_000
_EXPIRED = "This request could not be executed before the completion window expired."
_EPOCH = "2026-01-01T00:00:00Z"


class Line(NamedTuple):
    """One request of a batch and its answer; a status of 0 says that the batch did not come to it."""

    name: str
    status: int
    body: Any


@dataclass(slots=True)
class Batch:
    """A batch that was handed in.

    Attributes:
        ends_s: when it has ended, in simulated seconds.
        path: where its requests would go live.
        file: the file that holds them; empty where none does.
        lines: its requests, answered.
        problem: why it was refused as a whole.
        cancelled: it was ended before its time.
    """

    ends_s: float
    path: str
    file: str = ""
    lines: list[Line] = field(default_factory=list)
    problem: str = ""
    cancelled: bool = False


class _Server(Protocol):
    dialect: Dialect
    conduct: Conduct
    url: str

    @property
    def now(self) -> float: ...

    def check_key(self, headers: Mapping[str, str]) -> None: ...

    def note(self, asked: Asked) -> None: ...

    def next_fault(self) -> Any: ...

    def call(self, wanted: Asking, headers: Mapping[str, str]) -> Call: ...

    def say(self, wanted: Asking, call: Call, headers: Mapping[str, str]) -> Asking: ...


class Batches:
    """All batches of a server.

    Args:
        server: answers their requests.
        takes_s: how long each takes, in simulated seconds.

    Attributes:
        made: those handed in, by name.
    """

    def __init__(self, server: _Server, takes_s: float) -> None:
        self._server = server
        self._takes_s = takes_s
        self._files: dict[str, bytes] = {}
        self._numbers = itertools.count(1)
        self.made: dict[str, Batch] = {}

    def routes(self) -> list[Route]:
        """Return the paths by which the server's dialect speaks of batches; none where it does not."""
        dialect = self._server.dialect
        ways: list[tuple[str, str, Callable[..., Any]]] = []
        for prefix in dialect.batch_files:
            ways += [
                ("POST", f"{prefix}/files", self._take_file),
                ("GET", f"{prefix}/files/{{name}}/content", self._file),
                ("POST", f"{prefix}/batches", self._take_lines),
                ("GET", f"{prefix}/batches/{{name}}", self._lines_state),
                ("POST", f"{prefix}/batches/{{name}}/cancel", partial(self._cancel, then=self._lines_state)),
            ]
        for prefix in dialect.batch_lists:
            ways += [
                ("POST", prefix, self._take_list),
                ("GET", f"{prefix}/{{name}}", self._list_state),
                ("GET", f"{prefix}/{{name}}/results", self._list_results),
                ("POST", f"{prefix}/{{name}}/cancel", partial(self._cancel, then=self._list_state)),
            ]
        return [Route(path, partial(self._answer, way), methods=[method]) for method, path, way in ways]

    async def _answer(self, way: Callable[..., Any], request: Request) -> Response:
        server, arrived_s = self._server, self._server.now
        content, mistake = await bounded_body(request)
        try:
            if mistake is not None:
                raise mistake
            server.check_key(request.headers)
            told = way(request, content)
            answer = told if isinstance(told, Response) else JSONResponse(told)
        except InvalidAskingError as error:
            body = server.dialect.problem(error.status, error.message, code=error.code, param=error.param)
            answer = JSONResponse(body, error.status)
        path = f"{request.method} {request.url.path}"
        server.note(Asked(arrived_s, f"{path} {len(server.conduct.requests)}", path, answer.status_code))
        return answer

    def _batch(self, request: Request) -> tuple[str, Batch]:
        name = str(request.path_params["name"])
        if name not in self.made:
            raise InvalidAskingError(f"No batch found with id '{name}'.", status=404)
        return name, self.made[name]

    def _add(self, batch: Batch) -> str:
        name = f"{'batch' if self._server.dialect.batch_files else 'msgbatch'}_{next(self._numbers):08d}"
        self.made[name] = batch
        return name

    def _over(self, batch: Batch) -> bool:
        return bool(batch.problem) or self._server.now >= batch.ends_s

    def _cancel(self, request: Request, content: bytes, then: Callable[..., Json]) -> Json:
        _, batch = self._batch(request)
        if not self._over(batch):
            batch.cancelled, batch.ends_s = True, self._server.now
            batch.lines = [line._replace(status=0) for line in batch.lines]
        return then(request, content)

    def _judged(self, name: str, path: str, body: Any, request: Request) -> Line:
        """Answer one request."""
        server, fault = self._server, self._server.next_fault()
        if fault.kind == "stall":
            return Line(name, 0, None)
        if fault.kind == "error":
            return Line(name, fault.status, fault.body if isinstance(fault.body, dict) else {})
        route = self._route(path)
        try:
            wanted = route.read(body if isinstance(body, dict) else {}, request)
            call = server.call(wanted, {})
            return Line(name, 200, route.answer(server.say(wanted, call, {}), call))
        except InvalidAskingError as error:
            said = server.dialect.problem(error.status, error.message, code=error.code, param=error.param)
            return Line(name, error.status, said)

    def _route(self, path: str) -> ApiRoute:
        """Return the route that a path of a batch means; Azure's leave their beginning out."""
        ends = path.removeprefix("/v1")
        for route in self._server.dialect.routes:
            if route.path.endswith(ends) and "{" not in route.path:
                return route
        raise InvalidAskingError(f"Invalid value: '{path}'.", param="endpoint")

    # --- files of lines ----------------------------------------------------------------------------------------------

    def _take_file(self, request: Request, content: bytes) -> Json:
        kind = request.headers.get("content-type", "")
        form = email.message_from_bytes(f"content-type: {kind}\r\n\r\n".encode() + content)
        parts = {part.get_param("name", header="content-disposition"): part for part in form.walk()}
        if "file" not in parts:
            raise InvalidAskingError("'file' is a required property", param="file")
        lines = parts["file"].get_payload(decode=True)
        name = f"file-{next(self._numbers):08d}"
        self._files[name] = lines if isinstance(lines, bytes) else b""
        size = len(self._files[name])
        return {"id": name, "object": "file", "bytes": size, "created_at": CREATED, "filename": "requests.jsonl",
                "purpose": "batch", "status": "processed"}  # fmt: skip

    def _file(self, request: Request, _: bytes) -> Response:
        name = str(request.path_params["name"])
        if name not in self._files:
            raise InvalidAskingError(f"No such File object: {name}", status=404)
        return Response(self._files[name], media_type="application/octet-stream")

    def _take_lines(self, request: Request, content: bytes) -> Json:
        asked = json_object(content)
        path, file = str(asked.get("endpoint")), str(asked.get("input_file_id"))
        self._route(path)
        if file not in self._files:
            raise InvalidAskingError(f"No such File object: {file}", status=404)
        batch = Batch(self._server.now + self._takes_s, path, file)
        try:
            lines = [json.loads(line) for line in self._files[file].splitlines() if line.strip()]
            requests = [(str(line["custom_id"]), line["body"]) for line in lines]
        except (ValueError, KeyError, TypeError):
            batch.problem = "This line is not parseable as valid JSON."
        else:
            batch.problem = _wrong([name for name, _ in requests], _MOST_LINES)
            if not batch.problem:
                batch.lines = [self._judged(name, path, body, request) for name, body in requests]
        name = self._add(batch)
        return self._lines_shown(name, batch)

    def _lines_state(self, request: Request, _: bytes) -> Json:
        return self._lines_shown(*self._batch(request))

    def _lines_shown(self, name: str, batch: Batch) -> Json:
        over, late = self._over(batch), any(line.status == 0 for line in batch.lines)
        ended = "cancelled" if batch.cancelled else "expired" if late else "completed"
        shown: Json = {
            "id": name, "object": "batch", "endpoint": batch.path, "completion_window": "24h", "created_at": CREATED,
            "input_file_id": batch.file, "output_file_id": None, "error_file_id": None, "errors": None,
            "status": "failed" if batch.problem else ended if over else "in_progress",
            "request_counts": {"total": len(batch.lines), "completed": 0, "failed": 0},
        }  # fmt: skip
        if batch.problem:
            listed = [{"code": "invalid_file", "line": None, "message": batch.problem, "param": None}]
            shown["errors"] = {"object": "list", "data": listed}
        elif over:
            good = [line for line in batch.lines if line.status == 200]
            bad = [line for line in batch.lines if line.status != 200 and not batch.cancelled]
            shown["request_counts"] |= {"completed": len(good), "failed": len(batch.lines) - len(good)}
            for key, lines in (("output_file_id", good), ("error_file_id", bad)):
                if lines:
                    shown[key] = f"{name}-{key}"
                    self._files[shown[key]] = b"".join(map(_told_line, lines))
        return shown

    # --- lists -------------------------------------------------------------------------------------------------------

    def _take_list(self, request: Request, content: bytes) -> Json:
        asked = json_object(content).get("requests")
        listed = asked if isinstance(asked, list) else []
        if not listed or not all(isinstance(one, dict) and "custom_id" in one for one in listed):
            raise InvalidAskingError("requests: Field required")
        if problem := _wrong([str(one["custom_id"]) for one in listed], _MOST_LISTED):
            raise InvalidAskingError(f"requests: {problem}")
        path = self._server.dialect.routes[0].path
        batch = Batch(self._server.now + self._takes_s, path)
        batch.lines = [self._judged(str(one["custom_id"]), path, one.get("params"), request) for one in listed]
        return self._list_shown(self._add(batch), batch)

    def _list_state(self, request: Request, _: bytes) -> Json:
        return self._list_shown(*self._batch(request))

    def _list_shown(self, name: str, batch: Batch) -> Json:
        over = self._over(batch)
        counts = dict.fromkeys(("canceled", "errored", "expired", "processing", "succeeded"), 0)
        counts |= Counter(_kind(line, batch) for line in batch.lines) if over else {"processing": len(batch.lines)}
        return {
            "id": name, "type": "message_batch", "processing_status": "ended" if over else "in_progress",
            "request_counts": counts, "created_at": _EPOCH, "expires_at": "2026-01-02T00:00:00Z",
            "ended_at": _EPOCH if over else None, "archived_at": None,
            "cancel_initiated_at": _EPOCH if batch.cancelled else None,
            "results_url": f"{self._server.url}/v1/messages/batches/{name}/results" if over else None,
        }  # fmt: skip

    def _list_results(self, request: Request, _: bytes) -> Response:
        name, batch = self._batch(request)
        if not self._over(batch):
            raise InvalidAskingError(f"Batch {name} has no results yet", status=404)
        lines = [{"custom_id": line.name, "result": _told(line, batch)} for line in batch.lines]
        return Response("".join(json.dumps(line) + "\n" for line in lines), media_type="application/x-jsonl")


def _wrong(names: list[str], most: int) -> str:
    """Say what is wrong with the requests of a batch together; nothing where they are right."""
    if len(names) > most:
        return f"{len(names)} requests are more than a batch takes, which is {most}."
    twice = [name for name, times in Counter(names).items() if times > 1]
    return f"The custom_id '{twice[0]}' is not unique." if twice else "" if names else "The batch is empty."


def _told_line(line: Line) -> bytes:
    told: Json = {"id": f"batch_req_{line.name}", "custom_id": line.name, "response": None, "error": None}
    if line.status:
        told["response"] = {"status_code": line.status, "request_id": f"req_{line.name}", "body": line.body}
    else:
        told["error"] = {"code": "batch_expired", "message": _EXPIRED}
    return json.dumps(told).encode() + b"\n"


def _kind(line: Line, batch: Batch) -> str:
    if line.status == 0:
        return "canceled" if batch.cancelled else "expired"
    return "succeeded" if line.status == 200 else "errored"


def _told(line: Line, batch: Batch) -> Json:
    kind = _kind(line, batch)
    answer = {"succeeded": {"message": line.body}, "errored": {"error": line.body}}
    return {"type": kind} | answer.get(kind, {})
