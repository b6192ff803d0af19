"""Callers that do not behave: the others are served, and what each of them costs is bounded."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import grpc
import pytest

from access import http2
from access.reviewing import account
from access.secured import SHIM, Secured, Stub, lease, outcome, pod
from allocator.access.guard import MOST_CALLS, MOST_CALLS_OF_ONE
from allocator.app.servers import filter_grpc_log
from hostport.v1 import allocator_pb2 as pb
from testing.waiting import until

RELAY = account("media", "relay")


async def relay(secured: Secured, token: str = "relay", user: str = RELAY) -> Stub:
    secured.server.add(token, user)
    secured.server.grant(user, "create delete get list", "")
    return await secured.bearing(token)


async def what_is_left(reader: asyncio.StreamReader, seconds: float = 5) -> bytes:
    """What comes until the server hangs up; fails where it does not."""
    async with asyncio.timeout(seconds):
        with contextlib.suppress(ConnectionError):
            return await reader.read()
    return b""


async def shim_is_served(secured: Secured) -> bool:
    shim = await secured.certified(SHIM)
    name = f"web-{sum(1 for _ in secured.ledger.claims)}"
    return await outcome(shim("Allocate", pod(name))) == "OK"


def under_way(secured: Secured) -> int:
    return secured.guard.limiter.total


class Raw:
    """A connection to the listener for tokens that is written to and never read."""

    async def open(self, secured: Secured, window: int = 0) -> Raw:
        self.reader, self.writer = await http2.connect(secured.token_port, secured.authority)
        self.writer.write(http2.opening(window))
        secured.at_end(self.close)
        return self

    def call(self, count: int, method: str, message: bytes = b"", *, token: str = "relay") -> None:
        for number in range(count):
            self.writer.write(http2.call(1 + 2 * number, method, message, authorization=f"Bearer {token}"))

    async def close(self) -> None:
        self.writer.transport.abort()
        await asyncio.sleep(0)


async def test_a_watcher_that_reads_nothing_is_let_go(secured: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("allocator.commands.UNREAD_SECONDS", 0.3)
    await relay(secured)
    raw = await Raw().open(secured)
    raw.call(10, "WatchAllocations")
    await until(lambda: secured.watchers == 10)

    assert await shim_is_served(secured)
    await until(lambda: under_way(secured) == 0)
    assert secured.watchers == 0
    assert secured.ledger.listener is None, "nobody pays for what nobody reads"
    await raw.close()


async def test_answers_that_nobody_reads_are_bounded_and_others_are_served(secured: Secured) -> None:
    await relay(secured)
    raw = await Raw().open(secured)
    raw.call(MOST_CALLS_OF_ONE + 20, "ListAllocations")
    await until(lambda: under_way(secured) == MOST_CALLS_OF_ONE)
    await asyncio.sleep(0.1)

    assert under_way(secured) == MOST_CALLS_OF_ONE
    assert await outcome((await relay(secured))("ListNodes", pb.ListNodesRequest())) == "TOO_MANY_CALLS"
    assert await outcome((await relay(secured, "other", "carol"))("ListNodes", pb.ListNodesRequest())) == "OK"
    assert await shim_is_served(secured)
    await raw.close()
    await until(lambda: under_way(secured) == 0)
    assert await outcome((await relay(secured))("ListNodes", pb.ListNodesRequest())) == "OK"


async def test_all_callers_together_are_bounded_and_shims_are_served(secured: Secured) -> None:
    users = [f"u{number}" for number in range(MOST_CALLS // MOST_CALLS_OF_ONE + 1)]
    raws = []
    for user in users:
        await relay(secured, user, user)
        raws.append(await Raw().open(secured))
        raws[-1].call(MOST_CALLS_OF_ONE, "ListAllocations", token=user)
    await until(lambda: under_way(secured) == MOST_CALLS)

    assert await outcome((await relay(secured))("ListNodes", pb.ListNodesRequest())) == "TOO_MANY_CALLS"
    assert await shim_is_served(secured)
    for raw in raws:
        await raw.close()
    await until(lambda: under_way(secured) == 0)


SERVICE = pb.DESCRIPTOR.services_by_name["AllocatorService"]

JUNK = {
    "no tag": b"\xff\xff\xff",
    "cut off": b"\x1a\x7fx",
    "a group that never ends": b"\x0b",
}


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
async def test_bytes_that_are_no_message_are_refused_and_change_nothing(
    secured: Secured, junk: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    filter_grpc_log()
    shim = await secured.certified(SHIM)
    methods = [name for name in SERVICE.methods_by_name if name != "ReportNode"]  # a shim is refused unread there
    for method in methods:
        call: Any = shim.channel.unary_unary(f"/hostport.v1.AllocatorService/{method}")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(junk, timeout=30)
        assert caught.value.code() is grpc.StatusCode.UNKNOWN
    told = [(record.levelname, record.getMessage(), record.exc_info) for record in caplog.records]
    assert len(told) == len(methods)
    assert all(each[0] == "WARNING" and "no message: Error parsing" in each[1] and not each[2] for each in told)

    assert list(secured.ledger.claims) == []
    assert await shim_is_served(secured)


async def test_a_message_of_more_than_a_mebibyte_is_refused(secured: Secured) -> None:
    request = lease()
    request.owner.description = "x" * (2 << 20)

    assert await outcome((await relay(secured))("Allocate", request)) == "RESOURCE_EXHAUSTED"


@pytest.mark.parametrize("port", ["port", "token_port"])
@pytest.mark.parametrize(
    "said",
    [b"GET / HTTP/1.1\r\n\r\n", http2.opening(), b"\x16\x03\x01\xff\xff" + b"x" * 4096],
    ids=["http", "h2c", "a torn hello"],
)
async def test_who_speaks_no_tls_is_hung_up_on(secured: Secured, port: str, said: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", getattr(secured, port))
    writer.write(said)

    assert len(await what_is_left(reader)) < 100, "an alert of TLS at most"
    writer.close()

    assert await shim_is_served(secured)


# -- connections

IMPATIENT = {"grpc.server_handshake_timeout_ms": 500}


@pytest.mark.parametrize("secured", [pytest.param(IMPATIENT, id="half a second")], indirect=True)
@pytest.mark.parametrize("port", ["port", "token_port"])
async def test_a_connection_that_says_nothing_is_closed(secured: Secured, port: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", getattr(secured, port))

    await what_is_left(reader)
    writer.close()


@pytest.mark.parametrize("secured", [pytest.param(IMPATIENT, id="half a second")], indirect=True)
async def test_a_connection_that_says_nothing_after_tls_is_closed(secured: Secured) -> None:
    reader, writer = await http2.connect(secured.token_port, secured.authority)

    await what_is_left(reader)
    writer.close()


@pytest.mark.parametrize(
    "secured", [pytest.param({"grpc.max_connection_idle_ms": 500}, id="half a second")], indirect=True
)
async def test_an_idle_connection_is_closed_and_a_channel_connects_again(secured: Secured) -> None:
    raw = await Raw().open(secured)
    shim = await secured.certified(SHIM)
    assert await outcome(shim("Allocate", pod("a"))) == "OK"

    await what_is_left(raw.reader)
    assert await outcome(shim("Allocate", pod("b"))) == "OK"


@pytest.mark.parametrize(
    "secured", [pytest.param({"grpc.max_allowed_incoming_connections": 20}, id="20")], indirect=True
)
async def test_connections_are_bounded_for_each_listener(secured: Secured) -> None:
    shim = await secured.certified(SHIM)
    raws = [await Raw().open(secured) for _ in range(20)]
    with pytest.raises(OSError):
        await Raw().open(secured)

    assert await outcome(shim("Allocate", pod("a"))) == "OK"
    assert await shim_is_served(secured), "a new connection to the other listener"
    for raw in raws:
        await raw.close()
    stub = await relay(secured)
    async with asyncio.timeout(30):
        while await outcome(stub("ListNodes", pb.ListNodesRequest())) != "OK":
            await asyncio.sleep(0.05)


AGEING = {"grpc.max_connection_age_ms": 500, "grpc.max_connection_age_grace_ms": 500}


@pytest.mark.parametrize("secured", [pytest.param(AGEING, id="half a second")], indirect=True)
async def test_every_connection_ends_and_no_call_with_it(secured: Secured) -> None:
    await relay(secured)
    raw = await Raw().open(secured)
    raw.call(5, "ListAllocations")
    await until(lambda: under_way(secured) == 5)
    shim = await secured.certified(SHIM)

    async with asyncio.timeout(30):
        answers = set()
        while under_way(secured):
            answers.add(await outcome(shim("Allocate", pod(dry_run=True))))
    assert answers == {"OK"}
    await what_is_left(raw.reader)
