"""A lease is granted, renewed and ended together with its object, whatever fails on the way."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from allocator.core.asks import NotServedError, Refused
from allocator.core.claims import Claim
from allocator.journal.contract import always
from allocator.leases import reconciler
from allocator.leases.api import MOST_WRITES
from allocator.leases.objects import READER, parse
from hostport.contract import Reason
from hostport.contract.defaults import LEASE_SECONDS
from leases.conftest import World
from leases.stack import NODE, NUMBER, Allocator, encode_response, lease_ask, shown
from testing.apiserver import Fail, Fault, Hang, Lost
from testing.kit import lease, on
from testing.waiting import until


async def refusal(one: Allocator) -> Reason:
    with pytest.raises(NotServedError) as caught:
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


BLOCK = replace(lease("r1", "media:1/UDP*100", low=NUMBER, high=NUMBER + 999), ttl=LEASE_SECONDS)


@pytest.mark.parametrize("is_pruned", [False, True], ids=["", "by a schema that is older than blocks"])
async def test_a_block_is_one_port_of_the_object_and_is_read_from_it(world: World, is_pruned: bool) -> None:
    one = await world.allocator()
    granted = await one.engine.allocate(BLOCK, key=None, encode=encode_response, is_wanted=always)
    claim = granted.claim
    assert claim is not None

    (obj,) = shown(world.server)
    (port,) = obj["status"]["ports"]
    assert port == {
        "protocol": "UDP",
        "hostPort": NUMBER,
        "name": "media",
        "container": "c",
        "containerPort": 1,
        "count": 100,
    }
    assert obj["status"]["portSummary"] == f"{NUMBER}-{NUMBER + 99}/UDP"

    if is_pruned:
        del port["count"]
    sketch = READER.one(msgspec.json.encode(obj))
    read = parse(sketch).claim
    assert read is not None
    assert read.ports == claim.ports


async def test_a_reservation_of_a_pod_never_meets_the_api_server(world: World) -> None:
    from testing.kit import ask

    one = await world.allocator()
    world.server.is_away = True
    before = len(world.server.requests)

    await one.engine.allocate(ask("web-0", ":8080"), key=None, encode=encode_response, is_wanted=always)

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
    monkeypatch.setattr("allocator.leases.objects.ID_DIGITS", 0)
    one = await world.allocator()
    first = await one.lease()

    with pytest.raises(NotServedError):
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
    monkeypatch.setattr("allocator.leases.durability.STORE_SECONDS", 0.3)
    one = await world.allocator()
    world.server.is_away = True

    assert await refusal(one) is Reason.LEASE_NOT_STORED
    world.server.is_away = False

    await until(lambda: one.taken == set())
    assert world.server.all("portleases") == []


async def test_a_creation_that_hangs_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("allocator.leases.durability.STORE_SECONDS", 0.2)
    one = await world.allocator()
    world.server.script("create portleases", Hang())

    assert await refusal(one) is Reason.LEASE_NOT_STORED


async def test_many_leases_at_once_are_written_a_few_at_a_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    one = await world.allocator()
    most = under_way = 0
    send = one.client._request

    async def counted(method: str, *arguments: Any) -> Any:
        nonlocal most, under_way
        under_way += method != "GET"
        most = max(most, under_way)
        try:
            return await send(method, *arguments)
        finally:
            under_way -= method != "GET"

    monkeypatch.setattr(one.client, "_request", counted)

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

    with pytest.raises(NotServedError) as caught:
        await one.engine.allocate(
            lease_ask(NUMBER, "r1"), key=None, encode=encode_response, is_wanted=lambda: next(answers)
        )

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
    monkeypatch.setattr("allocator.leases.durability.STORE_SECONDS", 0.2)
    one = await world.allocator()
    pending = asyncio.ensure_future(one.lease())
    await asyncio.sleep(0)
    one.may_write = False

    with pytest.raises(NotServedError):
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
    assert await one.reconciler.reconcile()
    assert [expires(obj) for obj in shown(world.server)] == ["2026-01-01T01:10:00Z"]
    assert await one.reconciler.reconcile()
    assert world.server.count("patch") == 2  # the grant, and one for the renewal


async def test_many_renewals_are_one_write(world: World) -> None:
    one = await world.allocator()
    claim = await one.lease()
    for _ in range(20):
        world.now += 3
        await one.engine.renew(claim.id, None)

    await one.reconciler.reconcile()

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

    with pytest.raises(NotServedError) as caught:
        await one.engine.renew(claim.id, 120.0)

    assert caught.value.reason is Reason.LEASE_NOT_STORED
    assert one.engine.ledger.claims.get(claim.id) == claim


async def test_a_renewal_for_longer_that_cannot_be_stored_is_not_journalled_when_it_is_repeated(world: World) -> None:
    one = await world.allocator()
    claim = await one.lease(ttl=60.0)
    world.server.script("patch portleases", Fail(500), Fail(500))
    for _ in range(2):
        with pytest.raises(NotServedError):
            await one.engine.renew(claim.id, 120.0)

    one = await world.after_death(one)

    assert one.engine.ledger.claims.get(claim.id) == claim


async def test_renewals_go_on_while_the_api_server_is_away(world: World) -> None:
    one = await world.allocator()
    claim = await one.lease()
    world.server.is_away = True
    world.now += 600

    await one.engine.renew(claim.id, None)
    assert not await one.reconciler.reconcile()
    world.server.is_away = False

    assert await one.reconciler.reconcile()
    assert [expires(obj) for obj in shown(world.server)] == ["2026-01-01T01:10:00Z"]


async def test_only_a_renewal_that_is_not_stored_spoils_an_orderly_hand_over(world: World) -> None:
    one = await world.allocator()
    claim = await one.lease()
    world.server.put("portleases", made_by_hand("a" * 32))
    await until(lambda: len(one.cache.uids()) == 2)
    world.server.script("patch portleases", Fail(422))
    assert await one.reconciler.reconcile()

    world.now += 60
    await one.engine.renew(claim.id, None)
    world.server.script("patch portleases", Fail(500), Fail(500))

    assert not await one.reconciler.reconcile()
    assert await one.reconciler.stop()


async def test_leases_are_reconciled_in_slices_and_what_changes_between_them_counts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "MOST_RECONCILED", 1)
    one = await world.allocator()
    claims = [await one.lease(f"r{number}", number=21_000 + number) for number in range(3)]
    world.now += 600
    for claim in claims:
        await one.engine.renew(claim.id, None)
    reconciling = asyncio.create_task(one.reconciler.reconcile())
    await until(lambda: world.server.count("patch") >= 4)  # the grants, and the first renewal
    await one.engine.release(claims[-1].id)
    fresh = await one.lease("fresh", number=21_009)

    assert await reconciling
    assert {claim.id for claim in one.engine.recovery.leases()} == {claims[0].id, claims[1].id, fresh.id}


# -- the end


async def test_a_release_deletes_the_object(world: World) -> None:
    one = await world.allocator()
    claim = await one.lease()

    await one.engine.release(claim.id)

    assert world.server.all("portleases") == []
    assert (one.held, one.inner.load().claims) == (set(), ())
    await one.engine.release(claim.id)


async def test_leases_that_end_together_take_all_their_objects_along(world: World) -> None:
    one = await world.allocator()
    claims = [await one.lease(f"q{n}", number=NUMBER + n, name=f"r{n}") for n in range(3)]

    assert await one.durability.end([claim.id for claim in claims[:2]], 5.0)

    assert [obj["spec"]["allocationID"] for obj in shown(world.server)] == [claims[2].id]
    assert (one.inner.load().claims, one.durability.busy) == ((claims[2],), set())


async def test_a_lease_that_runs_out_takes_its_object_along(world: World) -> None:
    one = await world.allocator()
    await one.lease()
    world.now += LEASE_SECONDS

    one.engine.maintenance.tick()

    await until(lambda: one.held == set())
    assert world.server.all("portleases") == []


async def test_an_end_that_does_not_reach_the_api_server_is_tried_until_it_does(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("allocator.engine.END_SECONDS", 0.1)
    one = await world.allocator()
    claim = await one.lease()
    world.server.is_away = True

    with pytest.raises(NotServedError) as caught:
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

    one.reconciler._reflector.restart_watch()

    await until(lambda: one.held == set())
    assert one.engine.ledger.claims.get(claim.id) is None


async def test_what_a_list_lacks_because_it_is_younger_stays(world: World) -> None:
    """A list is of the moment when it was asked for: a lease that was granted since is not in it."""
    one = await world.allocator()
    one.reconciler.began()
    claim = await one.lease()

    list(one.reconciler.complete(world.now))

    assert one.engine.ledger.claims.get(claim.id) == claim


async def test_an_object_deleted_while_it_is_being_granted_is_no_lease(world: World) -> None:
    one = await world.allocator()
    server = world.server
    patch = server._patch

    def patch_then_delete(resource: str, namespace: str, name: str, body: Any) -> Any:
        answer = patch(resource, namespace, name, body)
        server.delete(resource, name, namespace)
        one.reconciler._gone(answer["metadata"]["uid"])  # the event overtakes the answer
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
    await until(lambda: len(one.cache.uids()) == 2)

    await one.reconciler.reconcile()
    await one.reconciler.reconcile()

    said = world.server.find("portleases", "lessee", "mine")
    assert said is not None
    (condition,) = said["status"]["conditions"]
    assert condition["message"].endswith("ports are leased with its Allocate call. Delete it.")
    assert (condition["type"], condition["status"], condition["reason"]) == ("Granted", "False", "NotRequested")
    assert one.held == {NUMBER}
    assert world.server.count("patch") == 2  # the grant, and one explanation
    world.server.delete("portleases", "mine", "lessee")
    await until(lambda: len(one.cache.uids()) == 1)
    assert one.held == {NUMBER}


async def test_a_grant_that_nobody_was_told_of_is_deleted(world: World) -> None:
    """A predecessor that had lost its Lease stored it late, after we had listed."""
    one = await world.allocator()
    claim = await one.lease()
    (obj,) = shown(world.server)
    late = {**obj, "metadata": {**obj["metadata"], "name": "late", "uid": "u-late"}}
    world.server.put("portleases", {**late, "spec": {**late["spec"], "allocationID": "f" * 32}})
    await until(lambda: len(one.cache.uids()) == 2)

    await one.reconciler.reconcile()

    assert [o["spec"]["allocationID"] for o in world.server.all("portleases")] == [claim.id]
    assert one.held == {NUMBER}


async def test_a_lease_whose_object_has_gone_unnoticed_is_ended_when_reconciling(world: World) -> None:
    one = await world.allocator()
    await one.lease()
    (obj,) = shown(world.server)
    one.cache.drop(obj["metadata"]["uid"])

    await one.reconciler.reconcile()

    await until(lambda: one.held == set())


def test_names_are_readable_and_valid() -> None:
    from allocator.core.claims import ClaimId, Owner, State
    from allocator.leases.objects import name_of

    def name(owner: Owner) -> str:
        return name_of(Claim(id=ClaimId("0123456789abcdef"), owner=owner, state=State.LEASED, ports=(), created=0.0))

    assert name(Owner(kind="Relay", name="EU lobby/1")) == "eu-lobby-1-0123456789"
    assert name(Owner(kind="Relay")) == "relay-0123456789"
    assert name(Owner(kind="☃", name="☃")) == "lease-0123456789"
    assert name(Owner(kind="Relay", name="x" * 253)) == "x" * 40 + "-0123456789"
