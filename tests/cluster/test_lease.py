"""One allocator: who takes the Lease when, and what it takes to keep it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from allocator.cluster.client import ApiError, StreamedResponse, UnreachableError
from allocator.cluster.elector import LeaderElector, LostError
from allocator.cluster.lease import (
    Fate,
    Holder,
    LeaseRecord,
    Legacy,
    Take,
    TakeReason,
    Wait,
    decide,
    legacy,
    parse,
    render,
)

ME = Holder(pod_uid="me", start="1", pod_name="allocator-me", journal="j1")
OTHER = Holder(pod_uid="other", start="1", pod_name="allocator-other", journal="j2")
NOW = 1000.0


def record(holder: Holder | None, *, journal: str = "j1", renewed: float | None = NOW - 2, **more: Any) -> LeaseRecord:
    return LeaseRecord(version="7", holder=holder, journal=journal, renewed=renewed, **more)


LIVES, GONE, FINISHED = Fate.UNKNOWN, Fate.GONE, Fate.FINISHED

ROWS = {
    "no Lease ever stood": (None, 0.0, LIVES, Take(TakeReason.FIRST)),
    "we hold it": (record(ME), 1.0, LIVES, Take(TakeReason.OURS)),
    "released": (record(None), 0.0, LIVES, Take(TakeReason.RELEASED)),
    "an earlier start of our Pod": (record(Holder(pod_uid="me", start="0")), 0.0, LIVES, Take(TakeReason.SAME_POD)),
    "another, just seen": (record(OTHER), 0.0, LIVES, Wait(15.0)),
    "another, silent for 14 s": (record(OTHER, renewed=1.0), 14.0, LIVES, Wait(1.0)),
    "another, silent for 15 s": (record(OTHER, renewed=1.0), 15.0, LIVES, Take(TakeReason.SILENT)),
    "another, clock far ahead": (record(OTHER, renewed=9e9), 15.0, LIVES, Take(TakeReason.SILENT)),
    "its Pod is finished": (record(OTHER), 0.0, FINISHED, Take(TakeReason.POD_FINISHED)),
    "its Pod is gone, seen just now": (record(OTHER, renewed=NOW - 20), 0.0, GONE, Take(TakeReason.POD_GONE, NOW + 10)),
    "its Pod is gone for long": (record(OTHER), 10.0, GONE, Take(TakeReason.POD_GONE)),
    "its Pod is gone, it may run": (record(OTHER), 1.0, GONE, Take(TakeReason.POD_GONE, NOW + 9)),
    "without its journal": (record(None, journal="j2"), 0.5, LIVES, Take(TakeReason.RELEASED, NOW + 35.5)),
    "without its journal, its clock behind ours": (
        record(None, journal="j2", renewed=NOW - 7200),
        0.5,
        LIVES,
        Take(TakeReason.RELEASED, NOW + 35.5),
    ),
    "without its journal, its clock ahead of ours": (
        record(None, journal="j2", renewed=NOW + 7200),
        0.5,
        LIVES,
        Take(TakeReason.RELEASED, NOW + 35.5),
    ),
    "without its journal, seen for long": (record(None, journal="j2"), 36.0, LIVES, Take(TakeReason.RELEASED)),
    "without its journal, handed over": (
        record(None, journal="j2", handed_over=True),
        0.5,
        LIVES,
        Take(TakeReason.RELEASED),
    ),
    "without its journal, gone": (record(OTHER, journal="j2"), 0.5, GONE, Take(TakeReason.POD_GONE, NOW + 35.5)),
    "same Pod, journal lost": (
        record(Holder(pod_uid="me", start="0"), journal="j2"),
        0.0,
        LIVES,
        Take(TakeReason.SAME_POD, NOW + 36),
    ),
    "somebody made an empty Lease": (record(None, journal="", renewed=None), 0.0, LIVES, Take(TakeReason.RELEASED)),
}


@pytest.mark.parametrize(("found", "quiet", "fate", "decision"), ROWS.values(), ids=ROWS.keys())
def test_who_takes_the_lease(found: LeaseRecord | None, quiet: float, fate: Fate, decision: Take | Wait) -> None:
    assert decide(found, ME, now=NOW, quiet=quiet, fate=fate) == decision


LEGACIES = {
    "no Lease ever stood": (None, Legacy.NOTHING),
    "our journal": (record(OTHER, journal="j1"), Legacy.JOURNAL),
    "another journal": (record(OTHER, journal="j2"), Legacy.NOTHING),
    "no journal": (record(OTHER, journal=""), Legacy.NOTHING),
    "handed over": (record(None, journal="j2", handed_over=True), Legacy.EVERYTHING),
}


@pytest.mark.parametrize(("found", "left"), LEGACIES.values(), ids=LEGACIES.keys())
def test_what_the_last_holder_left(found: LeaseRecord | None, left: Legacy) -> None:
    assert legacy(found, ME) is left


async def test_what_was_left_is_remembered_when_the_answer_to_taking_it_is_lost(api: Api, clock: Clock) -> None:
    theirs, mine = candidate(api, clock, OTHER), candidate(api, clock, ME)
    await theirs.acquire()
    await theirs.release(handed_over=True)
    api.loses_answer = True
    await mine.acquire(poll_seconds=0.001)

    assert mine.legacy is Legacy.EVERYTHING


def test_a_journal_without_a_name_is_nobodys() -> None:
    me = Holder(pod_uid="me", start="1")

    assert decide(record(None, journal=""), me, now=NOW, quiet=0.0, fate=LIVES) == Take(TakeReason.RELEASED, NOW + 36)


def test_a_record_survives_the_way_through_the_api_server() -> None:
    held = LeaseRecord(version="7", holder=OTHER, journal="j2", renewed=NOW, handed_over=False, transitions=3)

    assert parse(json.loads(json.dumps(render(held, namespace="n", name="l", now=NOW, acquired=NOW)))) == held


@pytest.mark.parametrize(
    "obj",
    [{}, {"spec": None}, {"metadata": {"annotations": None}, "spec": {"renewTime": "soon", "holderIdentity": None}}],
)
def test_a_lease_that_somebody_else_made_oddly_is_nobodys(obj: dict[str, Any]) -> None:
    assert parse(obj) == LeaseRecord(version="", holder=None)


# -- the loop


class Api:
    """A Lease and Pods in memory, with versions; `trouble` is what every request meets, before anything is stored."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.pods: dict[str, dict[str, Any]] = {
            holder.pod_name: {"metadata": {"uid": holder.pod_uid}, "status": {"phase": "Running"}}
            for holder in (ME, OTHER)
        }
        self.trouble: Exception | None = None
        self.loses_answer = False  # of the next write
        self.version = 0

    @asynccontextmanager
    async def stream(self, path: str, params: Any, silence: float) -> AsyncIterator[StreamedResponse]:
        """Watching fails: then who waits looks."""
        raise UnreachableError("no watch")
        yield

    async def send(self, method: str, path: str, params: Any = None, body: Any = None) -> bytes:
        await asyncio.sleep(0)
        if self.trouble:
            raise self.trouble
        if "/pods/" in path:
            return self._found(self.pods.get(path.rpartition("/")[2]))
        if method == "GET":
            return self._found(self.lease)
        current = self.lease["metadata"]["resourceVersion"] if self.lease else None
        if body["metadata"].get("resourceVersion") != current:
            raise ApiError(409, "Conflict", "it has been modified")
        self.version += 1
        self.lease = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.version)}}
        if self.loses_answer:
            self.loses_answer = False
            raise UnreachableError("the answer was lost")
        return self._found(self.lease)

    def _found(self, obj: dict[str, Any] | None) -> bytes:
        if obj is None:
            raise ApiError(404, "NotFound", "")
        return json.dumps(obj).encode()


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return NOW + self.seconds


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def candidate(api: Api, clock: Clock, holder: Holder) -> LeaderElector:
    return LeaderElector(api, holder, namespace="hostport", now=clock, elapsed=clock)


async def test_of_two_who_want_it_at_once_one_gets_it(api: Api, clock: Clock) -> None:
    both = [candidate(api, clock, holder) for holder in (ME, OTHER)]
    tasks = [asyncio.create_task(one.acquire(poll_seconds=0.001)) for one in both]
    await asyncio.sleep(0.05)

    assert sorted(one.is_valid() for one in both) == [False, True]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_who_cannot_renew_for_ten_seconds_is_not_valid_before_another_takes_over(api: Api, clock: Clock) -> None:
    mine, theirs = candidate(api, clock, ME), candidate(api, clock, OTHER)
    await mine.acquire()
    waiting = asyncio.create_task(theirs.acquire(poll_seconds=0.001))
    for second in range(20):
        clock.seconds = float(second)
        await asyncio.sleep(0.005)

        assert not (mine.is_valid() and theirs.is_valid())
        assert mine.is_valid() == (second < 10)
        assert theirs.is_valid() == (second >= 15)
    await waiting


async def test_who_finds_it_taken_has_lost_it(api: Api, clock: Clock) -> None:
    mine, theirs = candidate(api, clock, ME), candidate(api, clock, OTHER)
    await mine.acquire()
    api.lease = None
    await theirs.acquire()
    with pytest.raises(LostError):
        await mine.keep(pace_seconds=0.001)

    assert not mine.is_valid()


async def test_who_finds_it_free_has_lost_it_all_the_same(api: Api, clock: Clock) -> None:
    mine = candidate(api, clock, ME)
    await mine.acquire()
    stolen = candidate(api, clock, OTHER)
    api.lease = None
    await stolen.acquire()
    await stolen.release(handed_over=True)
    with pytest.raises(LostError):
        await mine.keep(pace_seconds=0.001)


async def test_renewal_goes_on_through_errors(api: Api, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    mine = candidate(api, clock, ME)
    await mine.acquire()
    keeping = asyncio.create_task(mine.keep(pace_seconds=0.001))
    clock.seconds = 11.0
    api.trouble = UnreachableError("away")
    async with asyncio.timeout(30):
        while "cannot be renewed" not in caplog.text:
            await asyncio.sleep(0.001)
        assert not mine.is_valid()
        api.trouble = None
        while not mine.is_valid():
            await asyncio.sleep(0.001)
    keeping.cancel()


async def test_a_lease_that_is_released_is_taken_at_once(api: Api, clock: Clock) -> None:
    mine, theirs = candidate(api, clock, ME), candidate(api, clock, OTHER)
    await mine.acquire()
    await mine.release(handed_over=True)

    assert not mine.is_valid()
    assert await theirs.acquire() == 0.0
    assert theirs.is_valid()


async def test_a_pod_that_is_finished_holds_nothing(api: Api, clock: Clock) -> None:
    mine, theirs = candidate(api, clock, ME), candidate(api, clock, OTHER)
    await theirs.acquire()
    waiting = asyncio.create_task(mine.acquire(poll_seconds=0.001))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    api.pods["allocator-other"]["status"]["phase"] = "Failed"

    assert await asyncio.wait_for(waiting, 30) == NOW + 36  # another's journal


async def test_a_pod_that_is_gone_may_still_run_for_as_long_as_it_may_answer(api: Api, clock: Clock) -> None:
    mine, theirs = candidate(api, clock, replace(ME, journal="j2")), candidate(api, clock, OTHER)
    await theirs.acquire()
    del api.pods["allocator-other"]

    assert await mine.acquire() == NOW + 10


async def test_a_stop_while_the_lease_is_being_acquired_gives_it_back(api: Api, clock: Clock) -> None:
    mine, theirs = candidate(api, clock, ME), candidate(api, clock, OTHER)
    acquiring = asyncio.create_task(mine.acquire())
    await asyncio.sleep(0)  # it has asked
    await mine.release(handed_over=True)
    assert await acquiring == 0.0

    assert not mine.is_valid()
    assert await theirs.acquire() == 0.0


async def test_who_has_given_it_back_does_not_take_it_again(api: Api, clock: Clock) -> None:
    mine = candidate(api, clock, ME)
    await mine.release(handed_over=True)
    with pytest.raises(LostError):
        await mine.acquire()

    assert api.lease is None


async def test_who_stops_before_it_may_serve_hands_nothing_over(api: Api, clock: Clock) -> None:
    first, second = candidate(api, clock, OTHER), candidate(api, clock, ME)
    await first.acquire()
    await first.release(handed_over=False)
    assert await second.acquire() == NOW + 36
    await second.release(handed_over=True)

    assert await candidate(api, clock, replace(ME, start="2")).acquire() == NOW + 36


async def test_releasing_what_one_never_had_writes_nothing(api: Api, clock: Clock) -> None:
    await candidate(api, clock, ME).release(handed_over=True)

    assert api.lease is None


async def test_who_took_it_without_hearing_so_waits_as_long_as_who_did(api: Api, clock: Clock) -> None:
    theirs, mine = candidate(api, clock, OTHER), candidate(api, clock, ME)
    await theirs.acquire()
    await theirs.release(handed_over=False)
    api.loses_answer = True

    assert await mine.acquire(poll_seconds=0.001) == NOW + 36
    assert mine.is_valid()


async def test_who_took_it_from_a_pod_that_is_gone_without_hearing_so_waits_too(api: Api, clock: Clock) -> None:
    theirs, mine = candidate(api, clock, OTHER), candidate(api, clock, replace(ME, journal="j2"))
    await theirs.acquire()
    del api.pods["allocator-other"]
    api.loses_answer = True

    assert await mine.acquire(poll_seconds=0.001) == NOW + 10


async def test_a_renewal_whose_answer_was_lost_is_ours(
    api: Api, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    mine = candidate(api, clock, ME)
    await mine.acquire()
    keeping = asyncio.create_task(mine.keep(pace_seconds=0.001))
    api.loses_answer = True
    clock.seconds = 11.0
    async with asyncio.timeout(30):
        while not mine.is_valid():
            await asyncio.sleep(0.001)

    assert "cannot be renewed" in caplog.text
    keeping.cancel()
