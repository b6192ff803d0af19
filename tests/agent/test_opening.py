"""Which allocator the agent speaks to, what it shows to it, and what it makes of a refusal: real gRPC servers."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import grpc
import pytest
import trustme
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from agent import search
from agent.http2 import LinkError, connect
from agent.report import Reporter
from agent.search import SERVICE, Endpoint
from agent.stream import Stream, StreamEnd, StreamError, Wishes, opened
from hostport.contract import Mistake, Reason
from hostport.contract.status import to_status
from hostport.flags import Address
from hostport.v1 import allocator_pb2 as pb

HOST = "127.0.0.1"
SECONDS = 10.0


def wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


class Reports:
    """Wants a report for each that comes, but refuses those of some nodes. Keeps what callers have shown."""

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.health = health.HealthServicer()

    def serve(self, *, serves: bool = True) -> None:
        statuses = health_pb2.HealthCheckResponse
        self.health.set(SERVICE, statuses.SERVING if serves else statuses.NOT_SERVING)

    @property
    def watched(self) -> int:
        """How many watch the health."""
        watchers: dict[str, set[object]] = vars(self.health)["_send_response_callbacks"]
        return sum(len(each) for each in watchers.values())

    def handle(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        self.shown.append(str(dict(context.invocation_metadata()).get("authorization", "")))
        for each in requests:
            node = pb.ReportNodeRequest.FromString(each).node
            if node == "junk":
                yield b"\xff\xff"
            if node == "other":
                context.abort_with_status(
                    rpc_status.to_status(to_status([Mistake(Reason.NODE_NOT_ITS_OWN, "node", "not yours")]))
                )
            if node == "plain":
                context.abort(grpc.StatusCode.UNIMPLEMENTED, "what?")
            yield pb.ReportNodeResponse(report_now=True).SerializeToString()


@contextlib.contextmanager
def allocator(
    address: str = f"{HOST}:0", authority: trustme.CA | None = None, *, serves: bool = True
) -> Iterator[tuple[int, Reports]]:
    server, reports = grpc.server(ThreadPoolExecutor(8)), Reports()
    method: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(reports.handle)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"ReportNode": method}),))
    health_pb2_grpc.add_HealthServicer_to_server(reports.health, server)
    reports.serve(serves=serves)
    if authority is None:
        port = server.add_insecure_port(address)
    else:
        issued = authority.issue_cert(HOST)
        pair = (issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())
        port = server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
    server.start()
    yield port, reports
    server.stop(None).wait()


def number_of_all() -> int:
    """A number that is free on every address, and that no connection gets, nor a server that takes any."""
    while True:
        number = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("", number)):
            return number


def at(port: int, host: str = HOST, ca: Path | None = None, token_file: Path | None = None) -> Endpoint:
    here = Address(host, port)
    return Endpoint(target=here, name=here, ca=ca, token_file=token_file)


def outcome(endpoint: Endpoint, node: str = "n1") -> StreamEnd | None:
    """What comes of a report; None: it was taken, and answered."""
    try:
        with opened(endpoint) as (call, link):
            told = Stream(call, link, Reporter(node, lambda _: ""), Wishes())
            told.send(pb.ReportNodeRequest(node=node))
            while not told.wait(SECONDS):
                pass
    except StreamError as error:
        return error.end
    return None


def until_it_is_to_end(endpoint: Endpoint, ended: Event) -> None:
    with contextlib.suppress(StreamError), opened(endpoint, ended.is_set):
        pass


def connecting(monkeypatch: pytest.MonkeyPatch, addresses: list[tuple[str, int]]) -> list[str]:
    """Has every name these addresses; gives those that were connected to since."""
    connections: list[str] = []

    def counted(address: tuple[str, int], tls: ssl.SSLContext | None, name: str) -> socket.socket:
        connections.append(address[0])
        return connect(address, tls, name)

    monkeypatch.setattr(search, "connect", counted)
    monkeypatch.setattr(search, "_resolved", lambda _: list(addresses))
    return connections


def test_the_token_is_read_for_each_stream(tmp_path: Path) -> None:
    authority, token = trustme.CA(), tmp_path / "token"
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with allocator(authority=authority) as (port, reports):
        endpoint = at(port, ca=tmp_path / "ca.pem", token_file=token)
        for text in ("one\n", "two"):
            token.write_text(text)
            assert outcome(endpoint) is None

    assert reports.shown == ["Bearer one", "Bearer two"]


def test_an_authority_that_is_renewed_is_read_for_the_next_stream(tmp_path: Path) -> None:
    old, new, ca = trustme.CA(), trustme.CA(), tmp_path / "ca.pem"
    old.cert_pem.write_to_path(ca)
    with allocator(authority=new) as (port, _):
        endpoint = at(port, ca=ca)
        refused = outcome(endpoint)
        new.cert_pem.write_to_path(ca)
        assert outcome(endpoint) is None

    assert refused is not None
    assert refused.why.startswith(f"UNAVAILABLE: no TLS with {HOST}: its certificate is not trusted")


def test_further_authorities_are_trusted_and_one_that_is_absent_names_none(tmp_path: Path) -> None:
    first, second = trustme.CA(), trustme.CA()
    first.cert_pem.write_to_path(tmp_path / "ca.pem")
    second.cert_pem.write_to_path(tmp_path / "also.pem")
    with allocator(authority=second) as (port, _):
        here = Address(HOST, port)
        also = (tmp_path / "absent.pem", tmp_path / "also.pem")
        assert outcome(Endpoint(target=here, name=here, ca=tmp_path / "ca.pem", also=also)) is None


UNREADABLE = {
    "no CA": ("absent.pem", None, "FileNotFoundError"),
    "a CA that is none": ("empty.pem", None, "ValueError: .*empty.pem holds no certificate"),
    "a CA that is cut": ("cut.pem", None, "SSLError"),
    "no token": (None, "absent", "FileNotFoundError"),
    "a token that is none": (None, "binary", "UnicodeDecodeError"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_file_that_cannot_be_read_is_told_and_tried_again(tmp_path: Path, case: str) -> None:
    (tmp_path / "empty.pem").write_text("\n")
    (tmp_path / "cut.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    ca, token, words = UNREADABLE[case]
    with allocator() as (port, _):
        end = outcome(at(port, ca=tmp_path / ca if ca else None, token_file=tmp_path / token if token else None))

    assert end is not None
    assert re.match(words, end.why)
    assert not end.is_refused


@pytest.mark.parametrize("first", ["127.0.0.2", "127.0.0.3", "127.0.0.4"], ids=["stands by", "is away", "serves"])
def test_of_the_addresses_of_a_name_the_one_that_serves_is_told(first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        allocator(f"127.0.0.4:{number_of_all()}") as (port, reports),
        allocator(f"127.0.0.2:{port}", serves=False) as (_, other),
    ):
        hosts = sorted(("127.0.0.2", "127.0.0.3", "127.0.0.4"), key=lambda host: host != first)
        monkeypatch.setattr(search, "_resolved", lambda _: [(host, port) for host in hosts])
        assert outcome(at(port, "every.allocator.test")) is None

    assert (len(reports.shown), other.shown) == (1, [])


def test_where_nobody_serves_that_is_told_and_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "STANDBY_SECONDS", 0.05)
    with allocator(serves=False) as (port, reports):
        assert outcome(at(port)) == StreamEnd("UNAVAILABLE: no allocator that answers serves")
    assert reports.shown == []


def test_one_that_is_to_serve_soon_is_waited_for_on_one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "SPREAD_SECONDS", 0.1)
    with allocator(serves=False) as (port, reports), ThreadPoolExecutor(1) as beside:
        connections = connecting(monkeypatch, [(HOST, port)])
        told = beside.submit(outcome, at(port))
        wait_until(lambda: reports.watched > 0)
        assert not told.done()
        reports.serve()
        assert told.result(SECONDS) is None

    assert (len(reports.shown), len(connections)) == (1, 1)


def test_of_two_that_stand_by_the_first_to_serve_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "SPREAD_SECONDS", 0.0)
    with (
        allocator(f"127.0.0.4:{number_of_all()}", serves=False) as (port, one),
        allocator(f"127.0.0.2:{port}", serves=False) as (_, other),
        ThreadPoolExecutor(1) as beside,
    ):
        monkeypatch.setattr(search, "_resolved", lambda _: [("127.0.0.4", port), ("127.0.0.2", port)])
        told = beside.submit(outcome, at(port))
        wait_until(lambda: one.watched > 0 and other.watched > 0)
        other.serve()
        assert told.result(SECONDS) is None

    assert (len(one.shown), len(other.shown)) == (0, 1)


def test_who_stands_by_is_left_as_soon_as_another_one_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        allocator(f"127.0.0.4:{number_of_all()}") as (port, _),
        allocator(f"127.0.0.2:{port}", serves=False) as (_, other),
    ):
        monkeypatch.setattr(search, "_resolved", lambda _: [("127.0.0.2", port), ("127.0.0.4", port)])
        with opened(at(port)):
            wait_until(lambda: other.watched == 0)


def test_an_address_that_refuses_is_tried_again_while_another_one_stands_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """An allocator that starts opens its port when it knows the cluster."""
    monkeypatch.setattr(search, "AGAIN_SECONDS", 0.1)
    with allocator(f"127.0.0.4:{number_of_all()}", serves=False) as (port, other), ThreadPoolExecutor(1) as beside:
        connections = connecting(monkeypatch, [("127.0.0.4", port), ("127.0.0.2", port)])
        told = beside.submit(outcome, at(port))
        wait_until(lambda: connections.count("127.0.0.2") >= 2)
        with allocator(f"127.0.0.2:{port}") as (_, back):
            assert told.result(SECONDS) is None

    assert (len(back.shown), other.shown) == (1, [])
    assert connections.count("127.0.0.4") == 1


def test_an_address_that_comes_later_is_found_while_another_one_stands_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "AGAIN_SECONDS", 0.1)
    with (
        allocator(f"127.0.0.4:{number_of_all()}", serves=False) as (port, other),
        allocator(f"127.0.0.2:{port}") as (_, new),
        ThreadPoolExecutor(1) as beside,
    ):
        addresses = [("127.0.0.4", port)]
        connections = connecting(monkeypatch, addresses)
        told = beside.submit(outcome, at(port))
        wait_until(lambda: other.watched > 0)
        addresses.append(("127.0.0.2", port))
        assert told.result(SECONDS) is None

    assert (len(new.shown), connections) == (1, ["127.0.0.4", "127.0.0.2"])


def test_who_stands_by_is_watched_though_its_name_has_no_address_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "AGAIN_SECONDS", 0.1)
    monkeypatch.setattr(search, "SPREAD_SECONDS", 0.0)
    with allocator(serves=False) as (port, reports), ThreadPoolExecutor(1) as beside:
        answers = iter([[(HOST, port)]])
        asked: list[object] = []

        def addresses(target: Address) -> list[tuple[str, int]]:
            asked.append(target)
            for answer in answers:
                return answer
            raise LinkError("the name has no address")

        monkeypatch.setattr(search, "_resolved", addresses)
        told = beside.submit(outcome, at(port))
        wait_until(lambda: len(asked) >= 3)
        reports.serve()
        assert told.result(SECONDS) is None


def test_a_connection_that_is_of_no_use_is_closed_while_another_one_stands_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "CHECK_SECONDS", 0.05)
    ended = Event()
    with (
        allocator(f"127.0.0.4:{number_of_all()}", serves=False) as (port, other),
        socket.create_server(("127.0.0.2", port)) as door,
        ThreadPoolExecutor(1) as beside,
    ):
        connecting(monkeypatch, [("127.0.0.2", port), ("127.0.0.4", port)])
        told = beside.submit(until_it_is_to_end, at(port), ended)
        mute, _ = door.accept()
        with mute:
            mute.settimeout(SECONDS)
            while mute.recv(1 << 16):
                pass
        wait_until(lambda: other.watched > 0)
        assert not told.done()
        ended.set()
        told.result(SECONDS)


def test_who_is_to_end_waits_for_nobody() -> None:
    with allocator(serves=False) as (port, _), pytest.raises(StreamError), opened(at(port), lambda: True):
        pass


def test_one_that_does_not_say_whether_it_serves_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "CHECK_SECONDS", 0.05)
    with socket.create_server((HOST, 0)) as door:
        assert outcome(at(door.getsockname()[1])) == StreamEnd("UNAVAILABLE: it does not say whether it serves")


def test_a_server_that_knows_nothing_of_health_is_no_allocator() -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port(f"{HOST}:0")
    server.start()
    end = outcome(at(port))
    server.stop(None).wait()
    assert end == StreamEnd("UNAVAILABLE: it does not say whether it serves: Method not found!")


def test_a_name_that_nobody_knows_is_told() -> None:
    end = outcome(at(1, "nobody.invalid"))
    assert end is not None
    assert end.why.startswith("UNAVAILABLE: nobody.invalid has no address: ")


ENDS = {
    "other": StreamEnd("NODE_NOT_ITS_OWN: not yours", is_refused=True),
    "plain": StreamEnd("UNIMPLEMENTED: what?", is_refused=True),
    "junk": StreamEnd("the allocator sends what is no message"),
}


@pytest.mark.parametrize("node", ENDS)
def test_a_refusal_is_told_by_the_reason_of_the_contract_where_it_has_one(node: str) -> None:
    with allocator() as (port, _):
        assert outcome(at(port), node) == ENDS[node]


def test_a_number_that_is_none_is_not_kept() -> None:
    wishes = Wishes()
    wishes.hear(pb.ReportNodeResponse(has_given=True, given=[pb.PortRange(min=65535, max=(1 << 32) - 1)]))
    assert wishes.wanted is not None
    assert wishes.wanted.given == {65535}
