"""Redis servers of our own, each on a free port while a block lasts: plain ones, Sentinels, nodes of a cluster.

Nothing waits by the clock: a server says in its log what it has come to, and that line is read.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.loopback import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND = shutil.which("redis-server")


class RedisServer:
    """A server that runs.

    Attributes:
        port: where it listens, on the loopback.
        folder: what it writes lies there.
    """

    def __init__(self, port: int, folder: Path, process: subprocess.Popen[str]) -> None:
        self.port, self.folder = port, folder
        self._process = process
        self._read: list[str] = []

    def until(self, said: str) -> None:
        """Wait until its log holds ``said``, from where one last waited.

        Raises:
            RuntimeError: it ended without; with all that it said.
        """
        log = self._process.stdout
        while log is not None and (line := log.readline()):
            self._read.append(line)
            if said in line:
                return
        raise RuntimeError(f"redis-server never said {said!r}, but:\n{''.join(self._read)}")


@contextmanager
def redis_server(
    *options: str, tls: tuple[Path, Path] | None = None, sentinel_of: int | None = None
) -> Iterator[RedisServer]:
    """Run a server until the block ends.

    Args:
        options: more of its command line.
        tls: the files of a certificate and its key, if it speaks nothing but TLS.
        sentinel_of: the port of a master, if it is a Sentinel, which calls that master "quotas".
    """
    with tempfile.TemporaryDirectory(prefix="factflow-redis-") as folder:
        port = free_port()
        settings = ["--bind", "127.0.0.1", "--dir", folder, *options]
        if tls is None:
            settings += ["--port", str(port)]
        else:
            certificate, key = map(str, tls)
            settings += ["--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no"]
            settings += ["--tls-cert-file", certificate, "--tls-key-file", key]
        if sentinel_of is None:
            command, ready = (
                [str(COMMAND), "--save", "", "--appendonly", "no", *settings],
                "Ready to accept connections",
            )
        else:
            file = Path(folder, "sentinel.conf")
            file.write_text(f"sentinel monitor quotas 127.0.0.1 {sentinel_of} 1\n", encoding="utf-8")
            command, ready = [str(COMMAND), str(file), "--sentinel", *settings], "+monitor master quotas"
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            try:
                server = RedisServer(port, Path(folder), process)
                server.until(ready)
                yield server
            finally:
                process.kill()
