"""The shim as the API server sees it: real sockets, a real gRPC stand-in behind it."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from shimkit import Json, body, container, pod, port, recorded
from standin import Context, Pair, StandIn, issue, refusing, serving
from tornado.httpclient import AsyncHTTPClient, HTTPResponse
from tornado.httputil import HTTPHeaders

from hostport.flags import Address
from hostport.serving import ConnectionTimeouts
from hostport.v1.allocator_pb2 import AllocateRequest, AllocateResponse
from shim.limiter import MOST_BYTES, SMALL_BODY, patience
from shim.runtime import Shim, ShimOptions
from shim.webhook import AGAIN_PORT, LARGEST_DRAIN, LARGEST_REVIEW

ANYWHERE = Address("127.0.0.1", 0)
NOBODY = Address("127.0.0.1", 1)
WEB = pod(container("a", port("web")))


@dataclass(frozen=True)
class Served:
    """A running shim, what stands in for its allocator, and how to reach it."""

    shim: Shim
    allocator: StandIn
    trust: ssl.SSLContext | None = None

    async def ask(self, path: str, **more: Any) -> HTTPResponse:
        return await AsyncHTTPClient(force_instance=True).fetch(
            f"{self.shim.url}{path}",
            raise_error=False,
            ssl_options=self.trust,
            allow_nonstandard_methods=True,
            **more,
        )

    async def review(self, what: Json | bytes, query: str = "?timeout=5s", **headers: str) -> HTTPResponse:
        data = what if isinstance(what, bytes) else body(what)
        sent = HTTPHeaders({"Content-Type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()})
        return await self.ask(f"/mutate{query}", method="POST", body=data, headers=sent)

    async def side(self, path: str) -> HTTPResponse:
        url = f"http://{self.shim.side_address}{path}"
        return await AsyncHTTPClient(force_instance=True).fetch(url, raise_error=False)


@asynccontextmanager
async def running(
    allocator: StandIn | None = None, pair: Pair | None = None, *, is_absent: bool = False, **options: Any
) -> AsyncIterator[Served]:
    """A shim; with `is_absent` its allocator is where nobody listens."""
    allocator = allocator or StandIn()
    async with serving(allocator) as address:
        tls = {"tls_cert": pair.cert, "tls_key": pair.key} if pair else {}
        shim = Shim(
            ShimOptions(
                **{"listen": ANYWHERE, "http": ANYWHERE, "allocator": NOBODY if is_absent else address} | tls | options
            )
        )
        try:
            yield Served(shim, allocator)
        finally:
            await shim.stop()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with running() as each:
        yield each


def status(response: HTTPResponse) -> tuple[int, str, str]:
    told = json.loads(response.body)
    assert (told["kind"], told["status"], told["code"]) == ("Status", "Failure", response.code)
    assert response.body.count(b"\n") == 1
    return response.code, told["reason"], told["message"]


def hanging(release: asyncio.Event, entered: asyncio.Event) -> StandIn:
    allocator = StandIn()
    grant = allocator.answer

    async def answer(request: AllocateRequest, context: Context) -> AllocateResponse:
        entered.set()
        await release.wait()
        return await grant(request, context)

    allocator.answer = answer
    return allocator


# -- reviews


async def test_a_review_is_answered_with_a_patch(served: Served) -> None:
    response = await served.review(recorded("statefulset-pod-0"))

    answer = json.loads(response.body)["response"]
    assert (response.code, response.headers["Content-Type"]) == (200, "application/json")
    assert (answer["uid"], answer["allowed"], answer["patchType"]) == (
        "6894259b-2648-4fb6-881c-e399711dce0f",
        True,
        "JSONPatch",
    )
    assert [request.request_id for request in served.allocator.asked] == [answer["uid"]]


async def test_a_content_type_may_have_parameters(served: Served) -> None:
    assert (await served.review(WEB, Content_Type="application/JSON; charset=utf-8")).code == 200


async def test_a_refusal_of_the_allocator_is_a_denial(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    refusal = refusing(grpc.StatusCode.FAILED_PRECONDITION, "PORT_CONFLICT", message="80/TCP is taken\nby x")
    async with running(StandIn(refusal)) as served:
        response = await served.review(WEB)

    told = json.loads(response.body)["response"]["status"]
    assert (response.code, told["code"], told["reason"]) == (200, 403, "PORT_CONFLICT")
    (line,) = [vars(record)["fields"] for record in caplog.records if record.getMessage() == "admission"]
    assert (line["namespace"], line["name"], line["result"], line["reason"]) == (
        "demo", "web-3", "denied", "PORT_CONFLICT",
    )  # fmt: skip
    assert line["detail"].startswith("PORT_CONFLICT: 80/TCP is taken\nby x. ")


async def test_static_without_a_host_port_is_the_allocators_to_deny() -> None:
    violation = ("ports[0].host_port", "policy Static: port web has no hostPort. Set it", "HOST_PORT_MISSING")
    refusal = refusing(grpc.StatusCode.INVALID_ARGUMENT, "HOST_PORT_MISSING", violation)
    async with running(StandIn(refusal)) as served:
        response = await served.review(pod(container("a", port("web")), annotations={"policy": "Static"}))

    where = "spec.containers[0].ports[0].hostPort"
    assert json.loads(response.body)["response"]["status"] == {
        "status": "Failure",
        "code": 422,
        "reason": "HOST_PORT_MISSING",
        "message": f"HOST_PORT_MISSING: {where}: policy Static: port web has no hostPort. Set it",
    }


# -- what is no review


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"hello", (400, "BadRequest", "the body is not JSON"), id="no JSON"),
        pytest.param(b"\xff\xfe", (400, "BadRequest", "the body is not UTF-8"), id="no UTF-8"),
        pytest.param(b"", (400, "BadRequest", "the body is not JSON"), id="no body"),
        pytest.param(b'{"x":' + b"[" * 3_000_000, (400, "BadRequest", "the body is nested too deeply"), id="nested"),
        pytest.param(b'{"kind":"Pod"}', (400, "BadRequest", "expected AdmissionReview"), id="another kind"),
        pytest.param(
            b" " * (LARGEST_REVIEW + 1), (413, "RequestEntityTooLarge", "larger than 3145728 bytes"), id="one byte more"
        ),
        pytest.param(b" " * (4 << 20), (413, "RequestEntityTooLarge", "larger than 3145728 bytes"), id="4 MiB"),
        pytest.param(b" " * (10 << 20), (413, "RequestEntityTooLarge", "larger than 3145728 bytes"), id="10 MiB"),
        pytest.param(b" " * LARGEST_REVIEW, (400, "BadRequest", "the body is not JSON"), id="exactly the limit"),
    ],
)
async def test_a_body_that_is_no_review(served: Served, data: bytes, expected: tuple[int, str, str]) -> None:
    code, reason, message = status(await served.review(data))

    assert (code, reason) == expected[:2]
    assert expected[2] in message


@pytest.mark.parametrize("kind", ["text/plain", "application/yaml", "application/jsonp", ""])
async def test_a_wrong_content_type(served: Served, kind: str) -> None:
    code, reason, message = status(await served.review(WEB, Content_Type=kind))

    assert (code, reason) == (415, "UnsupportedMediaType")
    assert repr(kind) in message
    assert served.allocator.asked == []


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_only_post_is_allowed(served: Served, method: str) -> None:
    response = await served.ask("/mutate", method=method)

    assert status(response)[:2] == (405, "MethodNotAllowed")
    assert response.headers["Allow"] == "POST"


def at_port(port: int) -> dict[str, str]:
    return {"Host": f"hostport-shim.hostport-system.svc:{port}", "Connection": "keep-alive"}


@pytest.mark.parametrize(
    ("port", "expected"),
    [pytest.param(443, None, id="the first question"), pytest.param(AGAIN_PORT, "close", id="the second question")],
)
async def test_no_connection_of_a_second_question_is_kept(served: Served, port: int, expected: str | None) -> None:
    """Else the next second question could go out on one whose shim has died."""
    response = await served.review(WEB, **at_port(port))

    assert (response.code, response.headers.get("Connection")) == (200, expected)


async def test_nor_is_it_where_the_second_question_has_no_answer_either() -> None:
    async with running(is_absent=True) as served:
        response = await served.review(WEB, "?timeout=1s", **at_port(AGAIN_PORT))

    assert (response.code, response.headers.get("Connection")) == (503, "close")


@pytest.mark.parametrize("path", ["/", "/mutate/", "/validate", "/metrics", "/%ff"])
async def test_an_unknown_path(served: Served, path: str) -> None:
    assert status(await served.ask(path, method="POST", body=b"{}"))[:2] == (404, "NotFound")


async def raw(served: Served, request: bytes, *chunks: bytes) -> int:
    """The status of the answer to bytes that no client library would send."""
    reader, writer = await asyncio.open_connection(served.shim.address.host, served.shim.address.port)
    writer.write(request)
    for chunk in chunks:
        writer.write(chunk)
        await writer.drain()
    _, code, _ = (await reader.readline()).split(b" ", 2)  # each Python has its own words for it
    writer.close()
    return int(code)


async def test_a_body_that_is_too_large_to_read_is_refused_by_its_length(served: Served) -> None:
    head = f"POST /mutate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {LARGEST_DRAIN + 1}"

    assert await raw(served, head.encode() + b"\r\n\r\n") == 413


async def test_a_chunked_body_counts_too(served: Served) -> None:
    head = b"POST /mutate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"

    code = await raw(served, head, *[chunk] * 4, b"0\r\n\r\n")

    assert code == 413


HEAD = b"POST /mutate?timeout=%ds HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


async def pouring(served: Served, announced: int, sent: int, *, source: str = "127.0.0.1") -> asyncio.StreamWriter:
    """A connection on which a body is announced, and as much of it sent."""
    to = served.shim.address
    _, writer = await asyncio.open_connection(to.host, to.port, local_addr=(source, 0))
    writer.write(HEAD % (30, announced) + b" " * sent)
    await writer.drain()
    return writer


async def until_held(served: Served, size: int) -> None:
    async with asyncio.timeout(60):
        while served.shim.limiter.held_bytes != size:
            await asyncio.sleep(0.01)


async def test_what_is_announced_costs_nothing(served: Served) -> None:
    """37 connections that sent 3.3 kB in all once made a shim answer 503 for half a minute."""
    writers = [await pouring(served, LARGEST_REVIEW, 1) for _ in range(200)]
    await until_held(served, 200)

    assert (await served.review(b" " * LARGEST_REVIEW)).code == 400, "it was read"
    assert (await served.review(WEB)).code == 200
    for writer in writers:
        writer.close()
    await until_held(served, 0)


async def until_in_flight(served: Served, count: int) -> None:
    """All headers have come, and what came with them."""
    async with asyncio.timeout(30):
        while served.shim.limiter.in_flight != count:
            await asyncio.sleep(0.01)
        before = -1
        while served.shim.limiter.held_bytes != before:
            before = served.shim.limiter.held_bytes
            await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("sources", "share"), [(1, MOST_BYTES // 2), (2, MOST_BYTES * 2 // 3)], ids=["one peer", "two peers"]
)
async def test_bodies_that_came_and_do_not_end_leave_room_for_others(served: Served, sources: int, share: int) -> None:
    each = LARGEST_REVIEW - 1
    count = MOST_BYTES // LARGEST_REVIEW + 1
    peers = [f"127.0.0.{2 + number % sources}" for number in range(count)]
    writers = [await pouring(served, LARGEST_REVIEW, each, source=peer) for peer in peers]
    await until_in_flight(served, count)

    assert served.shim.limiter.held_bytes <= share
    assert share - served.shim.limiter.held_bytes < sources * LARGEST_REVIEW
    assert (await served.review(b" " * LARGEST_REVIEW)).code == 400, "it was read"
    assert (await served.review(WEB)).code == 200
    for writer in writers:
        writer.transport.abort()
    await until_held(served, 0)
    assert (await served.review(b" " * LARGEST_REVIEW)).code == 400


async def test_large_bodies_of_many_peers_leave_a_quarter_to_small_ones(served: Served) -> None:
    writers = [
        await pouring(served, LARGEST_REVIEW, LARGEST_REVIEW - 1, source=f"127.0.0.{2 + at % 5}") for at in range(40)
    ]
    await until_in_flight(served, 40)

    refused = await served.review(b" " * LARGEST_REVIEW)
    assert status(refused) == (503, "TOO_MANY_REQUESTS", "TOO_MANY_REQUESTS: too many requests are under way")
    assert (await served.review(WEB)).code == 200, "a Pod is small"
    for writer in writers:
        writer.transport.abort()


async def test_small_bodies_of_several_peers_leave_something_for_one_more(served: Served) -> None:
    """Two peers once had half each, and so everything."""
    writers = [await pouring(served, SMALL_BODY, SMALL_BODY - 1, source=f"127.0.0.{2 + at % 4}") for at in range(1_200)]
    await until_in_flight(served, 1_200)

    assert (await served.review(WEB)).code == 200
    for writer in writers:
        writer.transport.abort()


async def test_small_bodies_of_one_peer_leave_the_others_half(served: Served) -> None:
    writers = [await pouring(served, SMALL_BODY, SMALL_BODY - 1, source="127.0.0.2") for _ in range(700)]
    await until_in_flight(served, 700)

    assert MOST_BYTES // 2 - SMALL_BODY < served.shim.limiter.held_bytes <= MOST_BYTES // 2
    assert (await served.review(WEB)).code == 200
    for writer in writers:
        writer.transport.abort()
    await until_held(served, 0)


def verbose() -> Json:
    """A Pod of some kilobytes whose patch has half a megabyte: every container is told of every port."""
    names = [f"container-{at}-{'x' * 20}" for at in range(60)]
    ports = [[port(f"p{at}-{n}", 8000 + n) for n in range(8 if at < 16 else 0)] for at in range(60)]
    return pod(*(container(name, *each) for name, each in zip(names, ports, strict=True)))


async def unread(served: Served, source: str) -> socket.socket:
    """A connection on which such a Pod is asked about, and little of the answer has room."""
    data, to = body(verbose()), served.shim.address
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1000)
    sock.bind((source, 0))
    await asyncio.get_running_loop().sock_connect(sock, (to.host, to.port))
    await asyncio.get_running_loop().sock_sendall(sock, HEAD % (30, len(data)) + data)
    return sock


async def test_answers_that_nobody_reads_are_bounded_and_leave_room_for_small_bodies() -> None:
    """12 kB asked for half a megabyte, and 200 connections held 117 MiB for ever."""
    async with running(
        timeouts=ConnectionTimeouts(answer=600.0)
    ) as served:  # none ends by itself: test_serving has that
        size = len((await served.review(verbose())).body)
        socks = [await unread(served, f"127.0.0.{2 + number % 2}") for number in range(180)]
        async with asyncio.timeout(120):
            while len(served.allocator.asked) < 181:
                await asyncio.sleep(0.01)
        held = served.shim.limiter.held_bytes

        assert size * 50 < held <= MOST_BYTES * 3 // 4
        assert (await served.review(WEB)).code == 200
        for sock in socks:
            sock.close()
        await until_held(served, 0)
        assert served.shim.limiter.in_flight == 0


async def test_when_silent_connections_are_as_many_as_may_be_a_review_is_answered() -> None:
    async with running(most_connections=20) as served:
        to = served.shim.address
        silent = [
            await asyncio.open_connection(to.host, to.port, local_addr=(f"127.0.0.{2 + number % 2}", 0))
            for number in range(40)
        ]

        assert (await served.review(WEB)).code == 200
        for _, writer in silent:
            writer.transport.abort()


async def test_a_client_that_leaves_in_the_middle_is_no_longer_under_way(served: Served) -> None:
    head = b"POST /mutate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n{"
    _, writer = await asyncio.open_connection(served.shim.address.host, served.shim.address.port)
    writer.write(head)
    await _until(served, "hostport_shim_in_flight 1.0")

    writer.close()

    await _until(served, "hostport_shim_in_flight 0.0")


async def test_a_body_has_as_long_to_come_as_its_answer_has(served: Served) -> None:
    reader, writer = await asyncio.open_connection(served.shim.address.host, served.shim.address.port)
    writer.write(HEAD % (1, 5000) + b"{")
    async with asyncio.timeout(6):
        assert await reader.read() == b""
    await _until(served, "hostport_shim_in_flight 0.0")
    writer.close()


async def test_a_client_that_gives_up_waiting_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    release, entered = asyncio.Event(), asyncio.Event()
    async with running(hanging(release, entered)) as served:
        data = body(WEB)
        head = (
            f"POST /mutate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        _, writer = await asyncio.open_connection(served.shim.address.host, served.shim.address.port)
        writer.write(head.encode() + data)
        await entered.wait()
        writer.close()
        await asyncio.sleep(0.05)
        await _until(served, "hostport_shim_in_flight 1.0")
        release.set()
        await _until(served, "hostport_shim_in_flight 0.0")

    # Another test of the process may have had lines of level INFO logged, and each admission has one.
    assert [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING] == []


async def _until(served: Served, line: str) -> None:
    async with asyncio.timeout(30):
        while line not in (await served.side("/metrics")).body.decode():
            await asyncio.sleep(0.01)


# -- deadlines


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [
        pytest.param("5s", 4.7, id="the API server's"),
        pytest.param("1m", 29.7, id="never more than 30 s"),
        pytest.param("600ms", 0.3, id="the margin fits"),
        pytest.param("500ms", 0.25, id="half of what is short"),
        pytest.param("", 9.7, id="absent"),
        pytest.param("soon", 9.7, id="garbage"),
        pytest.param("0s", 9.7, id="zero"),
        pytest.param("-5s", 9.7, id="negative"),
        pytest.param("9" * 400 + "s", 29.7, id="without end"),
    ],
)
def test_the_answer_is_due_before_the_api_servers_deadline(timeout: str, seconds: float) -> None:
    assert patience(timeout) == pytest.approx(seconds)


async def test_a_slow_allocator_is_503_before_the_deadline() -> None:
    release, entered = asyncio.Event(), asyncio.Event()
    allocator = hanging(release, entered)
    hang, left = allocator.answer, []

    async def answer(request: AllocateRequest, context: Context) -> AllocateResponse:
        left.append(context.time_remaining())
        return await hang(request, context)

    allocator.answer = answer
    async with running(allocator) as served:
        response = await served.review(WEB, "?timeout=400ms")
        release.set()

    assert status(response)[:2] == (503, "ALLOCATOR_UNREACHABLE")
    assert [0 < seconds < 0.4 for seconds in left] == [True]


async def test_an_absent_allocator_is_503(caplog: pytest.LogCaptureFixture) -> None:
    async with running(is_absent=True) as served:
        response = await served.review(WEB, "?timeout=200ms")

    assert status(response)[:2] == (503, "ALLOCATOR_UNREACHABLE")
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_an_absent_allocator_delays_no_denial_for_long() -> None:
    async with running(is_absent=True) as served:
        before = asyncio.get_running_loop().time()
        response = await served.review(pod(container("a", port()), annotations={"stride": "x"}))

    assert json.loads(response.body)["response"]["status"]["reason"] == "NOT_A_NUMBER"
    assert asyncio.get_running_loop().time() - before < 5


async def test_a_bad_timeout_is_no_error(served: Served) -> None:
    assert (await served.review(WEB, "?timeout=%ff")).code == 200
    assert (await served.review(WEB, "")).code == 200


async def test_a_fault_of_ours_is_counted_and_answered(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("shim.webhook.admit", broken)
    response = await served.review(WEB)
    metrics = (await served.side("/metrics")).body.decode()

    assert status(response) == (500, "InternalServerError", "InternalServerError: POST /mutate")
    assert 'hostport_shim_answers_total{reason="InternalError",result="failed"} 1.0' in metrics
    assert "hostport_shim_in_flight 0.0" in metrics
    assert "a bug" in caplog.text


# -- concurrency


async def test_too_many_at_once_are_turned_away_at_once() -> None:
    release, entered = asyncio.Event(), asyncio.Event()
    async with running(hanging(release, entered), max_concurrent=1) as served:
        first = asyncio.create_task(served.review(WEB))
        await entered.wait()
        second = await served.review(WEB)
        release.set()
        third_and_first = [await first, await served.review(WEB)]

    assert status(second)[:2] == (503, "TOO_MANY_REQUESTS")
    assert [response.code for response in third_and_first] == [200, 200]


async def test_large_reviews_leave_a_quarter_to_small_ones() -> None:
    release, entered = asyncio.Event(), asyncio.Event()
    large = pod(container("a", port("web")), annotations={"example.com/note": "x" * SMALL_BODY})
    async with running(hanging(release, entered), max_concurrent=8) as served:
        # Of several namespaces, as none has more than half of what is left.
        reviews = [asyncio.create_task(served.review(of_namespace(large, f"n{number % 3}"))) for number in range(6)]
        await until_answering(served, 6)
        refused = await served.review(of_namespace(large, "n4"))
        small = [asyncio.create_task(served.review(of_namespace(WEB, name))) for name in ("n5", "n6")]
        await until_answering(served, 8)
        full = await served.review(of_namespace(WEB, "n7"))
        release.set()

        assert [status(each)[:2] for each in (refused, full)] == [(503, "TOO_MANY_REQUESTS")] * 2
        assert {response.code for response in await asyncio.gather(*reviews, *small)} == {200}


async def test_the_reviews_of_one_namespace_leave_half_to_the_others() -> None:
    """A tenant's Pods may wait two seconds each in the allocator: others must not wait for them."""
    release, entered = asyncio.Event(), asyncio.Event()
    async with running(hanging(release, entered), max_concurrent=8) as served:
        flood = [asyncio.create_task(served.review(of_namespace(WEB, "flood"))) for _ in range(20)]
        refused = [await each for each in itertools.islice(asyncio.as_completed(flood), 16)]
        others = [asyncio.create_task(served.review(of_namespace(WEB, "victim"))) for _ in range(2)]
        await until_answering(served, 6)
        more = asyncio.create_task(served.review(of_namespace(WEB, "third")))
        await until_answering(served, 7)
        release.set()

        assert {status(each)[:2] for each in refused} == {(503, "TOO_MANY_REQUESTS")}
        message = "4 reviews of namespace flood are under way here, as many as it may have. Retry"
        assert any(message in status(each)[2] for each in refused)
        assert {response.code for response in await asyncio.gather(*others, more)} == {200}
        assert Counter(each.result().code for each in flood) == {200: 4, 503: 16}


def of_namespace(what: Json, namespace: str) -> bytes:
    review = json.loads(body(what))
    review["request"]["namespace"] = namespace
    review["request"]["object"]["metadata"]["namespace"] = namespace
    return json.dumps(review).encode()


async def until_answering(served: Served, count: int) -> None:
    async with asyncio.timeout(30):
        while served.shim.limiter.answering != count:
            await asyncio.sleep(0.01)


async def test_many_at_once_are_all_answered(served: Served) -> None:
    responses = await asyncio.gather(*(served.review(WEB) for _ in range(50)))

    assert {response.code for response in responses} == {200}


# -- TLS


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


async def shown(served: Served, context: ssl.SSLContext) -> bytes:
    _, writer = await asyncio.open_connection(served.shim.address.host, served.shim.address.port, ssl=context)
    certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return certificate


def trusting(*authorities: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    for authority in authorities:
        authority.configure_trust(context)
    return context


async def test_reviews_come_over_tls(authority: trustme.CA, tmp_path: Path) -> None:
    async with running(pair=issue(authority, tmp_path)) as each:
        served = Served(each.shim, each.allocator, trusting(authority))
        response = await served.review(WEB)

    assert served.shim.url.startswith("https://127.0.0.1:")
    assert json.loads(response.body)["response"]["allowed"]


async def test_tls_1_2_is_not_spoken_unless_asked_for(authority: trustme.CA, tmp_path: Path) -> None:
    old = trusting(authority)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    pair = issue(authority, tmp_path)
    async with running(pair=pair) as strict:
        with pytest.raises(ssl.SSLError):
            await shown(strict, old)
    async with running(pair=pair, tls_min_version=ssl.TLSVersion.TLSv1_2) as lax:
        assert await shown(lax, old)


async def test_a_new_certificate_is_served_without_a_restart(authority: trustme.CA, tmp_path: Path) -> None:
    pair, other = issue(authority, tmp_path), trustme.CA()
    async with running(pair=pair) as served:
        before = await shown(served, trusting(authority, other))
        pair.write(other.issue_cert("127.0.0.1"))
        served.shim.refresh()
        after = await shown(served, trusting(other))
        pair.cert.write_bytes(b"broken")
        served.shim.refresh()
        assert await shown(served, trusting(other)) == after

    assert before != after


# -- health, metrics, shutdown


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param("/healthz", (200, "ok\n"), id="alive"),
        pytest.param("/readyz", (200, "ok\n"), id="ready"),
        pytest.param("/readyz?verbose", (200, "[+] listening\n[+] not shutting down\nok\n"), id="verbose"),
    ],
)
async def test_health(served: Served, path: str, expected: tuple[int, str]) -> None:
    response = await served.side(path)

    assert (response.code, response.body.decode()) == expected


async def test_readiness_does_not_depend_on_the_allocator(authority: trustme.CA, tmp_path: Path) -> None:
    async with running(pair=issue(authority, tmp_path), is_absent=True) as served:
        response = await served.side("/readyz?verbose")

    assert response.body.decode() == "[+] certificate loaded\n[+] listening\n[+] not shutting down\nok\n"


async def test_the_side_port_serves_nothing_else(served: Served) -> None:
    assert status(await served.side("/mutate"))[0] == 404


async def test_answers_are_counted_by_result_and_reason(served: Served) -> None:
    await served.review(WEB)
    await served.review(pod())
    await served.review(pod(container("a", port()), annotations={"policy": "x"}))
    await served.review(b"x")

    metrics = (await served.side("/metrics")).body.decode().splitlines()

    assert {line for line in metrics if line.startswith("hostport_shim_answers_total")} == {
        'hostport_shim_answers_total{reason="",result="patched"} 1.0',
        'hostport_shim_answers_total{reason="",result="untouched"} 1.0',
        'hostport_shim_answers_total{reason="UNKNOWN_POLICY",result="denied"} 1.0',
        'hostport_shim_answers_total{reason="BadRequest",result="failed"} 1.0',
    }
    assert "hostport_shim_answer_seconds_count 4.0" in metrics
    assert 'hostport_shim_answer_seconds_bucket{le="0.0005"}' in "".join(metrics)
    assert "hostport_shim_in_flight 0.0" in metrics
    assert "hostport_shim_connections_total 4.0" in metrics
    assert any(line.startswith('hostport_build_info{component="shim"') for line in metrics)


async def test_stopping_finishes_what_is_under_way() -> None:
    release, entered = asyncio.Event(), asyncio.Event()
    async with running(hanging(release, entered)) as served:
        under_way = asyncio.create_task(served.review(WEB))
        await entered.wait()
        stopping = asyncio.create_task(served.shim.stop())
        await asyncio.sleep(0.05)
        ready = await served.side("/readyz")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(served.shim.address.host, served.shim.address.port)
        release.set()
        response = await under_way
        await stopping

    assert (ready.code, ready.body.decode()) == (503, "[-] listening\n[-] not shutting down\nnot ready\n")
    assert (response.code, response.headers["Connection"]) == (200, "close")
