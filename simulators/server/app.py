"""The ASGI application of a simulated provider: reads a request, lets the machine decide, answers in time."""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import TYPE_CHECKING, cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from factflow_llm.headers import parse_retry_after
from simulators.server.bodies import bounded_body, json_object
from simulators.server.conduct import Asked
from simulators.server.dialects.base import InvalidAskingError
from simulators.server.simulated import CALL_HEADER, ClientLeftError, FaultKind, ScriptedFault, SimulatedServer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import ASGIApp, Receive, Scope, Send

    from simulators.providers.calls import Call
    from simulators.providers.machine import RejectionDetail, Verdict
    from simulators.server.dialects.base import ApiRoute, Asking, Json

__all__ = ["FaultKind", "ScriptedFault", "SimulatedServer", "application"]

_BREAKS: dict[str | None, FaultKind] = {"overloaded": FaultKind.STREAM_ERROR, "connection": FaultKind.STREAM_CUT}


def application(server: SimulatedServer) -> ASGIApp:
    """Make the ASGI application of a simulated provider."""

    async def no_such_route(request: Request, error: Exception) -> Response:
        status = cast("HTTPException", error).status_code
        asked = f"{request.method} {request.url.path}"
        server.note(Asked(server.now, request.url.path, asked, status, "not_found"))
        return JSONResponse(server.dialect.problem(status, f"Invalid URL ({asked})"), status_code=status)

    routes = [Route(one.path, endpoint=_Endpoint(server, one), methods=["POST"]) for one in server.dialect.routes]
    return Starlette(routes=[*routes, *server.batches.routes()], exception_handlers={HTTPException: no_such_route})


class _Endpoint:
    """One route as an ASGI application: reads the request, lets the machine decide, answers in time."""

    def __init__(self, server: SimulatedServer, route: ApiRoute) -> None:
        self._server = server
        self._route = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        with contextlib.suppress(ClientLeftError, ClientDisconnect):
            content, mistake = await bounded_body(request)
            await _Exchange(self._server, self._route, request, content, send).run(mistake)


class _Exchange:
    """One request and its answer."""

    def __init__(self, server: SimulatedServer, route: ApiRoute, request: Request, content: bytes, send: Send) -> None:
        self.server = server
        self.route = route
        self.dialect = server.dialect
        self.request = request
        self.content = content
        self.send = send
        self.fault = server.next_fault()
        self.arrived_s = server.now

    async def run(self, mistake: InvalidAskingError | None = None) -> None:
        """Answer the request, or what is wrong with its body."""
        fault = self.fault
        if fault.kind is FaultKind.DROP:
            self._note(0, "connection")
            self._hang_up()
            return
        if fault.kind is FaultKind.STALL:
            await self.server.pause(fault.stall_s, self.request, real=True)
        if fault.kind is FaultKind.ERROR:
            self._note(fault.status, "scripted", _retry_after_s(fault.headers))
            content = fault.body if isinstance(fault.body, bytes) else json.dumps(fault.body).encode()
            headers = {"content-type": "application/json"} | dict(fault.headers)
            await self._answer(Response(content, fault.status, self._headers(headers, fault.status)))
            return
        try:
            if mistake is not None:
                raise mistake
            self.server.check_key(self.request.headers)
            wanted = self.route.read(json_object(self.content), self.request)
            call = self.server.call(wanted, self.request.headers)
            wanted = self.server.say(wanted, call, self.request.headers)
        except InvalidAskingError as error:
            self._note(error.status, "invalid_request")
            body = self.dialect.problem(error.status, error.message, code=error.code, param=error.param)
            await self._answer_error(body, error.status, self._headers({}, error.status))
            return
        await self._serve(wanted, call)

    async def _serve(self, wanted: Asking, call: Call) -> None:
        server = self.server
        there_s, back_s = server.machine.ways_s(call)
        await server.pause(there_s, self.request)
        now, verdict, shown = server.decide(call)
        self._note(verdict.status, verdict.error, verdict.retry_after_s)
        headers = self._headers(shown, verdict.status)
        if verdict.status != 200:
            detail = server.machine.rejection(now, call, verdict.axis)
            await server.pause(verdict.duration_s + back_s, self.request)
            await self._reject(verdict, detail, headers)
            return
        try:
            if wanted.stream:
                await self._stream(wanted, call, verdict, headers, now + back_s)
                return
            await server.pause(verdict.duration_s, self.request)
        finally:
            server.settle(now, verdict)
        await server.pause(back_s, self.request)
        if verdict.error is None:
            body = self.route.answer(wanted, call)
            await self._answer(JSONResponse(body, headers=headers | self.dialect.usage_headers(call, verdict)))
        elif verdict.error == "connection":
            self._hang_up()
        else:
            await self._reject(verdict._replace(status=self.server.provider.api.overload_status), None, headers)

    async def _reject(self, verdict: Verdict, detail: RejectionDetail | None, headers: Mapping[str, str]) -> None:
        body = self.dialect.rejection(self.server.provider, verdict, detail, self.route.operation)
        more = self.dialect.rejection_headers(verdict, detail, self.server.utc_s)
        await self._answer_error(body, verdict.status, dict(headers) | more)

    async def _stream(
        self, wanted: Asking, call: Call, verdict: Verdict, headers: Mapping[str, str], begun_s: float
    ) -> None:
        assert self.route.events is not None
        events = list(self.route.events(wanted, call))
        kind, last = _BREAKS.get(verdict.error, self.fault.kind), len(events)
        if verdict.error is not None:
            last //= 2
        elif kind in _BREAKS.values():
            last = min(self.fault.after_events, last)
        await self.server.pause(begun_s + verdict.first_chunk_s - self.server.now, self.request)
        shown = dict(headers) | {"content-type": self.route.stream_type}
        raw = [(name.encode(), value.encode()) for name, value in shown.items()]
        await self.send({"type": "http.response.start", "status": 200, "headers": raw})
        pace_s = (verdict.duration_s - verdict.first_chunk_s) / max(last, 1)
        for number, event in enumerate(events[:last], start=1):
            await self.send({"type": "http.response.body", "body": event, "more_body": True})
            due_s = begun_s + verdict.first_chunk_s + number * pace_s
            await self.server.pause(due_s - self.server.now, self.request)
        if kind is FaultKind.STREAM_CUT:
            self._hang_up()
            return
        ending = self.route.stream_error if kind is FaultKind.STREAM_ERROR else b""
        await self.send({"type": "http.response.body", "body": ending})

    def _headers(self, shown: Mapping[str, str], status: int) -> dict[str, str]:
        number = len(self.server.conduct.requests)
        return self.dialect.headers(number, status) | dict(shown)

    def _note(self, status: int, error: str | None, retry_after_s: float | None = None) -> None:
        headers, path = self.request.headers, self.request.url.path
        identity = hashlib.sha256(b"\n".join([path.encode(), headers.get(CALL_HEADER, "").encode(), self.content]))
        resent = headers.get("x-stainless-retry-count", "0") != "0"
        attempt = headers.get("amz-sdk-request", "attempt=1").partition("attempt=")[2].partition(";")[0]
        self.server.note(
            Asked(
                self.arrived_s,
                identity.hexdigest(),
                f"{self.request.method} {path}",
                status,
                error,
                retry_after_s,
                hidden_retry=resent or attempt != "1",
            )
        )

    async def _answer_error(self, body: Json, status: int, headers: Mapping[str, str]) -> None:
        await self._answer(self.dialect.error(self.dialect.signed(body, headers), status, headers))

    async def _answer(self, response: Response) -> None:
        await response(self.request.scope, self.request.receive, self.send)

    def _hang_up(self) -> None:
        self.request.scope["transport"].abort()


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    told = parse_retry_after(headers)
    return None if told is None else told[0]
