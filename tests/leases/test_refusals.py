"""What callers are told when the API server does not take a PortLease, status by status."""

from __future__ import annotations

import pytest

from allocator.cluster.client import ApiError
from allocator.core.asks import NotServedError, Refused
from allocator.leases.api import may_pass, refusal_of, trouble_of
from hostport.contract import Reason
from leases.conftest import World
from leases.stack import NODE, Allocator, shown
from testing.apiserver import Fail, Lost
from testing.kit import on
from testing.waiting import until

IT = 'portleases.hostport.io "r1-0123456789"'
QUOTA = f"{IT} is forbidden: exceeded quota: leases, requested: count/portleases.hostport.io=1, used: 1, limited: 1"
RIGHTS = 'portleases.hostport.io is forbidden: User "system:serviceaccount:a:b" cannot create resource "portleases"'
KIND = "the server could not find the requested resource"
WEBHOOK = 'admission webhook "leases.example.com" denied the request: no lease here'
POLICY = f'{IT} is forbidden: ValidatingAdmissionPolicy "p" with binding "b" denied request: no lease here'
SCHEMA = f'PortLease "r1" is invalid: {IT}: spec.owner.name: Too long: may not be more than 253 bytes'
GOING = f"{IT} is forbidden: unable to create new content in namespace lessee because it is being terminated"

OURS = Reason.LEASE_NOT_STORED
ROWS: dict[str, tuple[int, str, Reason, str]] = {
    "400, for no known reason": (400, "the object is garbled", OURS, "garbled"),
    "400 of a webhook": (400, WEBHOOK, Reason.LEASE_FORBIDDEN, "no lease here"),
    "401": (401, "Unauthorized", OURS, "does not accept the allocator's token"),
    "403 of RBAC": (403, RIGHTS, OURS, "apply its ClusterRole anew"),
    "403 of a quota": (403, QUOTA, Reason.LEASE_QUOTA, "raise the quota"),
    "403 of a namespace that goes": (403, GOING, Reason.NAMESPACE_NOT_FOUND, "does not exist, or is being deleted"),
    "403 of a webhook": (403, WEBHOOK, Reason.LEASE_FORBIDDEN, "no lease here"),
    "403 of a policy": (403, POLICY, Reason.LEASE_FORBIDDEN, "no lease here"),
    "403 of a plugin": (403, f"{IT} is forbidden: not on a Sunday", Reason.LEASE_FORBIDDEN, "not on a Sunday"),
    "403 of a proxy": (403, "blocked", OURS, "apply its ClusterRole anew"),
    "404 of the namespace": (404, 'namespaces "lessee" not found', Reason.NAMESPACE_NOT_FOUND, "Create it"),
    "404 of an object that has such a name": (404, "PortLease namespace-a/r1 was deleted", OURS, "was deleted"),
    "404 of the kind": (404, KIND, OURS, "apply the CustomResourceDefinition"),
    "405": (405, "Method Not Allowed", OURS, "405"),
    "410": (410, "Gone", OURS, "410"),
    "413": (413, "Request entity too large", Reason.LEASE_FORBIDDEN, "too large"),
    "415": (415, "Unsupported Media Type", OURS, "415"),
    "422 of the schema": (422, SCHEMA, Reason.LEASE_FORBIDDEN, "spec.owner.name: Too long"),
    "422 of a policy": (422, POLICY, Reason.LEASE_FORBIDDEN, "no lease here"),
}
PASSING = {
    "408": (408, "timeout"),
    "429": (429, "slow down"),
    "403 of a quota that is new": (
        403,
        f"{IT} is forbidden: status unknown for quota: leases, resources: count/portleases",
    ),
    "500": (500, "etcdserver: leader changed"),
    "503": (503, "not yet"),
}


async def trouble(one: Allocator) -> tuple[str, str]:
    """Why a lease is not granted, and in which words."""
    try:
        await one.lease("q1", constraints=on(NODE))
    except Refused as refused:
        return refused.mistakes[0].reason, str(refused)
    except NotServedError as error:
        return error.reason, str(error)
    raise AssertionError("it was granted")


@pytest.mark.parametrize(("status", "message", "reason", "words"), ROWS.values(), ids=ROWS.keys())
async def test_a_creation_that_is_turned_down_says_whose_fault_it_is(
    world: World, status: int, message: str, reason: Reason, words: str
) -> None:
    one = await world.allocator()
    # The client itself asks again once after a 401, with a fresh token.
    world.server.script("create portleases", *[Fail(status, message)] * (2 if status == 401 else 1))

    told, text = await trouble(one)

    assert (told, words in text) == (reason, True), text
    await until(lambda: one.taken == set())
    assert (world.server.all("portleases"), one.inner.load().claims) == ([], ())
    assert (await one.lease("q1", constraints=on(NODE))).node == NODE, "nobody was told an answer"


@pytest.mark.parametrize(("status", "message"), PASSING.values(), ids=PASSING.keys())
async def test_what_may_pass_is_asked_again(world: World, status: int, message: str) -> None:
    error = ApiError(status, "", message)
    one = await world.allocator()
    world.server.script("create portleases", Fail(status, message, retry_after=0.01))

    await one.lease("q1")

    assert (may_pass(error), refusal_of(error, "lessee"), len(shown(world.server))) == (True, None, 1)


async def test_a_status_that_is_turned_down_is_a_refusal_and_holds_its_number_until_it_is_undone(world: World) -> None:
    one = await world.allocator()
    world.server.script("patch portleases", Fail(422, SCHEMA))
    world.server.script("delete portleases", *[Fail(500)] * 2)

    with pytest.raises(Refused, match="Too long"):
        await one.lease("q1")

    assert one.taken != set()
    await until(lambda: one.taken == set())
    assert world.server.all("portleases") == []


async def test_a_quota_that_counts_our_own_object_is_no_refusal(world: World) -> None:
    """The answer to the creation is lost; the second attempt meets a quota that the first one has used up."""
    one = await world.allocator()
    world.server.script("create portleases", Lost(), Fail(403, QUOTA))

    claim = await one.lease("q1")

    assert [obj["spec"]["allocationID"] for obj in shown(world.server)] == [claim.id]


async def test_a_renewal_that_is_turned_down_is_refused_and_the_lease_keeps_its_end(world: World) -> None:
    one = await world.allocator()
    claim = await one.lease("q1")
    world.server.script("patch portleases", Fail(422, POLICY))

    with pytest.raises(Refused, match="no lease here"):
        await one.engine.renew(claim.id, 7200.0)

    assert one.engine.ledger.claims.get(claim.id) == claim


def test_the_words_of_the_api_server_are_shown_up_to_a_bound() -> None:
    error = ApiError(422, "Invalid", "x" * 10_000)
    mistake = refusal_of(error, "lessee")

    assert mistake is not None
    assert (len(mistake.message) < 500, len(trouble_of(error)) < 500) == (True, True)
