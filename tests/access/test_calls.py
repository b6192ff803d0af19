"""Who may call what, over real TLS: every call, every kind of caller."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import grpc
import pytest
import trustme

from access.reviewing import ReviewServer, account
from access.secured import HOME, SHIM, Secured, Stub, lease, outcome, outcome_of_stream, pod
from allocator.core.claims import Claim
from hostport.v1 import allocator_pb2 as pb

MEDIA, OTHER = account("media", "relay"), account("other", "relay")
ALL = "create delete get list"
SERVICE = pb.DESCRIPTOR.services_by_name["AllocatorService"]


def report() -> pb.ReportWarningsRequest:
    made_by = pb.Controller(api_version="apps/v1", kind="ReplicaSet", name="web-5d4f")
    warning = pb.Warning(reason="PORT_MOVED", message="port 80 moved")
    return pb.ReportWarningsRequest(namespace="demo", controller=made_by, controller_uid="rs-1", warnings=[warning])


def requests(claim_id: str = "0" * 32) -> dict[str, Any]:
    """One for each call."""
    return {
        "Allocate": lease(),
        "AllocateStream": pb.AllocateStreamRequest(asks=[pb.AllocateStreamRequest.Ask(request=lease("r2"))]),
        "Release": pb.ReleaseRequest(id=claim_id),
        "Renew": pb.RenewRequest(id=claim_id),
        "GetAllocation": pb.GetAllocationRequest(id=claim_id),
        "ListAllocations": pb.ListAllocationsRequest(),
        "WatchAllocations": pb.WatchAllocationsRequest(),
        "ListNodes": pb.ListNodesRequest(),
        "GetNode": pb.GetNodeRequest(name="localhost"),
        "ExplainPort": pb.ExplainPortRequest(node="localhost", host_port=7000),
        "ReportWarnings": report(),
        "ReportNode": pb.ReportNodeRequest(node="localhost", snapshot=True),
        "GetNodeAddress": pb.GetNodeAddressRequest(node="localhost"),
        "GetStatus": pb.GetStatusRequest(),
    }


STREAMS = ("AllocateStream", "ReportNode")


async def outcomes(stub: Stub, claim_id: str = "0" * 32) -> dict[str, str]:
    """What comes of each call."""
    return {
        method: await outcome_of_stream(partial(stub, method, request))
        if method in STREAMS
        else await outcome(stub(method, request))
        for method, request in requests(claim_id).items()
    }


def test_every_call_of_the_service_is_tried_here() -> None:
    assert set(requests()) == set(SERVICE.methods_by_name)


def claims(secured: Secured) -> list[Claim]:
    return list(secured.ledger.claims)


# -- who is nobody


async def test_without_a_certificate_there_is_no_connection(secured: Secured) -> None:
    assert set((await outcomes(await secured.without_certificate())).values()) == {"UNAVAILABLE"}


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"ca": trustme.CA()}, id="of another authority"),
        pytest.param({"not_after": datetime.now(UTC) - timedelta(minutes=1)}, id="that has ended"),
    ],
)
async def test_a_certificate_that_is_not_good_makes_no_connection(secured: Secured, how: dict[str, Any]) -> None:
    assert set((await outcomes(await secured.certified(SHIM, **how))).values()) == {"UNAVAILABLE"}


async def test_a_certificate_that_ends_is_refused_on_the_connection_that_stands(secured: Secured) -> None:
    shim = await secured.certified(SHIM, not_after=datetime.now(UTC) + timedelta(hours=1))
    assert await outcome(shim("Allocate", pod("a"))) == "OK"

    secured.clock.now += 3660  # well beyond: the certificate counts whole seconds, from a moment after the clock stood
    assert await outcome(shim("Allocate", pod("b"))) == "UNAUTHENTICATED"


async def test_a_certificate_without_a_name_is_nobodys(secured: Secured) -> None:
    assert set((await outcomes(await secured.certified(None))).values()) == {"UNAUTHENTICATED"}


@pytest.mark.parametrize(
    ("token", "scheme"),
    [("", ""), ("unknown", "Bearer"), ("for-vault", "Bearer"), ("good", "Basic"), ("x" * 9000, "Bearer")],
    ids=["none", "unknown", "another audience", "another scheme", "too long"],
)
async def test_without_a_token_that_is_accepted_nothing_is_done(secured: Secured, token: str, scheme: str) -> None:
    secured.server.add("for-vault", MEDIA, "vault")
    secured.server.add("good", MEDIA)
    secured.server.grant(MEDIA, ALL, "")
    stub = await secured.bearing(token, scheme=scheme)

    answers = set((await outcomes(stub)).values())

    assert answers <= {"UNAUTHENTICATED", "RESOURCE_EXHAUSTED"}  # the second: gRPC's own bound for metadata
    assert claims(secured) == []
    assert not any(spec["token"] == "x" * 9000 for spec in secured.server.specs("TokenReview"))


async def test_a_token_does_not_make_a_shim(secured: Secured) -> None:
    secured.server.add("t", SHIM)

    assert await outcome((await secured.bearing("t"))("Allocate", pod())) == "PERMISSION_DENIED"


# -- shims


async def test_a_shim_allocates_for_pods_and_does_nothing_else(secured: Secured) -> None:
    secured.server.grant(SHIM, ALL, "")
    shim = await secured.certified(SHIM)

    granted = (await shim("Allocate", pod())).allocation

    answers = await outcomes(shim, granted.id)
    assert answers == dict.fromkeys(requests(), "PERMISSION_DENIED") | {
        "ReportWarnings": "OK",
        "GetNodeAddress": "NODE_NOT_FOUND",
    }
    assert secured.server.asked == [], "the API server is not asked about shims"
    assert [claim.id for claim in claims(secured)] == [granted.id]


async def test_nobody_but_a_shim_allocates_for_a_pod(secured: Secured) -> None:
    secured.server.add("t", MEDIA)
    secured.server.grant(MEDIA, ALL, "")
    secured.server.grant("carol", ALL, "")

    for stub in (await secured.bearing("t"), await secured.certified("carol")):
        for request in (pod(), pod(dry_run=True)):
            assert await outcome(stub("Allocate", request)) == "PERMISSION_DENIED"
    assert claims(secured) == []


# -- users


async def relay(secured: Secured, verbs: str = ALL, *namespaces: str) -> Stub:
    """A ServiceAccount of the namespace media, with rights there unless other namespaces are named."""
    secured.server.add("media", MEDIA)
    secured.server.grant(MEDIA, verbs, *(namespaces or ("media",)))
    return await secured.bearing("media")


async def test_the_right_everywhere_opens_every_call(secured: Secured) -> None:
    stub = await relay(secured, ALL, "")
    granted = (await stub("Allocate", lease())).allocation

    answers = await outcomes(stub, granted.id)

    assert answers == dict.fromkeys(requests(), "OK") | {
        "AllocateStream": "PERMISSION_DENIED",  # for shims
        "ReportWarnings": "PERMISSION_DENIED",  # likewise
        "GetNodeAddress": "PERMISSION_DENIED",  # likewise
        "ReportNode": "PERMISSION_DENIED",  # for agents
        "Renew": "ALLOCATION_NOT_FOUND",
        "GetAllocation": "ALLOCATION_NOT_FOUND",
    }


async def test_a_client_certificate_is_a_user_with_groups(secured: Secured) -> None:
    secured.server.grant("carol", ALL, "media")
    stub = await secured.certified("carol", organization_name="media-team")

    assert await outcome(stub("Allocate", lease(namespace="media"))) == "OK"
    assert await outcome(stub("Allocate", lease(namespace="other"))) == "PERMISSION_DENIED"
    first, second = secured.server.specs("SubjectAccessReview")
    assert first == {
        "user": "carol",
        "uid": "",
        "groups": ["media-team", "system:authenticated"],
        "extra": {},
        "resourceAttributes": {
            "verb": "create", "group": "hostport.io", "resource": "portleases", "namespace": "media",
        },
    }  # fmt: skip
    assert second["resourceAttributes"]["namespace"] == "other"


async def test_a_certificate_is_believed_before_a_token(secured: Secured) -> None:
    secured.server.add("t", MEDIA)
    secured.server.grant(MEDIA, ALL, "")
    stub = await secured.certified("carol")
    stub.metadata = (("authorization", "Bearer t"),)

    assert await outcome(stub("ListNodes", pb.ListNodesRequest())) == "PERMISSION_DENIED"


@pytest.mark.parametrize(
    ("caller", "asked", "namespace"),
    [(MEDIA, "", "media"), (MEDIA, "other", "other"), ("carol", "", HOME), ("carol", "other", "other")],
    ids=["the ServiceAccount's own", "the one that is asked for", "the operator's", "a user asks for one"],
)
async def test_a_lease_has_a_namespace(secured: Secured, caller: str, asked: str, namespace: str) -> None:
    secured.server.add("t", caller)
    secured.server.grant(caller, "create", namespace)

    granted = (await (await secured.bearing("t"))("Allocate", lease(namespace=asked))).allocation

    assert granted.owner.namespace == namespace
    assert [claim.owner.namespace for claim in claims(secured)] == [namespace]


async def test_a_service_account_without_the_right_takes_nothing(secured: Secured) -> None:
    stub = await relay(secured, "get list")

    assert await outcome(stub("Allocate", lease())) == "PERMISSION_DENIED"
    assert claims(secured) == []


async def test_rights_in_a_namespace_show_and_end_what_is_there(secured: Secured) -> None:
    stub = await relay(secured)
    granted = (await stub("Allocate", lease())).allocation

    assert (await stub("GetAllocation", pb.GetAllocationRequest(id=granted.id))).allocation == granted
    assert [
        a.id for a in (await stub("ListAllocations", pb.ListAllocationsRequest(namespace="media"))).allocations
    ] == [granted.id]
    assert await outcome(stub("WatchAllocations", pb.WatchAllocationsRequest(namespace="media"))) == "OK"
    assert await outcome(stub("Renew", pb.RenewRequest(id=granted.id))) == "OK"
    for method, request in requests().items():
        if method in {"ListAllocations", "WatchAllocations", "ListNodes", "GetNode", "ExplainPort", "GetStatus"}:
            assert await outcome(stub(method, request)) == "PERMISSION_DENIED", f"{method} shows all namespaces"
    assert await outcome(stub("Release", pb.ReleaseRequest(id=granted.id))) == "OK"
    assert claims(secured) == []


async def test_anothers_lease_cannot_be_released_and_what_is_gone_can_by_anybody(secured: Secured) -> None:
    secured.server.add("other", OTHER)
    secured.server.grant(OTHER, ALL, "other")
    theirs = (await (await secured.bearing("other"))("Allocate", lease())).allocation
    stub = await relay(secured)

    assert await outcome(stub("Release", pb.ReleaseRequest(id=theirs.id))) == "ALLOCATION_NOT_FOUND"
    assert [claim.id for claim in claims(secured)] == [theirs.id]
    assert await outcome(stub("Release", pb.ReleaseRequest(id="0" * 32))) == "OK"


@pytest.mark.parametrize("method", ["Renew", "GetAllocation"])
async def test_anothers_lease_is_answered_like_one_that_never_was(secured: Secured, method: str) -> None:
    secured.server.add("other", OTHER)
    secured.server.grant(OTHER, ALL, "other")
    theirs = (await (await secured.bearing("other"))("Allocate", lease())).allocation
    stub = await relay(secured)

    answers = []
    for claim_id in (theirs.id, "0" * 32):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub(method, requests(claim_id)[method])
        answers.append((caught.value.code().name, (caught.value.details() or "").replace(claim_id, "ID")))

    assert answers == [("NOT_FOUND", "no allocation ID: it ended, never was, or is not yours")] * 2
    assert [claim.id for claim in claims(secured)] == [theirs.id]


@pytest.mark.parametrize(("method", "verb"), [("Release", "delete"), ("Renew", "create")])
async def test_who_may_look_and_not_touch_is_told_so(secured: Secured, method: str, verb: str) -> None:
    secured.server.add("other", OTHER)
    secured.server.grant(OTHER, ALL, "other")
    theirs = (await (await secured.bearing("other"))("Allocate", lease())).allocation
    stub = await relay(secured, "get list", "other")

    with pytest.raises(grpc.aio.AioRpcError, match=f"may not {verb} portleases.hostport.io in namespace other"):
        await stub(method, requests(theirs.id)[method])
    assert [claim.id for claim in claims(secured)] == [theirs.id]


async def test_a_pods_reservation_is_ended_only_by_who_may_end_leases_everywhere(secured: Secured) -> None:
    shim = await secured.certified(SHIM)
    reserved = (await shim("Allocate", pod())).allocation
    stub = await relay(secured, ALL, "demo")
    assert await outcome(stub("GetAllocation", pb.GetAllocationRequest(id=reserved.id))) == "OK"
    assert await outcome(stub("Release", pb.ReleaseRequest(id=reserved.id))) == "PERMISSION_DENIED"

    secured.server.grant("admin", "delete", "")
    admin = await secured.certified("admin")
    assert await outcome(admin("Release", pb.ReleaseRequest(id=reserved.id))) == "OK"


async def test_a_request_id_of_one_caller_is_no_answer_to_another(secured: Secured) -> None:
    """Both may lease in one namespace, and ask the same: each gets a lease of its own, a repetition the first answer."""
    secured.server.add("other", OTHER)
    secured.server.grant(OTHER, "create", "media")
    mine, theirs = await relay(secured), await secured.bearing("other")
    request = lease(namespace="media", request_id="r1")

    first = await mine("Allocate", request)
    assert await mine("Allocate", request) == first
    assert (await theirs("Allocate", request)).allocation.id != first.allocation.id


async def test_a_denied_caller_writes_no_event(secured: Secured) -> None:
    request = pod(controller=pb.Controller(api_version="apps/v1", kind="ReplicaSet", name="web"))
    request.owner.controller_uid = "rs"
    for stub in (await relay(secured, ALL, ""), await secured.bearing("unknown")):
        await outcome(stub("Allocate", request))

    assert secured.running.events == []


# -- the API server


async def test_answers_about_callers_are_kept_for_ten_seconds(secured: Secured) -> None:
    stub = await relay(secured)
    for _ in range(5):
        assert await outcome(stub("Allocate", lease())) == "OK"
    assert len(secured.server.asked) == 2  # one about the token, one about the right

    secured.server.grants.clear()
    secured.clock.now += 10
    assert await outcome(stub("Allocate", lease())) == "PERMISSION_DENIED"
    secured.server.tokens.clear()
    secured.clock.now += 10
    assert await outcome(stub("Allocate", lease())) == "UNAUTHENTICATED"


BROKEN: dict[str, tuple[int, Any]] = {
    "an error": (500, None),
    "no JSON object": (201, []),
    "no status": (201, {}),
    "a 403": (403, None),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
async def test_without_an_answer_nothing_is_open(secured: Secured, broken: tuple[int, Any]) -> None:
    stub, user = await relay(secured, ALL, ""), await secured.certified("carol")
    secured.server.status, secured.server.body = broken

    for each in (stub, user):
        answers = await outcomes(each)
        for method in ("AllocateStream", "ReportWarnings", "ReportNode", "GetNodeAddress"):
            assert answers.pop(method) in {"ACCESS_UNKNOWN", "PERMISSION_DENIED"}, "a certificate needs no review"
        assert answers.pop("Release") in {"ACCESS_UNKNOWN", "OK"}, "to end what is gone takes no right, but a name"
        assert set(answers.values()) == {"ACCESS_UNKNOWN"}
    assert claims(secured) == []
    assert await outcome((await secured.certified(SHIM))("Allocate", pod())) == "OK", "shims need no review"


async def test_an_api_server_that_is_gone_opens_nothing(secured: Secured, server: ReviewServer) -> None:
    stub = await relay(secured, ALL, "")
    await server.stop()

    assert await outcome(stub("Allocate", lease())) == "ACCESS_UNKNOWN"


@pytest.mark.parametrize(("breaks", "expected"), [(1, "OK"), (2, "ACCESS_UNKNOWN")], ids=["once", "twice"])
async def test_a_review_whose_connection_breaks_off_is_asked_for_once_more(
    secured: Secured, breaks: int, expected: str
) -> None:
    """A connection that was kept open may be gone, and nobody knows until it is used: a node was rebooted."""
    stub = await relay(secured, ALL, "")
    secured.server.breaks = breaks

    assert await outcome(stub("Allocate", lease())) == expected


async def test_an_api_server_that_hangs_is_waited_for_and_not_for_ever(
    secured: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("allocator.access.reviews.PATIENCE_SECONDS", 0.1)
    stub = await relay(secured, ALL, "")
    secured.server.open.clear()

    assert await outcome(stub("Allocate", lease())) == "ACCESS_UNKNOWN"
    secured.server.open.set()


async def test_a_flood_of_strange_tokens_is_bounded_and_shims_are_served(secured: Secured) -> None:
    secured.server.open.clear()
    stubs = [await secured.bearing(f"t{n}") for n in range(300)]
    flood = [asyncio.ensure_future(outcome(stub("Allocate", lease()))) for stub in stubs]
    shim = await secured.certified(SHIM)
    assert await outcome(shim("Allocate", pod())) == "OK"
    async with asyncio.timeout(20):
        while sum(task.done() for task in flood) < 300 - 256:
            await asyncio.sleep(0.01)

    assert {task.result() for task in flood if task.done()} == {"ACCESS_UNKNOWN"}
    assert len(secured.server.asked) == 16
    secured.server.open.set()
    assert set(await asyncio.gather(*flood)) - {"ACCESS_UNKNOWN"} == {"UNAUTHENTICATED"}
