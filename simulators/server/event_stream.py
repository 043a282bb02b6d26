"""AWS's binary event stream, as Bedrock sends it: frames of headers and a JSON payload, each with its checksums."""

from __future__ import annotations

import json
import struct
import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

CONTENT_TYPE = "application/vnd.amazon.eventstream"


def frame(event: Mapping[str, Any]) -> bytes:
    """Encode ``{name: payload}``; a name that ends in ``Exception`` is one."""
    ((name, payload),) = event.items()
    kind = "exception" if name.endswith("Exception") else "event"
    headers = b"".join(
        _header(key, value)
        for key, value in {f":{kind}-type": name, ":content-type": "application/json", ":message-type": kind}.items()
    )
    body = json.dumps(payload).encode()
    prelude = struct.pack(">II", 12 + len(headers) + len(body) + 4, len(headers))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + body
    return message + struct.pack(">I", zlib.crc32(message))


def _header(name: str, value: str) -> bytes:
    return struct.pack(">B", len(name)) + name.encode() + struct.pack(">BH", 7, len(value)) + value.encode()
