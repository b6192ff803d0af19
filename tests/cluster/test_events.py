"""Events as an API server gets them: real HTTP, and answers that a test scripts."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.client.configuration import Configuration

from allocator.cluster import correlator, events
from allocator.cluster.client import ApiClient
from allocator.cluster.correlator import ObjectEvent, Subject
from allocator.cluster.credentials import Loaded
from allocator.cluster.events import EventWriter
from testing.waiting import until

POD = Subject(api_version="v1", kind="Pod", namespace="demo", name="web-0", uid="u-1")
PATH = "/apis/events.k8s.io/v1/namespaces/demo/events"


def conflict(note: str = "8080/TCP is held twice", subject: Subject = POD) -> ObjectEvent:
    return ObjectEvent(subject=subject, reason="Conflict", action="Observe", note=note)


class Server:
    """Takes Events; a scripted status instead of an answer, in order."""

    def __init__(self) -> None:
        self.got: list[tuple[str, str, Any]] = []
        self.statuses: deque[int] = deque()
        self.message = "scripted"

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.json()
        kind = "merge-patch+json" if request.method == "PATCH" else "json"
        assert request.content_type == f"application/{kind}"
        self.got.append((request.method, request.path, body))
        status = self.statuses.popleft() if self.statuses else 201
        return web.json_response({"kind": "Status", "reason": "R", "message": self.message}, status=status)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"  # type: ignore[attr-defined]
    yield server
    await runner.cleanup()


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0
        self.may_write = True

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def writer(server: Server, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[EventWriter]:
    monkeypatch.setattr(events, "POLL_SECONDS", 0.01)

    async def load() -> Loaded:
        return Loaded(Configuration(host=server.url))  # type: ignore[attr-defined]

    client = ApiClient(load)
    writer = EventWriter(client, instance="allocator-0", may_write=lambda: clock.may_write, now=clock)
    running = asyncio.create_task(writer.forever())
    yield writer
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await client.close()


async def test_an_event_is_written_as_kubectl_reads_it(server: Server, writer: EventWriter) -> None:
    writer.tell(conflict())
    await until(lambda: writer.counts)

    ((method, path, body),) = server.got
    name = body["metadata"].pop("name")

    assert (method, path, name.startswith("web-0.")) == ("POST", PATH, True)
    assert body == {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"namespace": "demo"},
        "eventTime": "2023-11-14T22:13:20.000000Z",
        "reportingController": "hostport.io/allocator",
        "reportingInstance": "allocator-0",
        "type": "Warning",
        "reason": "Conflict",
        "action": "Observe",
        "note": "8080/TCP is held twice",
        "regarding": {"apiVersion": "v1", "kind": "Pod", "namespace": "demo", "name": "web-0", "uid": "u-1"},
    }
    assert writer.counts == {("Conflict", "written"): 1}


async def test_a_repetition_is_counted_in_the_same_event(server: Server, writer: EventWriter, clock: Clock) -> None:
    writer.tell(conflict())
    await until(lambda: writer.counts)  # its answer has come, too
    for _ in range(4):
        writer.tell(conflict())
    clock.now += correlator.REPEAT_SECONDS
    await until(lambda: len(server.got) == 2)

    name = server.got[0][2]["metadata"]["name"]
    series = {"series": {"count": 5, "lastObservedTime": "2023-11-14T22:13:20.000000Z"}}
    assert server.got[1] == ("PATCH", f"{PATH}/{name}", series)


async def test_an_event_that_has_expired_is_written_anew(server: Server, writer: EventWriter, clock: Clock) -> None:
    server.statuses.extend([201, 404])
    writer.tell(conflict())
    await until(lambda: writer.counts)  # its answer has come, too
    writer.tell(conflict())
    clock.now += correlator.REPEAT_SECONDS
    await until(lambda: len(server.got) == 3)

    assert [method for method, _, _ in server.got] == ["POST", "PATCH", "POST"]
    assert server.got[2][2]["series"]["count"] == 2


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_an_api_server_that_is_busy_is_asked_again(server: Server, writer: EventWriter, status: int) -> None:
    server.statuses.append(status)
    writer.tell(conflict())
    await until(lambda: writer.counts)

    assert len(server.got) == 2
    assert writer.counts == {("Conflict", "written"): 1}


async def test_what_is_refused_is_given_up_and_said_once(
    server: Server, writer: EventWriter, caplog: pytest.LogCaptureFixture
) -> None:
    server.statuses.extend([403, 403])
    for name in ("web-0", "web-1"):
        writer.tell(conflict(subject=Subject(api_version="v1", kind="Pod", namespace="demo", name=name, uid=name)))
    await until(lambda: writer.counts == {("Conflict", "refused"): 2})

    assert [record.getMessage() for record in caplog.records] == [
        "an Event cannot be written: RBAC lacks the verbs create and patch on events.events.k8s.io (scripted)"
    ]


async def test_a_namespace_that_goes_is_told_as_such(
    server: Server, writer: EventWriter, caplog: pytest.LogCaptureFixture
) -> None:
    server.statuses.append(403)
    server.message = "unable to create new content in namespace demo because it is being terminated"
    writer.tell(conflict())
    await until(lambda: writer.counts == {("Conflict", "refused"): 1})

    assert [record.getMessage() for record in caplog.records] == [
        f"an Event cannot be written: its namespace goes ({server.message})"
    ]


async def test_who_does_not_serve_writes_nothing_until_it_does(
    server: Server, writer: EventWriter, clock: Clock
) -> None:
    clock.may_write = False
    writer.tell(conflict())
    await asyncio.sleep(0.05)
    assert server.got == []

    clock.may_write = True
    await until(lambda: len(server.got) == 1)


async def test_a_note_is_as_long_as_the_api_server_takes(server: Server, writer: EventWriter) -> None:
    writer.tell(conflict(note="é" * 2000))
    await until(lambda: server.got)

    note = server.got[0][2]["note"]
    assert (len(note.encode()) <= 1024, note.endswith("…")) == (True, True)


async def test_telling_never_waits_and_what_has_no_room_is_counted(
    server: Server, writer: EventWriter, clock: Clock
) -> None:
    clock.may_write = False
    for at in range(correlator.MOST_SERIES + 3):
        writer.tell(conflict(subject=Subject(api_version="v1", kind="Pod", namespace="d", name="x", uid=str(at))))

    assert writer.counts == {("Conflict", "dropped"): 3}


async def test_a_warning_that_another_allocator_has_told_is_counted_in_its_event(
    server: Server, writer: EventWriter, clock: Clock
) -> None:
    server.statuses += [409]
    told = ObjectEvent(subject=POD, reason="Warned", action="Admit", note="PORT_MOVED: 80 moved", kind="PORT_MOVED")
    writer.tell(told)
    await until(lambda: writer.counts)
    clock.now += correlator.REPEAT_SECONDS
    writer.tell(told)
    await until(lambda: writer.counts["Warned", "written"] == 2)

    assert [method for method, _, _ in server.got] == ["POST", "PATCH"]
    assert server.got[1][1] == f"{PATH}/{server.got[0][2]['metadata']['name']}"


async def test_no_flood_of_warnings_keeps_a_denial_waiting(server: Server, writer: EventWriter, clock: Clock) -> None:
    clock.may_write = False
    for at in range(correlator.MOST_SERIES + 3):
        subject = Subject(api_version="v1", kind="Pod", namespace="demo", name=f"web-{at}", uid=str(at))
        writer.tell(ObjectEvent(subject=subject, reason="Warned", action="Admit", note="80 moved", kind="PORT_MOVED"))
    writer.tell(ObjectEvent(subject=POD, reason="Denied", action="Allocate", note="PORT_CONFLICT: 80 is taken"))
    assert writer.counts == {("Warned", "dropped"): 3}

    clock.may_write = True
    await until(lambda: len(server.got) == 1 + correlator.BURST)

    assert [body["reason"] for _, _, body in server.got] == ["Denied", *["Warned"] * int(correlator.BURST)]
