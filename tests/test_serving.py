"""What a connection to one of our HTTP servers may cost: who goes for the next one, and who takes too long."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trustme
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from hostport.serving import BoundedServer, ConnectionLimits, ConnectionTimeouts
from testing.waiting import until

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LARGE = 16 << 20
"""Bytes of an answer, more than a system takes from a program."""
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"

# -- who goes


def crowd(text: str, most: int = 4) -> ConnectionLimits[str]:
    """`a1 b1` joined in this order; `!` completed a request, `*` is owed an answer. The letter is the peer."""
    made: ConnectionLimits[str] = ConnectionLimits(most)
    for word in text.split():
        name = word.rstrip("!*")
        made.join(name, name[0])
        if word != name:
            made.owed(name)
        if word.endswith("!"):
            made.waits(name)
    return made


@pytest.mark.parametrize(
    ("there", "peer", "expected"),
    [
        ("a1 b1", "c", "stays"),
        ("a1 a2 b1 b2", "c", "a1"),
        ("a1* a2 b1 b2", "c", "a2"),
        ("a1! b1! b2", "c", "stays"),
        ("a1! b1! b2 c1", "d", "b2"),
        ("a1! b1! b2! c1!", "d", "b1"),
        ("a1! b1! b2! c1*", "d", "b1"),
        ("a1! b1* b2* c1*", "d", "a1"),
        ("a1* b1* b2* c1*", "d", "turned away"),
        ("a1 a2", "a", "a1"),
        ("b1 a1! a2", "a", "a2"),
        ("b1 a1! a2*", "a", "a1"),
        ("b1 a1* a2*", "a", "turned away"),
    ],
    ids=str,
)
def test_who_goes_for_the_next_one(there: str, peer: str, expected: str) -> None:
    made = crowd(there)

    goes = (made.to_go(peer) or "turned away") if made.is_full(peer) else "stays"
    assert goes == expected


@pytest.mark.parametrize(
    ("there", "go"),
    [
        ("a1 b1 a2 b2", "a1 b1"),
        ("a1", ""),
        ("a1! a2! b1! b2", "a1 a2 b1"),
        ("b1! a1! a2! a3*", "a1 a2 b1"),
        ("a1 a2 a3 a4 a5 a6 a7 a8", "a1 a2 a3"),
        ("a1* b1*", ""),
    ],
    ids=str,
)
def test_who_goes_where_files_are_short(there: str, go: str) -> None:
    assert crowd(there, most=20).to_free(3) == go.split()


def test_whoever_says_something_is_silent_from_then_on() -> None:
    made = crowd("a1 a2 b1 b2")
    made.heard("a1")
    assert made.to_go("c") == "a2"
    made.leave("a2")
    assert (len(made), made.is_full("c"), made.is_full("b")) == (3, False, True)


def test_a_connection_that_has_left_leaves_nothing() -> None:
    made = crowd("a1 b1! c1*")
    for name in ("a1", "b1", "c1", "c1"):
        made.leave(name)
        made.waits(name)
        made.heard(name)

    assert (len(made), made.to_go("d"), vars(made)) == (0, None, vars(ConnectionLimits(4)))


# -- a real server


class Answering(RequestHandler):
    """Answers at once, and to POST when it is let."""

    def initialize(self, go: asyncio.Event) -> None:
        self.go = go

    def get(self) -> None:
        self.finish("ok" if self.request.path == "/" else "x" * LARGE)

    async def post(self) -> None:
        await self.go.wait()
        self.finish("ok")


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, request: bytes = GET) -> str:
        """The code of the answer; empty where the server hung up."""
        self.writer.write(request)
        async with asyncio.timeout(15):
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                head = await self.reader.readuntil(b"\r\n\r\n")
                await self.reader.readexactly(2)
                return head.split()[1].decode()
        return ""

    async def is_closed(self, seconds: float = 5) -> bool:
        try:
            async with asyncio.timeout(seconds):
                with contextlib.suppress(ConnectionError):
                    return await self.reader.read() == b""
        except TimeoutError:
            return False
        return True


class Served:
    def __init__(self, server: BoundedServer, port: int, go: asyncio.Event, trust: ssl.SSLContext | None) -> None:
        self.server, self.port, self.go, self.trust = server, port, go, trust
        self.clients: list[Client] = []

    async def connect(self, source: str = "127.0.0.1", *, shakes: bool = True) -> Client:
        context = self.trust if shakes else None
        host = {"server_hostname": "127.0.0.1"} if context else {}
        to: dict[str, Any] = {"ssl": context, "local_addr": (source, 0)} | host
        self.clients.append(Client(*await asyncio.open_connection("127.0.0.1", self.port, **to)))
        return self.clients[-1]


@asynccontextmanager
async def serving(*, most: int = 100, authority: trustme.CA | None = None, **timeouts: float) -> AsyncIterator[Served]:
    go = asyncio.Event()
    more: dict[str, Any] = {}
    trust = None
    if authority:
        more["ssl_options"] = context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        trust = ssl.create_default_context()
        authority.configure_trust(trust)
    app = Application([("/(?:large)?", Answering, {"go": go})], log_function=lambda _: None)
    server = BoundedServer(app, most=most, timeouts=ConnectionTimeouts(**timeouts), **more)
    sockets = bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    served = Served(server, sockets[0].getsockname()[1], go, trust)
    try:
        yield served
    finally:
        server.stop()
        await server.close_all_connections()
        for client in served.clients:
            client.writer.transport.abort()
        await asyncio.sleep(0)


async def test_silent_connections_make_room_for_whoever_comes() -> None:
    async with serving(most=10) as served:
        silent = [await served.connect(f"127.0.0.{1 + n % 2}") for n in range(10)]
        new = await served.connect("127.0.0.3")

        assert await new.ask() == "200"
        assert await silent[0].is_closed(), "it has been silent longest"
        assert [await each.ask() for each in silent[1:]] == ["200"] * 9


async def test_no_peer_has_more_than_half_and_it_pays_for_itself() -> None:
    async with serving(most=10) as served:
        other = await served.connect("127.0.0.2")
        flood = [await served.connect("127.0.0.1") for _ in range(20)]
        await until(flood[14].reader.at_eof)

        assert [each.reader.at_eof() for each in flood] == [True] * 15 + [False] * 5
        assert await other.ask() == "200", "an older one of another peer stays"
        assert await flood[-1].ask() == "200"


async def test_a_request_that_is_under_way_is_never_hung_up_on() -> None:
    async with serving(most=4) as served:
        asking = [asyncio.create_task((await served.connect()).ask(POST + b"12345")) for _ in range(2)]
        await asyncio.sleep(0.1)
        turned_away = await served.connect()
        assert await turned_away.is_closed()
        for number in range(2, 12):
            assert await (await served.connect(f"127.0.0.{number}")).ask() == "200"
        served.go.set()

        assert await asyncio.gather(*asking) == ["200", "200"]


async def test_a_body_that_does_not_come_is_silence() -> None:
    async with serving(most=4) as served:
        promising = []
        for number in range(4):
            promising.append(await served.connect(f"127.0.0.{1 + number % 2}"))
            promising[-1].writer.write(POST)
        await asyncio.sleep(0.1)

        assert await (await served.connect("127.0.0.3")).ask() == "200"
        assert await promising[0].is_closed()


async def test_headers_that_do_not_end_have_their_seconds_and_silence_between_requests_has_longer() -> None:
    async with serving(headers=0.3) as served:
        slow, between, silent = [await served.connect() for _ in range(3)]
        slow.writer.write(b"GET / HTTP/1.1\r\nX-")
        assert await between.ask() == "200"
        dripping = asyncio.create_task(drip(slow))

        assert await slow.is_closed(2)
        dripping.cancel()
        assert [await each.ask() for each in (between, silent)] == ["200", "200"]


async def test_silence_between_requests_has_an_end_and_the_wait_for_an_answer_has_none() -> None:
    async with serving(idle=0.3) as served:
        silent, between, waiting = [await served.connect() for _ in range(3)]
        assert await between.ask() == "200"
        asking = asyncio.create_task(waiting.ask(POST + b"12345"))

        assert [await each.is_closed(2) for each in (silent, between)] == [True, True]
        served.go.set()
        assert await asking == "200"


async def drip(client: Client) -> None:
    while True:
        client.writer.write(b"x")
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01"], ids=["nothing", "a part"])
async def test_a_handshake_has_its_seconds_and_silence_after_it_has_longer(said: bytes) -> None:
    async with serving(authority=trustme.CA(), handshake=0.3) as served:
        shaken, unshaken = await served.connect(), await served.connect(shakes=False)
        unshaken.writer.write(said)

        assert await unshaken.is_closed(2)
        assert await shaken.ask() == "200"


async def test_an_api_server_with_hundreds_of_connections_loses_none() -> None:
    """Behind one address, idle or with reviews under way, while silent ones come from two others."""
    async with serving(most=400) as served:
        idle = [await served.connect() for _ in range(100)]
        assert {await each.ask() for each in idle} == {"200"}
        busy = [await served.connect() for _ in range(50)]
        asking = [asyncio.create_task(each.ask(POST + b"12345")) for each in busy]
        for number in range(600):
            await served.connect(f"127.0.0.{2 + number % 2}")
        served.go.set()

        assert set(await asyncio.gather(*asking)) == {"200"}
        assert {await each.ask() for each in idle} == {"200"}


async def test_an_answer_that_is_not_read_has_its_seconds_and_one_that_was_read_costs_nothing() -> None:
    """Whoever is owed an answer never goes: unread ones once kept everybody out for ever."""
    async with serving(most=4, answer=1.0) as served:
        reads = await served.connect("127.0.0.3")
        assert await reads.ask() == "200"
        for number in range(4):
            unread = await served.connect(f"127.0.0.{1 + number % 2}")
            unread.reader._transport.pause_reading()  # type: ignore[attr-defined]
            unread.writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: sum(each.writing() for each in served.server._limits._peers) >= 3)
        await until(lambda: not any(each.writing() for each in served.server._limits._peers))

        assert await (await served.connect("127.0.0.3")).ask() == "200"
