"""The agent's HTTP/2 in front of real gRPC servers, and of one that a test plays, for what no real one does."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread

import grpc
import pytest
import trustme
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, RequestReceived
from h2.settings import SettingCodes, Settings

from agent import http2
from agent.http2 import (
    MOST_MESSAGE,
    PATIENCE_SECONDS,
    PING_SECONDS,
    RECEIVE_BYTES,
    STALLED_SECONDS,
    Call,
    CallEnd,
    Http2Link,
    LinkError,
    connect,
)
from agent.search import Endpoint
from hostport.flags import Address

SECONDS = 10.0
SOON = 0.01


def framed(message: bytes, *, flag: int = 0) -> bytes:
    return struct.pack(">BI", flag, len(message)) + message


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# -- a real server


def echo(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    """Gives back what it gets. `stop` ends the call in order, and `fail` with a status that has details."""
    for each in requests:
        if each == b"stop":
            return
        if each == b"fail":
            status = status_pb2.Status(code=9, message="100 % é\nno")
            status.details.add().Pack(error_details_pb2.ErrorInfo(reason="R", domain="d"))
            context.abort_with_status(rpc_status.to_status(status))
        yield each


@contextlib.contextmanager
def served(credentials: grpc.ServerCredentials | None = None) -> Iterator[tuple[grpc.Server, int]]:
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("s", {"Echo": grpc.stream_stream_rpc_method_handler(echo)}),)
    )
    port = (
        server.add_secure_port("127.0.0.1:0", credentials) if credentials else server.add_insecure_port("127.0.0.1:0")
    )
    server.start()
    yield server, port
    server.stop(None).wait()


@contextlib.contextmanager
def linked(
    port: int, tls: ssl.SSLContext | None = None, clock: Callable[[], float] | None = None
) -> Iterator[Http2Link]:
    with contextlib.closing(Http2Link(connect(("127.0.0.1", port), tls, "127.0.0.1"), clock or Clock())) as link:
        yield link


def received(link: Http2Link, call: Call, count: int) -> list[bytes]:
    """So many messages, and those that came with the last."""
    found = call.messages()
    while len(found) < count:
        link.receive(SECONDS)
        found += call.messages()
    return found


def ended(link: Http2Link, call: Call) -> CallEnd:
    while call.end is None:
        link.receive(SECONDS)
    return call.end


def test_messages_go_to_and_fro_and_the_call_ends_in_order() -> None:
    with served() as (_, port), linked(port) as link:
        call = link.call("/s/Echo", "here", [("user-agent", "test")])
        call.send(b"one")
        assert received(link, call, 1) == [b"one"]
        call.send(b"")
        call.send(b"three")
        assert received(link, call, 2) == [b"", b"three"]
        call.send(b"stop")
        assert ended(link, call) == CallEnd(0, "")


def test_what_is_larger_than_the_windows_goes_as_the_server_reads() -> None:
    large = bytes(range(256)) * 4000
    with served() as (_, port), linked(port) as link:
        call = link.call("/s/Echo", "here", ())
        call.send(large)
        assert not call.has_room
        assert received(link, call, 1) == [large]
        assert call.has_room


def test_one_call_after_another_goes_over_one_connection() -> None:
    with served() as (_, port), linked(port) as link:
        for _ in range(3):
            call = link.call("/s/Echo", "here", ())
            call.send(b"one", is_last=True)
            assert ended(link, call) == CallEnd(0, "")
            assert call.messages() == [b"one"]


def test_a_failure_has_its_code_its_sentence_and_its_details() -> None:
    with served() as (_, port), linked(port) as link:
        call = link.call("/s/Echo", "here", ())
        call.send(b"fail")
        end = ended(link, call)

    assert (end.code, end.message) == (9, "100 % é\nno")
    (detail,) = status_pb2.Status.FromString(end.details).details
    assert detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)


def test_a_method_that_is_not_there_is_told() -> None:
    with served() as (_, port), linked(port) as link:
        assert ended(link, link.call("/s/Other", "here", ())).code == 12


@pytest.mark.parametrize("grace", [None, SECONDS], ids=["at once", "when the calls are over"])
def test_a_server_that_stops_ends_the_connection(grace: float | None) -> None:
    with served() as (server, port), linked(port) as link:
        call = link.call("/s/Echo", "here", ())
        call.send(b"one")
        received(link, call, 1)
        server.stop(grace)
        with pytest.raises(LinkError, match=r"the server goes away \(NO_ERROR\)"):
            ended(link, call)


def test_a_server_that_is_silent_and_alive_answers_a_ping_and_is_kept() -> None:
    clock = Clock()
    with served() as (_, port), linked(port, clock=clock) as link:
        call = link.call("/s/Echo", "here", ())
        call.send(b"one")
        received(link, call, 1)
        for _ in range(3):
            clock.now += PING_SECONDS
            link.receive(SECONDS)  # its answer
            clock.now += PATIENCE_SECONDS
            link.receive(SOON)
        call.send(b"two")
        assert received(link, call, 1) == [b"two"]


# -- TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def shown(authority: trustme.CA, name: str = "127.0.0.1") -> grpc.ServerCredentials:
    issued = authority.issue_cert(name)
    chain = b"".join(each.bytes() for each in issued.cert_chain_pems)
    return grpc.ssl_server_credentials([(issued.private_key_pem.bytes(), chain)])


def trusting(authority: trustme.CA, folder: Path) -> ssl.SSLContext:
    """As the agent makes it from a file."""
    authority.cert_pem.write_to_path(folder / "ca.pem")
    here = Address("127.0.0.1", 0)
    context = Endpoint(target=here, name=here, ca=folder / "ca.pem").tls()
    assert context is not None
    return context


def test_a_server_whom_the_authority_has_signed_is_spoken_to(authority: trustme.CA, tmp_path: Path) -> None:
    with served(shown(authority)) as (_, port), linked(port, trusting(authority, tmp_path)) as link:
        call = link.call("/s/Echo", "here", ())
        call.send(b"one" * 100_000)
        assert received(link, call, 1) == [b"one" * 100_000]


def test_an_authority_that_another_one_has_signed_is_enough(authority: trustme.CA, tmp_path: Path) -> None:
    inner = authority.create_child_ca()
    with served(shown(inner)) as (_, port), linked(port, trusting(inner, tmp_path)) as link:
        link.call("/s/Echo", "here", ())


def test_a_server_of_another_authority_is_not(authority: trustme.CA, tmp_path: Path) -> None:
    with served(shown(trustme.CA())) as (_, port), pytest.raises(LinkError, match="certificate is not trusted: unable"):
        connect(("127.0.0.1", port), trusting(authority, tmp_path), "127.0.0.1")


def test_a_server_of_another_name_is_not(authority: trustme.CA, tmp_path: Path) -> None:
    with (
        served(shown(authority, "elsewhere.test")) as (_, port),
        pytest.raises(LinkError, match="certificate is not trusted: IP address mismatch"),
    ):
        connect(("127.0.0.1", port), trusting(authority, tmp_path), "127.0.0.1")


OFFERS: dict[str, tuple[Callable[[ssl.SSLContext], None], str]] = {
    "TLS 1.2": (lambda tls: setattr(tls, "maximum_version", ssl.TLSVersion.TLSv1_2), "no TLS with 127.0.0.1"),
    "HTTP/1.1": (lambda tls: tls.set_alpn_protocols(["http/1.1"]), "does not speak HTTP/2"),
}


@pytest.mark.parametrize("offer", OFFERS)
def test_a_server_that_has_only_older_protocols_is_left(authority: trustme.CA, tmp_path: Path, offer: str) -> None:
    change, words = OFFERS[offer]
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    change(context)
    with socket.create_server(("127.0.0.1", 0)) as door:

        def accept() -> None:
            with contextlib.suppress(OSError), context.wrap_socket(door.accept()[0], server_side=True) as one:
                one.recv(1)

        waiting = Thread(target=accept)
        waiting.start()
        with pytest.raises(LinkError, match=words):
            connect(door.getsockname(), trusting(authority, tmp_path), "127.0.0.1")
        waiting.join()


def test_a_handshake_that_is_not_answered_is_given_up(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http2, "CONNECT_SECONDS", SOON)
    with (
        socket.create_server(("127.0.0.1", 0)) as door,
        pytest.raises(LinkError, match=r"no TLS with 127.0.0.1: it takes too long"),
    ):
        connect(door.getsockname(), trusting(authority, tmp_path), "127.0.0.1")


def test_where_nobody_listens_that_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        address = door.getsockname()
    with pytest.raises(LinkError, match=r"127.0.0.1 is not reached: Connection refused"):
        connect(address, None, "")


# -- a server that a test plays


class Pair:
    """A link, and the other end of its connection, which moves when it is told to."""

    def __init__(self, window: int = 65535) -> None:
        ours, self.socket = socket.socketpair()
        self.clock = Clock()
        self.link = Http2Link(ours, self.clock)
        self.h2 = H2Connection(H2Configuration(client_side=False))
        self.h2.local_settings = Settings(client=False, initial_values={SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.h2.initiate_connection()
        self.say()
        self.call = self.link.call("/s/Echo", "here", ())
        self.link.receive(SOON)  # the settings
        self.hear()

    def hear(self) -> list[Event]:
        """What the link has sent."""
        self.socket.settimeout(SOON)
        found: list[Event] = []
        with contextlib.suppress(TimeoutError):
            while data := self.socket.recv(1 << 20):
                found += self.h2.receive_data(data)
        return found

    def say(self, more: bytes = b"") -> None:
        self.socket.sendall(self.h2.data_to_send() + more)

    def answer(self, data: bytes = b"") -> None:
        """Headers of gRPC, and these bytes."""
        self.h2.send_headers(1, [(":status", "200"), ("content-type", "application/grpc")])
        if data:
            self.h2.send_data(1, data)
        self.say()

    def taken(self) -> None:
        """The link takes what there is."""
        self.link.receive(SOON)


@pytest.fixture
def pair() -> Iterator[Pair]:
    yield from _pair(Pair())


@pytest.fixture
def narrow() -> Iterator[Pair]:
    """One whose windows let nothing through."""
    yield from _pair(Pair(window=0))


def _pair(made: Pair) -> Iterator[Pair]:
    yield made
    made.link.close()
    made.socket.close()


def test_a_message_that_comes_byte_by_byte_is_whole_in_the_end(pair: Pair) -> None:
    pair.answer()
    for each in framed(b"one") + framed(b"two"):
        pair.h2.send_data(1, bytes([each]))
        pair.say()
        pair.taken()
    assert pair.call.messages() == [b"one", b"two"]


def test_a_call_that_is_reset_has_ended(pair: Pair) -> None:
    pair.h2.reset_stream(1, ErrorCodes.CANCEL)
    pair.say()
    pair.taken()
    assert pair.call.end == CallEnd(http2.UNKNOWN, "the server reset the call (CANCEL)")
    pair.call.send(b"too late")  # is no error: whoever sends looks at the end next


def test_what_came_before_a_reset_counts(pair: Pair) -> None:
    pair.answer(framed(b"one"))
    pair.h2.send_headers(1, [("grpc-status", "14"), ("grpc-message", "away")], end_stream=True)
    pair.h2.reset_stream(1, ErrorCodes.NO_ERROR)
    pair.say()
    pair.taken()
    pair.taken()
    assert (pair.call.messages(), pair.call.end) == ([b"one"], CallEnd(14, "away"))


def test_a_proxy_that_answers_in_its_place_is_told(pair: Pair) -> None:
    pair.h2.send_headers(1, [(":status", "502"), ("content-type", "text/html")], end_stream=True)
    pair.say()
    pair.taken()
    assert pair.call.end == CallEnd(http2.UNKNOWN, "no gRPC answered, but HTTP 502")


def test_details_that_cannot_be_read_are_none(pair: Pair) -> None:
    fields = [(":status", "200"), ("grpc-status", "3"), ("grpc-status-details-bin", "A")]
    pair.h2.send_headers(1, fields, end_stream=True)
    pair.say()
    pair.taken()
    assert pair.call.end == CallEnd(3, "", b"")


def _compressed(pair: Pair) -> None:
    pair.answer(framed(b"x", flag=1))


def _too_long(pair: Pair) -> None:
    pair.answer(struct.pack(">BI", 0, MOST_MESSAGE + 1))


def _endless_frame(pair: Pair) -> None:
    pair.say((1 << 24 - 1).to_bytes(3, "big") + bytes(6))


def _goaway(pair: Pair) -> None:
    pair.h2.close_connection(ErrorCodes.ENHANCE_YOUR_CALM)
    pair.say(frame(6, 0, 0, b"12345678"))  # others may follow


def _no_http2(pair: Pair) -> None:
    pair.say(b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(100))


def _pushes(pair: Pair) -> None:
    pair.say(frame(5, 4, 1, struct.pack(">I", 2)))


def _many_headers(pair: Pair) -> None:
    field = b"\0\x01a\x7e" + b"x" * 126  # a literal that is not kept
    pair.say(frame(1, 4, 1, b"\x88" + field * 125))


def _endless_headers(pair: Pair) -> None:
    pair.say(frame(1, 0, 1, b"\x88") + frame(9, 0, 1, b"") * 200)


def _closed(pair: Pair) -> None:
    pair.socket.shutdown(socket.SHUT_RDWR)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + struct.pack(">I", stream) + payload


FAULTS: dict[str, tuple[Callable[[Pair], None], str]] = {
    "a compressed message": (_compressed, "a compressed message, which nobody asked for"),
    "a message that is too long": (_too_long, f"a message of {MOST_MESSAGE + 1} bytes"),
    "GOAWAY": (_goaway, r"the server goes away \(ENHANCE_YOUR_CALM\)"),
    "a frame that is too long": (_endless_frame, "this is no HTTP/2: a frame of 8388608 bytes"),
    "no HTTP/2": (_no_http2, "this is no HTTP/2"),
    "a push": (_pushes, "this is no HTTP/2"),
    "too many headers": (_many_headers, "this is no HTTP/2"),
    "headers without end": (_endless_headers, "this is no HTTP/2"),
    "the end of the connection": (_closed, "the server closed the connection"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_connection_that_is_not_in_order_is_given_up(pair: Pair, fault: str) -> None:
    does, words = FAULTS[fault]
    does(pair)
    with pytest.raises(LinkError, match=words):
        pair.taken()


def test_a_server_that_gives_no_sign_of_life_is_given_up(pair: Pair) -> None:
    pair.clock.now += PING_SECONDS - 1
    pair.taken()
    assert pair.hear() == [], "it is not asked before"
    pair.clock.now += 1
    pair.taken()
    pair.clock.now += PATIENCE_SECONDS - 1
    pair.taken()
    pair.clock.now += 1
    with pytest.raises(LinkError, match="no sign of life"):
        pair.taken()


def test_an_agent_that_was_stopped_takes_what_has_come_meanwhile_for_a_sign_of_life(pair: Pair) -> None:
    pair.clock.now += PING_SECONDS
    pair.taken()
    pair.hear()
    pair.say()  # the answer
    pair.clock.now += 3600
    pair.taken()
    pair.taken()


def test_what_the_server_does_not_read_waits_and_nothing_is_to_be_sent_beside_it(narrow: Pair) -> None:
    narrow.call.send(b"x" * 1000)
    assert not narrow.call.has_room
    narrow.h2.increment_flow_control_window(500, 1)
    narrow.say()
    narrow.taken()
    assert sum(len(each.data or b"") for each in narrow.hear() if isinstance(each, DataReceived)) == 500
    narrow.h2.increment_flow_control_window(1000, 1)
    narrow.say()
    narrow.taken()
    assert sum(len(each.data or b"") for each in narrow.hear() if isinstance(each, DataReceived)) == 505
    assert narrow.call.has_room


def test_a_server_that_reads_nothing_for_long_is_given_up_though_it_is_alive(narrow: Pair) -> None:
    narrow.call.send(b"x")
    narrow.taken()
    narrow.clock.now += STALLED_SECONDS
    narrow.h2.ping(b"12345678")
    narrow.say()
    narrow.taken()  # it is alive
    with pytest.raises(LinkError, match="the server reads nothing"):
        narrow.taken()


def test_a_flood_is_taken_piece_by_piece_and_never_without_reading_what_was_taken_before(pair: Pair) -> None:
    pair.answer()
    sent = 0
    while (room := min(pair.h2.local_flow_control_window(1), 16_380)) >= 5:
        data = framed(b"") * (room // 5)
        pair.h2.send_data(1, data)
        sent += len(data) // 5
    pair.say()
    taken: list[int] = []
    while sum(taken) < sent:
        pair.taken()
        taken.append(len(pair.call.messages()))

    assert max(taken) <= RECEIVE_BYTES // 5
    assert pair.h2.local_flow_control_window(1) < 5, "the server may not send more before it is told that it may"


def test_a_server_that_asks_without_end_and_does_not_read_the_answers_is_given_up(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http2, "SEND_SECONDS", SOON)
    pings = frame(6, 0, 0, b"12345678") * 1000

    def flood() -> None:
        with contextlib.suppress(OSError):
            while True:
                pair.socket.sendall(pings)

    pair.socket.settimeout(None)
    flooding = Thread(target=flood)
    flooding.start()
    with pytest.raises(LinkError, match="it takes too long"):
        _receive_without_end(pair.link)
    pair.socket.shutdown(socket.SHUT_RDWR)
    flooding.join()


def _receive_without_end(link: Http2Link) -> None:
    while True:
        link.receive(SECONDS)


def test_a_call_says_what_every_call_of_grpc_says() -> None:
    ours, theirs = socket.socketpair()
    with contextlib.closing(Http2Link(ours)) as link, theirs:
        link.call("/s/Echo", "here:1", [("user-agent", "test/1"), ("authorization", "Bearer t")])
        server = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        server.initiate_connection()
        (request,) = (each for each in server.receive_data(theirs.recv(1 << 16)) if isinstance(each, RequestReceived))

    assert {str(name): str(value) for name, value in request.headers or ()} == {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/s/Echo",
        ":authority": "here:1",
        "te": "trailers",
        "content-type": "application/grpc",
        "user-agent": "test/1",
        "authorization": "Bearer t",
    }
