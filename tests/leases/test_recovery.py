"""What the next allocator finds, after each step at which one may die, with its journal and without."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import datetime
from time import thread_time

import pytest

from allocator.cluster.lease import Legacy
from allocator.core.asks import NotServedError, Refused
from allocator.core.claims import ClusterChange
from allocator.idempotency import IdempotencyKey
from allocator.journal.contract import Recorded, always
from hostport.contract.defaults import LEASE_SECONDS
from leases.conftest import World
from leases.stack import NODE, NUMBER, Allocator, encode_response, lease_ask, shown
from leases.test_leases import made_by_hand
from testing.apiserver import Fail, Hang
from testing.costing import REFERENCE_MILLISECONDS, milliseconds_of_reference
from testing.kit import Desk, lease, pod
from testing.waiting import until

BOTH = pytest.mark.parametrize("keeps_journal", [True, False], ids=["with its journal", "without"])


async def begin(world: World, one: Allocator, request: str) -> None:
    """A lease is asked for, and gets as far as this request, which nobody answers."""
    world.server.script(request, Hang())
    ask = lease_ask(NUMBER, "r1")
    asked = asyncio.ensure_future(
        one.engine.allocate(ask, key=IdempotencyKey("q1", b"digest"), encode=encode_response, is_wanted=always)
    )
    asked.add_done_callback(lambda done: done.cancelled() or done.exception())
    await until(lambda: world.server.count(request))


@BOTH
async def test_a_lease_outlives_its_allocator(world: World, keeps_journal: bool) -> None:
    first = await world.allocator()
    claim = await first.lease("q1")

    second = await world.after_death(first, keeps_journal=keeps_journal)

    (held,) = second.engine.recovery.leases()
    assert (held.id, held.owner, held.node, held.ports) == (claim.id, claim.owner, claim.node, claim.ports)
    assert await second.lease("q1") == held  # the first answer
    await second.engine.renew(claim.id, None)
    await second.engine.release(claim.id)
    assert world.server.all("portleases") == []
    assert (await second.lease("q2")).ports[0].host_port == NUMBER


@BOTH
async def test_died_before_the_object_was_made(world: World, keeps_journal: bool) -> None:
    first = await world.allocator()
    await begin(world, first, "create portleases")
    assert first.inner.load().claims != ()

    second = await world.after_death(first, keeps_journal=keeps_journal)

    assert second.held == set()
    claim = await second.lease("q1")  # nobody was told the first answer: it is decided anew
    assert [obj["spec"]["allocationID"] for obj in shown(world.server)] == [claim.id]


async def test_died_before_the_object_became_a_lease(world: World) -> None:
    first = await world.allocator()
    await begin(world, first, "patch portleases")
    assert len(world.server.all("portleases")) == 1

    second = await world.after_death(first)
    await second.reconciler.reconcile()

    assert (second.held, world.server.all("portleases")) == (set(), [])


async def test_died_before_the_object_became_a_lease_and_lost_the_journal(world: World) -> None:
    """Nobody can tell it from one that was made by hand: it holds nothing, and says so."""
    first = await world.allocator()
    await begin(world, first, "patch portleases")

    second = await world.after_death(first, keeps_journal=False)
    await second.reconciler.reconcile()

    (obj,) = world.server.all("portleases")
    assert obj["status"]["conditions"][0]["reason"] == "NotRequested"
    assert second.held == set()


async def test_the_answer_to_a_grant_that_failed_is_not_kept_for_a_retry(world: World) -> None:
    first = await world.allocator()
    world.server.script("patch portleases", Fail(403))
    with pytest.raises(NotServedError):
        await first.lease("q1")
    await until(lambda: first.taken == set())

    second = await world.after_death(first)

    assert [(await second.lease("q1")).id] == [obj["spec"]["allocationID"] for obj in shown(world.server)]


@BOTH
async def test_died_before_the_answer(world: World, keeps_journal: bool) -> None:
    """The object stands: the lease is held, and a retry is told so."""
    first = await world.allocator()
    claim = await first.lease("q1")

    second = await world.after_death(first, keeps_journal=keeps_journal)

    assert (await second.lease("q1")).id == claim.id
    assert len(world.server.all("portleases")) == 1


@BOTH
async def test_deleted_while_the_allocator_was_away(world: World, keeps_journal: bool) -> None:
    first = await world.allocator()
    claim = await first.lease("q1")
    (obj,) = shown(world.server)
    await first.die()
    world.server.delete("portleases", obj["metadata"]["name"], "lessee")

    second = await world.after_death(first, keeps_journal=keeps_journal)

    assert (second.held, second.inner.load().claims) == (set(), ())
    assert (await second.lease("q1")).id != claim.id  # its answer has gone with it
    third = await world.after_death(second)
    assert third.held == {NUMBER}


@BOTH
async def test_died_between_the_deletion_and_the_journal(world: World, keeps_journal: bool) -> None:
    first = await world.allocator()
    claim = await first.lease()
    first.inner.dies_after_commit = True
    ending = asyncio.ensure_future(first.engine.release(claim.id))
    await until(lambda: world.server.all("portleases") == [])
    ending.cancel()

    second = await world.after_death(first, keeps_journal=keeps_journal)

    assert second.held == set()


@BOTH
async def test_died_before_the_deletion(world: World, keeps_journal: bool) -> None:
    """The release was not answered: the lease is held, and may be released again."""
    first = await world.allocator()
    claim = await first.lease()
    world.server.script("delete portleases", Hang())
    ending = asyncio.ensure_future(first.engine.release(claim.id))
    await until(lambda: world.server.count("delete portleases"))
    ending.cancel()

    second = await world.after_death(first, keeps_journal=keeps_journal)

    assert second.held == {NUMBER}
    await second.engine.release(claim.id)
    assert second.held == set()


# -- when a lease ends that was renewed, and whose renewal was not written


async def test_with_the_journal_a_lease_ends_when_its_holder_was_told(world: World) -> None:
    first = await world.allocator()
    claim = await first.lease()
    world.now += 600
    renewed = await first.engine.renew(claim.id, None)

    second = await world.after_death(first)

    assert list(second.engine.recovery.leases()) == [renewed]


async def test_without_it_no_lease_ends_before_its_holder_was_told(world: World) -> None:
    first = await world.allocator()
    claim = await first.lease()
    world.now += LEASE_SECONDS - 1
    renewed = await first.engine.renew(claim.id, None)
    world.now += 30

    second = await world.after_death(first, keeps_journal=False)

    (held,) = second.engine.recovery.leases()
    assert held.expires == world.now + LEASE_SECONDS
    assert held.expires >= (renewed.expires or 0)
    await second.reconciler.reconcile()
    assert shown(world.server)[0]["status"]["expires"] == "2026-01-01T02:00:29Z"


async def test_a_successor_who_was_handed_everything_goes_by_the_objects(world: World) -> None:
    first = await world.allocator()
    claim = await first.lease()
    world.now += 600
    renewed = await first.engine.renew(claim.id, None)
    assert await first.reconciler.stop()  # as on SIGTERM: what was not written yet is

    second = await world.after_death(first, keeps_journal=False, legacy=Legacy.EVERYTHING)

    assert [claim.expires for claim in second.engine.recovery.leases()] == [renewed.expires]


CLOCKS = {"as before": 0.0, "two hours ahead": 7200.0, "two hours behind": -7200.0}
LEFT = {
    "with its journal, killed": (True, Legacy.JOURNAL, False, 600.0),
    "with its journal, stopped in order": (True, Legacy.JOURNAL, True, 600.0),
    "without it, stopped in order": (False, Legacy.EVERYTHING, True, 600.0),
    "without it, killed": (False, Legacy.NOTHING, False, LEASE_SECONDS),
}


@pytest.mark.parametrize("ahead", CLOCKS.values(), ids=CLOCKS.keys())
@pytest.mark.parametrize(("keeps_journal", "legacy", "is_orderly", "left"), LEFT.values(), ids=LEFT.keys())
async def test_on_whatever_clock_a_lease_has_what_was_left_of_it(
    world: World, ahead: float, keeps_journal: bool, legacy: Legacy, is_orderly: bool, left: float
) -> None:
    first = await world.allocator(has_clock=True)
    claim = await first.lease()
    world.pass_time(LEASE_SECONDS - 600)
    first.engine.maintenance.tick()
    if is_orderly:
        assert await first.reconciler.stop()

    world.wall_ahead += ahead
    second = await world.after_death(first, keeps_journal=keeps_journal, legacy=legacy, has_clock=True)

    (held,) = second.engine.recovery.leases()
    assert held.id == claim.id
    assert (held.expires or 0.0) - second.engine.clock() == pytest.approx(left, abs=1.0)
    world.pass_time(left - 5)
    second.engine.maintenance.tick()
    assert second.held == {NUMBER}
    world.pass_time(10)
    second.engine.maintenance.tick()
    await until(lambda: second.held == set())


@pytest.mark.parametrize("ahead", CLOCKS.values(), ids=CLOCKS.keys())
async def test_people_are_shown_the_end_by_the_clock_of_who_serves(world: World, ahead: float) -> None:
    first = await world.allocator(has_clock=True)
    await first.lease()
    world.wall_ahead += ahead
    second = await world.after_death(first, has_clock=True)

    await second.reconciler.reconcile()

    (obj,) = shown(world.server)
    end = datetime.fromisoformat(obj["status"]["expires"]).timestamp()
    assert end - world.wall == pytest.approx(LEASE_SECONDS, abs=1.0)


async def test_an_object_that_an_older_allocator_wrote_gives_its_lease_the_whole_time(world: World) -> None:
    first = await world.allocator()
    await first.lease()
    (obj,) = shown(world.server)
    del obj["status"]["secondsLeft"]
    world.server.put("portleases", {**obj, "status": {**obj["status"], "expires": "2020-01-01T00:00:00Z"}})

    second = await world.after_death(first, keeps_journal=False, legacy=Legacy.EVERYTHING)

    assert [held.expires for held in second.engine.recovery.leases()] == [world.now + LEASE_SECONDS]


async def test_what_the_journal_does_not_know_gets_its_time_anew(world: World) -> None:
    """The predecessor died before it had written down what it had taken up itself."""
    first = await world.allocator()
    await first.lease()
    world.now += 600

    second = await world.after_death(first, keeps_journal=False, legacy=Legacy.JOURNAL)

    assert [claim.expires for claim in second.engine.recovery.leases()] == [world.now + LEASE_SECONDS]


async def test_a_short_renewal_does_not_shorten_what_a_successor_allows_for(world: World) -> None:
    first = await world.allocator()
    claim = await first.lease()
    await first.engine.renew(claim.id, 60.0)
    await first.reconciler.reconcile()
    assert shown(world.server)[0]["status"]["ttlSeconds"] == LEASE_SECONDS
    await first.engine.renew(claim.id, LEASE_SECONDS)

    second = await world.after_death(first, keeps_journal=False)

    assert [held.expires for held in second.engine.recovery.leases()] == [world.now + LEASE_SECONDS]


async def test_an_older_journal_does_not_shorten_a_lease(world: World) -> None:
    """It was left by an allocator that served before the last one."""
    first = await world.allocator()
    claim = await first.lease()
    (obj,) = shown(world.server)
    world.server.put("portleases", {**obj, "status": {**obj["status"], "secondsLeft": 5 * 3600}})

    second = await world.after_death(first, legacy=Legacy.EVERYTHING)

    (held,) = second.engine.recovery.leases()
    assert (held.id, held.expires) == (claim.id, world.now + 5 * 3600)


# -- the start itself


async def test_nothing_is_in_the_books_before_the_list_is_whole(world: World, caplog: pytest.LogCaptureFixture) -> None:
    first = await world.allocator()
    await first.lease()
    await first.die()
    world.server.script("list portleases", Fail(500), Fail(403), Fail(404))

    second = await world.after_death(first, keeps_journal=False)

    assert second.held == {NUMBER}
    assert world.server.count("list portleases") == 5
    assert "is their CustomResourceDefinition installed?" in caplog.text


async def test_what_was_made_by_hand_while_nobody_served_holds_nothing(world: World) -> None:
    world.server.put("portleases", made_by_hand("a" * 32))

    one = await world.allocator()

    assert one.held == set()


async def test_an_object_that_cannot_be_read_spoils_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.server.put("portleases", {"metadata": {"name": "odd", "namespace": "lessee", "uid": "u"}, "spec": 7})
    first = await world.allocator()
    await first.lease()

    second = await world.after_death(first, keeps_journal=False)

    assert second.held == {NUMBER}
    assert "PortLease odd (uid u) cannot be read" in caplog.text


async def test_leases_keep_their_numbers_from_others(world: World) -> None:
    from testing.kit import ask, on

    first = await world.allocator()
    claim = await first.lease()
    second = await world.after_death(first, keeps_journal=False)
    pod = ask("web-0", f"c/media:0/UDP={NUMBER}", policy="Static", constraints=on(claim.node or ""))

    with pytest.raises(Refused) as caught:
        await second.engine.allocate(pod, key=None, encode=encode_response, is_wanted=always)

    assert "is leased" in str(caught.value)


async def test_leases_that_the_journal_lacks_come_back_in_short_steps_though_many_pods_wait(world: World) -> None:
    pods = [pod(f"w{at}", f"x:{1000 + at}") for at in range(3000)]
    granted = Desk(NODE)
    leases = [granted.grant(lease(f"r{at}", "x:0", low=NUMBER, high=NUMBER + 999)) for at in range(200)]
    one = await world.allocator()
    one.engine.maintenance.observe(ClusterChange(pods=pods))

    steps = one.engine.recovery.recover_leases([Recorded(claim, None) for claim in leases])
    spent = []
    with contextlib.suppress(StopIteration):
        while True:
            began = thread_time()
            next(steps)
            spent.append((thread_time() - began) * 1000)

    assert one.held == {port.host_port for claim in leases for port in claim.ports}
    assert max(spent) / milliseconds_of_reference() < 50 / REFERENCE_MILLISECONDS
