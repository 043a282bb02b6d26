"""A gateway's ``limit_req``: a page for people, not for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import Response

from simulators.server.dialects.compatible import Compatible

if TYPE_CHECKING:
    from collections.abc import Mapping

    from simulators.server.dialects.base import Json


class Nginx(Compatible):
    """A gateway's ``limit_req``: a page for people, not for programs."""

    def error(self, body: Json, status: int, headers: Mapping[str, str]) -> Response:
        """Answer with the page."""
        title = {429: "429 Too Many Requests", 503: "503 Service Temporarily Unavailable"}.get(status)
        if title is None:
            return super().error(body, status, headers)
        page = (
            f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n"
            "<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
        )
        plain = {name: value for name, value in headers.items() if name != "content-type"}
        return Response(page, status, plain, media_type="text/html")


DIALECT = Nginx()
