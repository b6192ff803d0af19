"""A lease is granted, renewed and ended together with its object, whatever fails on the way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from cluster.apiserver import Fail, Fault, Hang, Lost
from kit import on
from msgspec.structs import replace
from waiting import until

from allocator.core.asks import Refused
from allocator.core.claims import Claim
from allocator.core.ledger import LEASE_SECONDS
from allocator.engine import UnavailableError, always
from allocator.journal.contract import Drop, Put
from allocator.portleases import keeper
from allocator.portleases.store import MOST_WRITES
from hostport.contract import Reason
from portleases.conftest import World
from portleases.stack import NODE, NUMBER, Allocator, lease_ask, seal, shown


async def refusal(one: Allocator) -> Reason:
    with pytest.raises(UnavailableError) as caught:
        await one.lease("q1", constraints=on(NODE))
    return caught.value.reason


def expires(obj: Any) -> str:
    text: str = obj["status"]["expires"]
    return text


async def test_a_lease_is_an_object_that_tells_all_about_it(world: World) -> None:
    one = await world.allocator()

    claim = await one.lease("q1")

    (obj,) = shown(world.server)
    metadata, status = obj["metadata"], obj["status"]
    assert (metadata["namespace"], metadata["name"]) == ("lessee", f"r1-{claim.id[:10]}")
    assert obj["spec"] == {"owner": {"kind": "Service", "name": "r1"}, "allocationID": claim.id}
    assert status == {
        "node": claim.node,
        "ports": [{"protocol": "UDP", "hostPort": NUMBER, "name": "media", "container": "c"}],
        "portSummary": f"{NUMBER}/UDP",
        "expires": "2026-01-01T01:00:00Z",
        "secondsLeft": 3600,
        "ttlSeconds": 3600,
        "request": {"id": "q1", "digest": "ZGlnZXN0", "answer": status["request"]["answer"]},
        "conditions": [
            {
                "type": "Granted",
                "status": "True",
                "reason": "Granted",
                "message": "The ports are held on the node until the lease ends.",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
        ],
    }


async def test_a_reservation_of_a_pod_never_meets_the_api_server(world: World) -> None:
    from kit import ask

    one = await world.allocator()
    world.server.is_away = True
    before = len(world.server.requests)

    await one.engine.allocate(ask("web-0", ":8080"), mark=None, seal=seal, is_wanted=always)

    assert len(world.server.requests) == before


# What may go wrong on the way to a grant, and what must be true when it was granted all the same.
PASSING: dict[str, list[tuple[str, Fault]]] = {
    "the API server is overloaded for a moment": [("create portleases", Fail(429, retry_after=0.01))],
    "it has no leader for a moment": [("create portleases", Fail(500)), ("patch portleases", Fail(503))],
    "the answer to the creation is lost": [("create portleases", Lost())],
    "the answer to the status is lost": [("patch portleases", Lost())],
    "both are lost": [("create portleases", Lost()), ("patch portleases", Lost())],
    "looking for the lost creation fails once": [("create portleases", Lost()), ("get portleases", Fail(500))],
    "an object that had the name is gone": [("create portleases", Fail(409)), ("get portleases", Fail(404))],
    "somebody labels the object at once": [("patch portleases", Fail(409, "the object has been modified"))],
}


@pytest.mark.parametrize("faults", PASSING.values(), ids=PASSING.keys())
async def test_a_trouble_that_passes_is_not_noticed(world: World, faults: list[tuple[str, Fault]]) -> None:
    one = await world.allocator()
    for request, fault in faults:
        world.server.script(request, fault)

    claim = await one.lease("q1")

    assert [obj["spec"]["allocationID"] for obj in world.server.all("portleases")] == [claim.id]
    assert len(shown(world.server)) == 1
    assert await one.lease("q1") == claim


LASTING: dict[str, list[tuple[str, Fault]]] = {
    "creation is forbidden": [("create portleases", Fail(403))],
    "the status is forbidden": [("patch portleases", Fail(403))],
    "the object is gone before its status": [("patch portleases", Fail(404))],
    "the creation was done, and its status never is": [("create portleases", Lost()), ("patch portleases", Fail(403))],
    "the deletion has to be repeated": [("patch portleases", Fail(403)), ("delete portleases", Fail(500))],
    "the answer to the deletion is lost": [("patch portleases", Fail(403)), ("delete portleases", Lost())],
}


@pytest.mark.parametrize("faults", LASTING.values(), ids=LASTING.keys())
async def test_what_cannot_be_stored_is_not_granted_and_leaves_nothing(
    world: World, faults: list[tuple[str, Fault]]
) -> None:
    one = await world.allocator()
    for request, fault in faults:
        world.server.script(request, fault)

    assert await refusal(one) is Reason.LEASE_NOT_STORED

    await until(lambda: one.taken == set())
    assert world.server.all("portleases") == []
    assert one.inner.load().claims == ()
    assert (await one.lease("q1", constraints=on(NODE))).node == NODE  # decided anew: nobody was told the first answer


async def test_an_object_that_happens_to_have_the_name_of_another_lease_is_left_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("allocator.portleases.objects.ID_DIGITS", 0)
    one = await world.allocator()
    first = await one.lease()

    with pytest.raises(UnavailableError):
        await one.lease(number=NUMBER + 1)

    await until(lambda: one.taken == {NUMBER})
    assert [obj["spec"]["allocationID"] for obj in shown(world.server)] == [first.id]


async def test_a_number_stays_taken_until_it_is_certain_that_its_grant_was_not_stored(world: World) -> None:
    one = await world.allocator()
    world.server.script("patch portleases", Fail(403))
    world.server.script("delete portleases", *[Fail(403)] * 3)

    assert await refusal(one) is Reason.LEASE_NOT_STORED
    assert one.taken == {NUMBER}
    with pytest.raises(Refused):
        await one.lease(name="r2", constraints=on(NODE))

    await until(lambda: one.taken == set())


async def test_an_api_server_that_is_away_costs_a_lease_four_seconds_and_keeps_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("allocator.portleases.journal.STORE_SECONDS", 0.3)
    one = await world.allocator()
    world.server.is_away = True

    assert await refusal(one) is Reason.LEASE_NOT_STORED
    world.server.is_away = False

    await until(lambda: one.taken == set())
    assert world.server.all("portleases") == []


async def test_a_creation_that_hangs_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("allocator.portleases.journal.STORE_SECONDS", 0.2)
    one = await world.allocator()
    world.server.script("create portleases", Hang())

    assert await refusal(one) is Reason.LEASE_NOT_STORED


async def test_many_leases_at_once_are_written_a_few_at_a_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    one = await world.allocator()
    most = under_way = 0
    send = one.keeper._client._request

    async def counted(method: str, *arguments: Any) -> Any:
        nonlocal most, under_way
        under_way += method != "GET"
        most = max(most, under_way)
        try:
            return await send(method, *arguments)
        finally:
            under_way -= method != "GET"

    monkeypatch.setattr(one.keeper._client, "_request", counted)

    claims = await asyncio.gather(*(one.lease(number=NUMBER + n, name=f"r{n}") for n in range(60)))

    assert most == MOST_WRITES
    assert len(shown(world.server)) == 60
    assert one.held == {port.host_port for claim in claims for port in claim.ports}


async def test_a_namespace_that_is_not_there_is_the_callers_mistake(world: World) -> None:
    one = await world.allocator()
    world.server.namespaces_gone = {"lessee"}

    with pytest.raises(Refused) as caught:
        await one.lease("q1")

    (mistake,) = caught.value.mistakes
    assert (mistake.reason, mistake.field) == (Reason.NAMESPACE_NOT_FOUND, "owner.namespace")
    assert "'lessee' does not exist" in mistake.message
    await until(lambda: one.taken == set())


async def test_a_caller_who_has_gone_gets_nothing(world: World) -> None:
    one = await world.allocator()
    answers = iter([True, False])  # before the commit, and before the object becomes a lease

    with pytest.raises(UnavailableError) as caught:
        await one.engine.allocate(lease_ask(NUMBER, "r1"), mark=None, seal=seal, is_wanted=lambda: next(answers))

    assert caught.value.reason is Reason.DEADLINE_PASSED
    await until(lambda: world.server.all("portleases") == [])
    assert one.taken == set()


async def test_a_full_disk_grants_nothing_and_asks_nobody(world: World) -> None:
    one = await world.allocator()
    one.inner.is_full = True

    assert await refusal(one) is Reason.JOURNAL_UNAVAILABLE
    assert world.server.count("create") == 0
    assert one.taken == set()


async def test_without_the_coordination_lease_nothing_is_written(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("allocator.portleases.journal.STORE_SECONDS", 0.2)
    one = await world.allocator()
    pending = asyncio.ensure_future(one.lease())
    await asyncio.sleep(0)
    one.may_write = False

    with pytest.raises(UnavailableError):
        await pending

    assert shown(world.server) == []


# -- renewal


async def test_a_renewal_is_durable_at_once_and_shows_in_the_object_later(world: World) -> None:
    one = await world.allocator()
    claim = await one.lease()
    before = len(world.server.requests)
    world.now += 600

    renewed = await one.engine.renew(claim.id, None)

    assert renewed.expires == world.now + LEASE_SECONDS
    assert one.inner.load().claims == (renewed,)
    assert len(world.server.requests) == before
    assert await one.keeper.tidy()
    assert [expires(obj) for obj in shown(world.server)] == ["2026-01-01T01:10:00Z"]
    assert await one.keeper.tidy()
    assert world.server.count("patch") == 2  # the grant, and one for the renewal


async def test_many_renewals_are_one_write(world: World) -> None:
    one = await world.allocator()
    claim = await one.lease()
    for _ in range(20):
        world.now += 3
        await one.engine.renew(claim.id, None)

    await one.keeper.tidy()

    assert world.server.count("patch") == 2


async def test_a_renewal_for_longer_than_ever_is_stored_before_it_is_told(world: World) -> None:
    one = await world.allocator()
    claim = await one.lease(ttl=60.0)

    await one.engine.renew(claim.id, 120.0)

    (obj,) = shown(world.server)
    assert (expires(obj), obj["status"]["ttlSeconds"]) == ("2026-01-01T00:02:00Z", 120)


async def test_a_renewal_for_longer_that_cannot_be_stored_changes_nothing(world: World) -> None:
    one = await world.allocator()
    claim = await one.lease(ttl=60.0)
    world.server.script("patch portleases", Fail(500))

    with pytest.raises(UnavailableError) as caught:
        await one.engine.renew(claim.id, 120.0)

    assert caught.value.reason is Reason.LEASE_NOT_STORED
    assert one.engine.ledger.get(claim.id) == claim


async def test_renewals_go_on_while_the_api_server_is_away(world: World) -> None:
    one = await world.allocator()
    claim = await one.lease()
    world.server.is_away = True
    world.now += 600

    await one.engine.renew(claim.id, None)
    assert not await one.keeper.tidy()
    world.server.is_away = False

    assert await one.keeper.tidy()
    assert [expires(obj) for obj in shown(world.server)] == ["2026-01-01T01:10:00Z"]


async def test_only_a_renewal_that_is_not_stored_spoils_an_orderly_hand_over(world: World) -> None:
    one = await world.allocator()
    claim = await one.lease()
    world.server.put("portleases", made_by_hand("a" * 32))
    await until(lambda: len(one.keeper._shelf.uids()) == 2)
    world.server.script("patch portleases", Fail(422))
    assert await one.keeper.tidy()

    world.now += 60
    await one.engine.renew(claim.id, None)
    world.server.script("patch portleases", Fail(500), Fail(500))

    assert not await one.keeper.tidy()
    assert await one.keeper.stop()


async def test_leases_are_tidied_in_slices_and_what_changes_between_them_counts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "MOST_TIDIED", 1)
    one = await world.allocator()
    claims = [await one.lease(f"r{number}", number=21_000 + number) for number in range(3)]
    world.now += 600
    for claim in claims:
        await one.engine.renew(claim.id, None)
    tidying = asyncio.create_task(one.keeper.tidy())
    await until(lambda: world.server.count("patch") >= 4)  # the grants, and the first renewal
    await one.engine.release(claims[-1].id)
    fresh = await one.lease("fresh", number=21_009)

    assert await tidying
    assert {claim.id for claim in one.engine.leases()} == {claims[0].id, claims[1].id, fresh.id}


# -- the end


async def test_a_release_deletes_the_object(world: World) -> None:
    one = await world.allocator()
    claim = await one.lease()

    await one.engine.release(claim.id)

    assert world.server.all("portleases") == []
    assert (one.held, one.inner.load().claims) == (set(), ())
    await one.engine.release(claim.id)


async def test_leases_that_end_in_one_submission_take_all_their_objects_along(world: World) -> None:
    """And what else is in it is journalled with them."""
    one = await world.allocator()
    claims = [await one.lease(f"q{n}", number=NUMBER + n, name=f"r{n}") for n in range(3)]
    longer = replace(claims[2], expires=(claims[2].expires or 0.0) + 60)

    assert await one.journal.submit([*(Drop(claim.id, 5.0) for claim in claims[:2]), Put(longer)], always)

    assert [obj["spec"]["allocationID"] for obj in shown(world.server)] == [claims[2].id]
    assert (one.inner.load().claims, one.journal.busy) == ((longer,), set())


async def test_two_leases_are_not_granted_in_one_submission(world: World) -> None:
    one = await world.allocator()
    claims = [replace(await one.lease(f"q{n}", number=NUMBER + n, name=f"r{n}"), id=f"{n}" * 32) for n in range(2)]

    with pytest.raises(ValueError, match="2 leases are granted in one submission"):
        one.journal.submit([Put(claim) for claim in claims], always)


async def test_a_lease_that_runs_out_takes_its_object_along(world: World) -> None:
    one = await world.allocator()
    await one.lease()
    world.now += LEASE_SECONDS

    one.engine.tick()

    await until(lambda: one.held == set())
    assert world.server.all("portleases") == []


async def test_an_end_that_does_not_reach_the_api_server_is_tried_until_it_does(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("allocator.engine.END_SECONDS", 0.1)
    one = await world.allocator()
    claim = await one.lease()
    world.server.is_away = True

    with pytest.raises(UnavailableError) as caught:
        await one.engine.release(claim.id)
    assert caught.value.reason is Reason.LEASE_NOT_STORED
    assert one.held == {NUMBER}
    world.server.is_away = False

    await until(lambda: one.held == set())
    assert world.server.all("portleases") == []
    assert one.inner.load().claims == ()


async def test_deleting_the_object_ends_the_lease_durably(world: World) -> None:
    one = await world.allocator()
    await one.lease()
    (obj,) = shown(world.server)

    world.server.delete("portleases", obj["metadata"]["name"], "lessee")

    await until(lambda: one.held == set())
    assert one.inner.load().claims == ()
    assert (await one.lease(name="r2")).ports[0].host_port == NUMBER


async def test_an_object_that_waits_for_a_finalizer_holds_nothing(world: World) -> None:
    one = await world.allocator()
    await one.lease()
    (obj,) = shown(world.server)

    world.server.put(
        "portleases", {**obj, "metadata": {**obj["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}}
    )

    await until(lambda: one.held == set())


async def test_a_deletion_whose_event_was_never_sent_is_found_by_the_next_list(world: World) -> None:
    world.server.script("watch portleases", Hang())
    one = await world.allocator()
    await until(lambda: world.server.count("watch portleases") == 1)
    claim = await one.lease()
    (obj,) = shown(world.server)
    world.server.vanish("portleases", obj["metadata"]["name"], "lessee")
    world.server.forget()

    one.keeper._follower.restart_watch()

    await until(lambda: one.held == set())
    assert one.engine.ledger.get(claim.id) is None


async def test_what_a_list_lacks_because_it_is_younger_stays(world: World) -> None:
    """A list is of the moment when it was asked for: a lease that was granted since is not in it."""
    one = await world.allocator()
    one.keeper.began()
    claim = await one.lease()

    list(one.keeper.complete(world.now))

    assert one.engine.ledger.get(claim.id) == claim


async def test_an_object_deleted_while_it_is_being_granted_is_no_lease(world: World) -> None:
    one = await world.allocator()
    server = world.server
    patch = server._patch

    def patch_then_delete(resource: str, namespace: str, name: str, body: Any) -> Any:
        answer = patch(resource, namespace, name, body)
        server.delete(resource, name, namespace)
        one.keeper._gone(answer["metadata"]["uid"])  # the event overtakes the answer
        return answer

    server._patch = patch_then_delete  # type: ignore[method-assign]

    assert await refusal(one) is Reason.LEASE_NOT_STORED
    await until(lambda: one.taken == set())


# -- objects that are not ours


def made_by_hand(claim_id: str, name: str = "mine") -> Any:
    metadata = {"name": name, "namespace": "lessee", "uid": f"u-{name}"}
    return {"metadata": metadata, "spec": {"owner": {"kind": "Relay"}, "allocationID": claim_id}}


async def test_an_object_made_by_hand_holds_nothing_and_says_so(world: World) -> None:
    one = await world.allocator()
    claim = await one.lease()
    world.server.put("portleases", made_by_hand(claim.id))  # even of a lease's own id
    await until(lambda: len(one.keeper._shelf.uids()) == 2)

    await one.keeper.tidy()
    await one.keeper.tidy()

    said = world.server.find("portleases", "lessee", "mine")
    assert said is not None
    (condition,) = said["status"]["conditions"]
    assert (condition["type"], condition["status"], condition["reason"]) == ("Granted", "False", "NotRequested")
    assert one.held == {NUMBER}
    assert world.server.count("patch") == 2  # the grant, and one explanation
    world.server.delete("portleases", "mine", "lessee")
    await until(lambda: len(one.keeper._shelf.uids()) == 1)
    assert one.held == {NUMBER}


async def test_a_grant_that_nobody_was_told_of_is_deleted(world: World) -> None:
    """A predecessor that had lost its Lease stored it late, after we had listed."""
    one = await world.allocator()
    claim = await one.lease()
    (obj,) = shown(world.server)
    late = {**obj, "metadata": {**obj["metadata"], "name": "late", "uid": "u-late"}}
    world.server.put("portleases", {**late, "spec": {**late["spec"], "allocationID": "f" * 32}})
    await until(lambda: len(one.keeper._shelf.uids()) == 2)

    await one.keeper.tidy()

    assert [o["spec"]["allocationID"] for o in world.server.all("portleases")] == [claim.id]
    assert one.held == {NUMBER}


async def test_a_lease_whose_object_has_gone_unnoticed_is_ended_when_tidying(world: World) -> None:
    one = await world.allocator()
    await one.lease()
    (obj,) = shown(world.server)
    one.keeper._shelf.drop(obj["metadata"]["uid"])

    await one.keeper.tidy()

    await until(lambda: one.held == set())


def test_names_are_readable_and_valid() -> None:
    from allocator.core.claims import ClaimId, Owner, State
    from allocator.portleases.objects import name_of

    def name(owner: Owner) -> str:
        return name_of(Claim(id=ClaimId("0123456789abcdef"), owner=owner, state=State.LEASED, ports=(), created=0.0))

    assert name(Owner(kind="Relay", name="EU lobby/1")) == "eu-lobby-1-0123456789"
    assert name(Owner(kind="Relay")) == "relay-0123456789"
    assert name(Owner(kind="☃", name="☃")) == "lease-0123456789"
    assert name(Owner(kind="Relay", name="x" * 253)) == "x" * 40 + "-0123456789"
