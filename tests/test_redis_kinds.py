"""Real Redis servers of every kind that an address can name: with a password, by TLS, behind Sentinel, in a cluster."""

from __future__ import annotations

import asyncio
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from factflow_llm.ratelimit.said import Report
from factflow_llm.ratelimit.stores.opening import StoreError, open_store
from tests.support.loopback import free_port
from tests.support.redis_servers import COMMAND, RedisServer, redis_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

redis = pytest.importorskip("redis")
pytestmark = [pytest.mark.redis, pytest.mark.skipif(COMMAND is None, reason="there is no command redis-server")]
SECRET = "open sesame: 100 %"


def members(address: str, *, quota: str = "quota", of: str = "ab") -> int:
    """Let each of some members report once; return how many the last one is told of."""

    async def main() -> int:
        store = open_store(address, quota)
        try:
            for member in of:
                grant = await store.refresh(report(member))
        finally:
            await store.aclose()
        return grant.members

    return asyncio.run(main())


def report(member: str) -> Report:
    """Return what a member says that only wants a share."""
    nothing = (0, 0.0, 0.0)
    return Report(member, 1.0, {0: 1.0}, wants_slots=1, in_flight=0, limited=True, admitted=nothing, per_s=nothing)


def told(server: RedisServer, *command: str) -> object:
    """Say something to a server; return its answer."""
    with redis.Redis(port=server.port) as client:
        return client.execute_command(*command)


def fail_over(sentinel: RedisServer) -> None:
    """Ask for another master, again and again until the Sentinel knows its replica well enough."""
    while True:
        try:
            told(sentinel, "SENTINEL", "FAILOVER", "quotas")
        except redis.ResponseError as error:
            assert "NOGOODSLAVE" in str(error)  # noqa: PT017
        else:
            return


def test_a_user_with_a_password_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever characters it holds; and it may touch no key but those of the namespace."""
    monkeypatch.setenv("QUOTA_PASSWORD", SECRET)
    with redis_server() as server:
        told(server, "ACL", "SETUSER", "adapter", "on", f">{SECRET}", "~{team:*", "+@all")
        told(server, "ACL", "SETUSER", "default", "off")
        address = f"redis://adapter:${{QUOTA_PASSWORD}}@127.0.0.1:{server.port}/0"
        assert members(f"{address}?namespace=team") == 2


def test_tls_with_the_certificates_that_the_process_trusts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As everywhere else, SSL_CERT_FILE names them; and a certificate that nobody trusts is refused."""
    key, certificate = tmp_path / "server.key", tmp_path / "server.pem"
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    try:
        subprocess.run([*make.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("there is no openssl to make a certificate")
    with redis_server(tls=(certificate, key)) as server:
        address = f"rediss://127.0.0.1:{server.port}/0"
        with pytest.raises(StoreError, match="certificate verify failed"):
            members(address)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert members(address) == 2


@pytest.mark.slow
def test_sentinel_leads_to_the_new_master() -> None:
    """What was learned goes with it; until it is found, calls go on at what the lease allows."""
    with redis_server() as first, redis_server("--replicaof", "127.0.0.1", str(first.port)) as second:
        second.until("MASTER <-> REPLICA sync: Finished with success")
        with redis_server(sentinel_of=first.port) as sentinel:
            sentinel.until("+slave slave")
            address = f"redis+sentinel://127.0.0.1:{sentinel.port}/quotas/0"

            async def main() -> list[int]:
                store = open_store(address, "quota")
                found = [(await store.refresh(report(member))).members for member in "ab"]
                told(first, "WAIT", "1", "0")
                fail_over(sentinel)
                sentinel.until("+switch-master")
                try:
                    found.append((await store.refresh(report("c"))).members)
                except StoreError:  # the connection to the old master tells so once
                    found.append((await store.refresh(report("c"))).members)
                await store.aclose()
                return found

            assert asyncio.run(main()) == [1, 2, 3]
            assert told(second, "ROLE")[0] == b"master"  # type: ignore[index]


@pytest.fixture
def cluster() -> Iterator[list[RedisServer]]:
    """Run three nodes that share the slots."""
    buses = [free_port() for _ in range(3)]
    with ExitStack() as running:
        nodes = [
            running.enter_context(redis_server("--cluster-enabled", "yes", "--cluster-port", str(bus))) for bus in buses
        ]
        for node, first, last in zip(nodes, (0, 5461, 10923), (5460, 10922, 16383), strict=True):
            told(node, "CLUSTER", "ADDSLOTSRANGE", str(first), str(last))
            told(node, "CLUSTER", "MEET", "127.0.0.1", str(nodes[0].port), str(buses[0]))
        for node in nodes:
            node.until("Cluster state changed: ok")
        yield nodes


def test_a_cluster_keeps_each_quota_at_one_node(cluster: list[RedisServer]) -> None:
    """Whichever node the address names; many quotas spread over all."""
    address = f"redis+cluster://127.0.0.1:{cluster[0].port}"
    for number in range(12):
        assert members(address, quota=f"quota-{number}") == 2
        assert (
            members(address.replace(str(cluster[0].port), str(cluster[2].port)), quota=f"quota-{number}", of="c") == 3
        )
    assert all(told(node, "DBSIZE") for node in cluster)
