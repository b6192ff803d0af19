"""Warnings on their way to the owners of Pods: each word once for each owner, and nobody waits for it."""

from __future__ import annotations

import asyncio

import pytest
from shimkit import FakeAllocator, Json, body, container, pod, port, review
from standin import StandIn, serving

from hostport.credentials import Credentials
from hostport.v1.allocator_pb2 import ReportWarningsRequest
from shim import reporting
from shim.admission import AdmissionAnswer, admit
from shim.client import AllocatorClient
from shim.reporting import AGAIN_SECONDS, MOST_UNDER_WAY, WarningReporter
from testing.waiting import until


def made_by(uid: str, **metadata: str) -> Json:
    made = pod(container("app", port("http")), annotations={"policy": "Dynamic"})
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d4f", "uid": uid, "controller": True}
    made["metadata"] |= {"ownerReferences": [owner], **metadata}
    return made


async def answer_to(made: Json, **request: bool) -> AdmissionAnswer:
    allocate = FakeAllocator()
    answer = await admit(body(review(made, **request)), allocate, probe=allocate)
    assert isinstance(answer, AdmissionAnswer)
    assert [each.reason for each in answer.warnings] == ["PORT_MOVED"]
    return answer


class Owners:
    """Takes reports, or not."""

    def __init__(self) -> None:
        self.told: list[ReportWarningsRequest] = []
        self.takes = True
        self.now = 0.0
        self.is_free = asyncio.Event()
        self.is_free.set()

    async def report(self, request: ReportWarningsRequest) -> bool:
        self.told.append(request)
        await self.is_free.wait()
        return self.takes

    async def heard(self) -> list[tuple[str, list[str]]]:
        for _ in range(9):
            await asyncio.sleep(0)
        heard = [(each.controller_uid, [warning.reason for warning in each.warnings]) for each in self.told]
        self.told.clear()
        return heard


@pytest.fixture
def owners() -> Owners:
    return Owners()


@pytest.fixture
def teller(owners: Owners) -> WarningReporter:
    return WarningReporter(owners.report, lambda: owners.now)


async def test_a_controller_that_tries_100_times_is_told_once(owners: Owners, teller: WarningReporter) -> None:
    for _ in range(100):
        teller.report(await answer_to(made_by("rs-1")))
    teller.report(await answer_to(made_by("rs-2")))

    assert await owners.heard() == [("rs-1", ["PORT_MOVED"]), ("rs-2", ["PORT_MOVED"])]


async def test_it_is_told_again_before_its_event_is_forgotten(owners: Owners, teller: WarningReporter) -> None:
    teller.report(await answer_to(made_by("rs-1")))
    await owners.heard()

    owners.now += AGAIN_SECONDS
    teller.report(await answer_to(made_by("rs-1")))

    assert await owners.heard() == [("rs-1", ["PORT_MOVED"])]


async def test_what_could_not_be_told_is_told_with_the_next_pod(owners: Owners, teller: WarningReporter) -> None:
    owners.takes = False
    teller.report(await answer_to(made_by("rs-1")))
    await owners.heard()

    owners.takes = True
    teller.report(await answer_to(made_by("rs-1")))

    assert await owners.heard() == [("rs-1", ["PORT_MOVED"])]


async def test_nobody_is_told_of_a_preview_or_of_a_pod_that_nobody_made(
    owners: Owners, teller: WarningReporter
) -> None:
    teller.report(await answer_to(made_by("rs-1"), dryRun=True))
    teller.report(await answer_to(pod(container("app", port("http")), annotations={"policy": "Dynamic"})))

    assert await owners.heard() == []


async def test_owners_beyond_those_that_are_told_at_once_are_told_next(owners: Owners, teller: WarningReporter) -> None:
    owners.is_free.clear()
    for number in range(MOST_UNDER_WAY + 3):
        teller.report(await answer_to(made_by(f"rs-{number}")))
    assert len(await owners.heard()) == MOST_UNDER_WAY

    owners.is_free.set()

    assert [uid for uid, _ in await owners.heard()] == [f"rs-{MOST_UNDER_WAY + more}" for more in range(3)]


async def test_an_owner_that_has_no_room_to_wait_is_told_with_its_next_pod(
    owners: Owners, teller: WarningReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "MOST_WAITING", 1)
    owners.is_free.clear()
    for number in range(MOST_UNDER_WAY + 2):
        teller.report(await answer_to(made_by(f"rs-{number}")))
    owners.is_free.set()
    last = f"rs-{MOST_UNDER_WAY + 1}"
    assert last not in [uid for uid, _ in await owners.heard()]

    teller.report(await answer_to(made_by(last)))

    assert await owners.heard() == [(last, ["PORT_MOVED"])]


async def test_who_waits_is_told_before_the_end(owners: Owners, teller: WarningReporter) -> None:
    for number in range(MOST_UNDER_WAY * 2):
        teller.report(await answer_to(made_by(f"rs-{number}")))

    await teller.close()

    assert len(owners.told) == MOST_UNDER_WAY * 2


async def test_what_is_told_names_owner_place_numbers_and_remedy() -> None:
    allocator = StandIn()
    async with serving(allocator) as address:
        client = AllocatorClient(address, Credentials())
        teller = WarningReporter(client.report)
        teller.report(await answer_to(made_by("rs-1")))
        await until(lambda: allocator.reported)
        await teller.close()
        await client.close()

    (told,) = allocator.reported
    assert (told.namespace, told.controller.api_version, told.controller.kind, told.controller.name) == (
        "demo", "apps/v1", "ReplicaSet", "web-5d4f",
    )  # fmt: skip
    (warning,) = told.warnings
    assert warning.message == (
        "port http of container app moved from 8080 to 20000; nothing names HOSTPORT_HTTP: listen on it, or set"
        " hostport.io/network: Pod"
    )


async def test_an_allocator_that_is_away_has_not_been_told() -> None:
    allocator = StandIn(refuses_reports=True)
    async with serving(allocator) as address:
        client = AllocatorClient(address, Credentials())
        assert await client.report(ReportWarningsRequest()) is False
        await client.close()
