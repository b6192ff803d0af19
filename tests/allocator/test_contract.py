"""Each reason of the contract that the allocator gives, provoked over the wire: code, reason, and an untouched ledger."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from msgspec.structs import replace

from allocator.core.admission import HANDFUL, Shares
from allocator.core.asks import Refused
from allocator.core.candidates import NodeName
from allocator.core.claims import ClaimId, ClusterChange, ObservedPod, PodUid
from allocator.core.foreign import NodePort, ObservedService
from allocator.core.ports import Protocol
from allocator.journal.contract import JournalError
from allocator.leases.durability import NotStoredError
from allocator.watchers import MOST_UNREAD
from hostport.contract import DOMAIN, Code, Mistake, Reason, pages
from hostport.v1 import allocator_pb2 as pb
from testing.kit import PAIRS, claim_port, fill_with_pairs
from testing.servicekit import CALLERS, REPORTS, Running, Start, stream_unread

ROOT = Path(__file__).resolve().parents[2]


def pod(name: str = "web-0", ports: Sequence[pb.PortRequest] | None = None, **fields: Any) -> pb.AllocateRequest:
    return pb.AllocateRequest(
        owner=pb.Owner(kind="Pod", namespace="demo", name=name),
        ports=[pb.PortRequest(container="c", container_port=8080)] if ports is None else ports,
        **{"policy": pb.POLICY_DYNAMIC, **fields},
    )


def lease(**fields: Any) -> pb.AllocateRequest:
    return pb.AllocateRequest(
        **{
            "owner": pb.Owner(kind="Relay", name="r1"),
            "policy": pb.POLICY_DYNAMIC,
            "ports": [pb.PortRequest()],
            **fields,
        },
    )


def blocks(*counts: int, **fields: Any) -> list[pb.PortRequest]:
    """Names of one socket, each with a count."""
    return [
        pb.PortRequest(container="c", name=f"p{at}", container_port=80, count=n, **fields)
        for at, n in enumerate(counts)
    ]


def ports(*container_ports: int, host_port: int = 0) -> list[pb.PortRequest]:
    return [pb.PortRequest(container="c", container_port=number, host_port=host_port) for number in container_ports]


def index(**fields: Any) -> dict[str, Any]:
    return {"policy": pb.POLICY_INDEX, "index": 0, **fields}


def static(number: int) -> dict[str, Any]:
    return {"policy": pb.POLICY_STATIC, "ports": ports(80, host_port=number)}


def affinity(terms: int, expressions: int = 1, values: int = 1, length: int = 1) -> pb.NodeConstraints:
    required = pb.NodeRequirement(key="k", operator="In", values=["v" * length] * values)
    term = pb.NodeTerm(match_expressions=[required] * expressions)
    return pb.NodeConstraints(required_affinity=[term] * terms)


LABEL = "Give the nodes that are meant one label, and ask for that"
EXISTS = 'Use operator "Exists", which tolerates every value of a taint'

# Constraints that are one too many, and what is said.
TOO_COMPLEX = [
    ("terms", affinity(257), f"257 terms of required node affinity are more than 256. {LABEL}"),
    (
        "expressions",
        affinity(205, expressions=5),
        f"1,025 expressions in all terms of required node affinity are more than 1,024. {LABEL}",
    ),
    (
        "values",
        affinity(1, values=4097),
        f"4,097 values in all expressions of required node affinity are more than 4,096. {LABEL}",
    ),
    (
        "entries of the selector",
        pb.NodeConstraints(node_selector={f"k{at}": "v" for at in range(257)}),
        f"257 entries of a node selector are more than 256. {LABEL}",
    ),
    (
        "tolerations",
        pb.NodeConstraints(tolerations=[pb.Toleration(key=f"k{at}") for at in range(257)]),
        f"257 tolerations are more than 256. {EXISTS}",
    ),
    (
        "bytes",
        affinity(1, values=4000, length=40),
        f"168,015 bytes of node selector, required node affinity and tolerations are more than 131,072. {LABEL}",
    ),
]
# Requests that are wrong in themselves, one or more for each reason.
MISTAKES = [
    (Reason.INVALID_REQUEST, "no owner", pb.AllocateRequest(ports=ports(80))),
    (Reason.INVALID_REQUEST, "no namespace", pb.AllocateRequest(owner=pb.Owner(kind="Pod"), ports=ports(80))),
    (Reason.INVALID_REQUEST, "a long request_id", pod(request_id="x" * 129)),
    (Reason.INVALID_REQUEST, "a long namespace", lease(owner=pb.Owner(kind="Relay", namespace="x" * 254))),
    (Reason.INVALID_REQUEST, "a long allocation_id", pod(allocation_id="x" * 129)),
    (Reason.INVALID_REQUEST, "a long controller", pod(controller=pb.Controller(name="x" * 254))),
    (Reason.INVALID_REQUEST, "a long node", pod(constraints=pb.NodeConstraints(node_name="x" * 254))),
    (
        Reason.INVALID_REQUEST,
        "a long zone",
        pod(ports=[pb.PortRequest(container_port=1, host_ip="fe80::1%" + "x" * 99)]),
    ),
    (Reason.INVALID_REQUEST, "no such protocol", pod(ports=[pb.PortRequest(container_port=1, protocol=9)])),  # type: ignore[arg-type]
    (Reason.INVALID_REQUEST, "no address", pod(ports=[pb.PortRequest(container_port=1, host_ip="home")])),
    (Reason.NO_PORTS, "an empty port list", pod(ports=[])),
    (Reason.TOO_MANY_PORTS, "1,000 ports", pod(ports=ports(*range(1, 1001)))),
    (Reason.TOO_MANY_NUMBERS, "1,025 numbers in two blocks", pod(ports=blocks(1000, 25))),
    (Reason.BLOCK_INVALID, "a block of 1,025", pod(ports=blocks(1025))),
    (Reason.BLOCK_SIZES_DIFFER, "two sizes for one socket", pod(ports=blocks(100, 10))),
    (
        Reason.BLOCK_MISALIGNED,
        "even on an odd number",
        pod(policy=pb.POLICY_STATIC, ports=blocks(2, host_port=501, alignment=2)),
    ),
    (
        Reason.RANGE_TOO_SMALL,
        "a block of more than the range",
        pod(range=pb.PortRange(min=9000, max=9050), ports=blocks(100)),
    ),
    (
        Reason.INDEX_EXCEEDS_STRIDE,
        "blocks that meet the next group",
        pod(ports=[*blocks(60), *ports(2)], **index(index=2)),
    ),
    (
        Reason.NUMBER_BEYOND_RANGE,
        "a block beyond the last number",
        pod(policy=pb.POLICY_STATIC, ports=blocks(8, host_port=65530)),
    ),
    (
        Reason.PORT_RESERVED,
        "a block with a reserved number",
        pod(policy=pb.POLICY_STATIC, ports=blocks(8, host_port=6440)),
    ),
    *((Reason.TOO_COMPLEX, f"too many {case}", pod(constraints=constraints)) for case, constraints, _ in TOO_COMPLEX),
    (Reason.UNKNOWN_POLICY, "no such policy", pod(policy=9)),
    (Reason.UNKNOWN_VALUE, "no such when_full", pod(when_full=9)),
    (Reason.NUMBER_OUT_OF_RANGE, "a port beyond the last", pod(ports=ports(65536))),
    (Reason.NUMBER_OUT_OF_RANGE, "a range beyond the last", pod(range=pb.PortRange(max=65536))),
    (Reason.NUMBER_OUT_OF_RANGE, "no containerPort", pod(ports=ports(0))),
    (Reason.RANGE_INVERTED, "min above max", pod(range=pb.PortRange(min=9000, max=8000))),
    (Reason.NO_INDEX, "Index without an index", pod(policy=pb.POLICY_INDEX)),
    (Reason.INDEX_EXCEEDS_STRIDE, "two groups", pod(ports=ports(1, 2), **index(index=100))),
    (Reason.NUMBER_BEYOND_RANGE, "index beyond max", pod(**index(index=4_000_000_000))),
    (Reason.OWN_PORTS_COLLIDE, "one number twice", pod(policy=pb.POLICY_STATIC, ports=ports(1, 2, host_port=500))),
    (Reason.HOST_PORT_MISSING, "Static without a number", pod(policy=pb.POLICY_STATIC)),
    (Reason.CONTAINER_PORT_MISSING, "Passthrough of nothing", lease(policy=pb.POLICY_PASSTHROUGH)),
    (Reason.PORT_RESERVED, "Index on a reserved number", pod(**index(range=pb.PortRange(min=6443)))),
    (Reason.PORT_RESERVED, "a lease of a reserved number", lease(**static(6443))),
    (Reason.RANGE_RESERVED, "Dynamic over reserved ones", pod(range=pb.PortRange(min=22, max=22))),
    (Reason.RANGE_RESERVED, "Dynamic over what probes name", pod(range=pb.PortRange(min=8081, max=8081), avoid=[8081])),
    (Reason.INVALID_REQUEST, "too many numbers to avoid", pod(avoid=range(1, 514))),
    (Reason.NUMBER_OUT_OF_RANGE, "no number to avoid", pod(avoid=[0])),
    (Reason.INVALID_COOL_DOWN, "a negative cool-down", pod(cool_down={"seconds": -5})),
    (Reason.INVALID_COOL_DOWN, "a cool-down of two hours", pod(cool_down={"seconds": 7200})),
    (Reason.INVALID_TTL, "a negative ttl", lease(ttl={"seconds": -5})),
    (Reason.INVALID_TTL, "a ttl of nothing", lease(ttl={})),
    (Reason.INVALID_TTL, "a ttl of a year", lease(ttl={"seconds": 31_536_000})),
    (Reason.INVALID_TTL, "a ttl for a Pod", pod(ttl={"seconds": 60})),
]


async def refusal(call: Awaitable[Any]) -> tuple[Code, Reason, list[Reason]]:
    """Code, the ErrorInfo's reason and all the violations' reasons of a call that fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    status = rpc_status.from_call(cast("Any", caught.value))  # an AioRpcError is call enough
    assert status is not None
    assert status.message == caught.value.details()
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(bad)
    assert info.domain == DOMAIN
    return Code[caught.value.code().name], Reason[info.reason], [Reason[v.reason] for v in bad.field_violations]


def state(service: Running) -> object:
    return list(service.engine.ledger.claims), service.engine.ledger.nodes.port_map(NodeName("localhost"))


@pytest.mark.parametrize(("reason", "_case", "request_"), MISTAKES, ids=[f"{r.name}: {c}" for r, c, _ in MISTAKES])
async def test_a_request_that_is_wrong_is_refused_and_changes_nothing(
    service: Running, reason: Reason, _case: str, request_: pb.AllocateRequest
) -> None:
    await service.stub.Allocate(pod("holder"))
    before = state(service)

    assert await refusal(service.stub.Allocate(request_)) == (reason.code, reason, [reason])
    assert state(service) == before


@pytest.mark.parametrize(("_case", "constraints", "said"), TOO_COMPLEX, ids=[case for case, _, _ in TOO_COMPLEX])
async def test_what_is_too_complex_is_told_with_its_count_and_the_bound(
    service: Running, _case: str, constraints: pb.NodeConstraints, said: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.stub.Allocate(pod(constraints=constraints))

    assert caught.value.details() == said


async def test_the_largest_constraints_that_are_let_in_are_answered(service: Running) -> None:
    largest = affinity(256, expressions=4, values=4)
    largest.tolerations.extend(pb.Toleration(key=f"k{at}") for at in range(256))
    largest.node_selector.update({f"k{at}": "v" for at in range(256)})

    allocated = await service.stub.Allocate(pod(constraints=largest))

    assert len(allocated.allocation.ports) == 1


async def test_several_mistakes_are_reported_together(service: Running) -> None:
    request = pod(request_id="x" * 129, range=pb.PortRange(max=70000), stride=70000, ports=ports(0))

    _, reason, reasons = await refusal(service.stub.Allocate(request))

    assert reason is Reason.NUMBER_OUT_OF_RANGE
    assert sorted(r.name for r in reasons) == ["INVALID_REQUEST", *["NUMBER_OUT_OF_RANGE"] * 3]


async def test_hundreds_of_mistakes_still_fit_into_the_trailers(service: Running) -> None:
    _, reason, reasons = await refusal(service.stub.Allocate(pod(ports=ports(*[0] * 500))))

    assert reason is Reason.NUMBER_OUT_OF_RANGE
    assert len(reasons) > 10


# -- reasons that lie in the state of the world

Case = Callable[[Running], Awaitable[Any]]


async def port_conflict(service: Running) -> None:
    await service.stub.Allocate(pod("a", **static(500)))
    await service.stub.Allocate(pod("b", **static(500)))


async def held_by_lease(service: Running) -> None:
    await service.stub.Allocate(lease(policy=pb.POLICY_STATIC, ports=[pb.PortRequest(host_port=500)]))
    await service.stub.Allocate(pod("b", **static(500)))


async def held_by_service(service: Running) -> None:
    web = ObservedService(namespace="demo", name="web", ports=(NodePort(protocol=Protocol.TCP, number=500),))
    service.engine.maintenance.observe(ClusterChange(services=[web]))
    await service.stub.Allocate(pod("b", **static(500)))


async def range_exhausted(service: Running) -> None:
    for name in ("a", "b"):
        await service.stub.Allocate(pod(name, range=pb.PortRange(min=7000, max=7000)))


async def request_id_reused(service: Running) -> None:
    await service.stub.Allocate(pod("a", request_id="r1"))
    await service.stub.Allocate(pod("b", request_id="r1"))


async def unconfirmed_backlog(service: Running) -> None:
    request = pod("")
    request.owner.generate_name, request.owner.controller_uid = "web-", "rs"
    service.engine.maintenance.observe(ClusterChange(lists_pods=True))
    for _ in range(3):
        await service.stub.Allocate(request)
    service.now += 5
    service.engine.maintenance.proven(service.now)
    await service.stub.Allocate(request)


async def namespace_backlog(service: Running) -> None:
    service.engine.maintenance.observe(ClusterChange(lists_pods=True))
    service.engine.maintenance.observe(ClusterChange(enforced={"demo": "restricted"}, lists_pods=False))
    for number in range(HANDFUL.reservations + 1):
        await service.stub.Allocate(pod(f"web-{number}"))


async def too_many_leases(service: Running) -> None:
    for _ in range(Shares().leases // 500 + 1):
        await service.stub.Allocate(lease(ports=[pb.PortRequest()] * 500, range=pb.PortRange(min=10_000, max=60_000)))


async def not_a_lease(service: Running) -> None:
    claim = (await service.stub.Allocate(pod())).allocation
    await service.stub.Renew(pb.RenewRequest(id=claim.id))


async def held_by_pod(service: Running) -> None:
    claim = (await service.stub.Allocate(pod())).allocation
    stored = ObservedPod(
        uid=PodUid("u1"), namespace="demo", name="web-0", ports=(claim_port("x:7000"),), carried_id=claim.id
    )
    service.engine.maintenance.observe(ClusterChange(pods=[stored], lists_pods=True))
    await service.stub.Release(pb.ReleaseRequest(id=claim.id))


async def not_serving(service: Running) -> None:
    service.engine.is_serving = False
    await service.stub.Allocate(pod())


class Blind:
    """A watch that is old and cannot be asked."""

    async def look(self, pods: object, asker: str) -> bool:
        return False

    def lag(self) -> float:
        return 60.0

    def relists(self) -> int:
        return 0

    def unseen(self) -> list[str]:
        return []


async def view_stale(service: Running) -> None:
    service.engine.around.watch = cast("Any", Blind())
    held = ObservedPod(
        uid=PodUid("u1"), namespace="x", name="holder", ports=(claim_port("x:500"),), node=NodeName("localhost")
    )
    service.engine.maintenance.observe(ClusterChange(pods=[held], lists_pods=True))
    await service.stub.Allocate(pod("b", **static(500)))


async def search_incomplete(service: Running) -> None:
    fill_with_pairs(service.engine.ledger, service.now)
    one, other = PAIRS[0]
    two = [*ports(80, host_port=one), *ports(81, host_port=other)]
    await service.stub.Allocate(pod(policy=pb.POLICY_STATIC, ports=two))


def fail_commits(service: Running, error: Exception) -> None:
    def failed(*_: object) -> asyncio.Future[bool]:
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        future.set_exception(error)
        return future

    for verb in ("grant", "renew", "end", "record"):
        setattr(service.journal, verb, failed)


def refused(mistake: Mistake) -> JournalError:
    """What a journal says where the caller is wrong."""
    error = JournalError(mistake.message)
    error.refusal = Refused(mistake)
    return error


async def journal_unavailable(service: Running) -> None:
    fail_commits(service, JournalError("database or disk is full"))
    await service.stub.Allocate(pod())


async def lease_not_stored(service: Running) -> None:
    fail_commits(service, NotStoredError("PortLease default/r1-0: 403 Forbidden"))
    await service.stub.Allocate(lease())


async def namespace_not_found(service: Running) -> None:
    fail_commits(service, refused(Mistake(Reason.NAMESPACE_NOT_FOUND, "owner.namespace", "there is none")))
    await service.stub.Allocate(lease())


async def lease_quota(service: Running) -> None:
    fail_commits(service, refused(Mistake(Reason.LEASE_QUOTA, "owner.namespace", "it is full")))
    await service.stub.Allocate(lease())


async def lease_forbidden(service: Running) -> None:
    fail_commits(service, refused(Mistake(Reason.LEASE_FORBIDDEN, "owner.namespace", "a policy says no")))
    await service.stub.Allocate(lease())


async def repeated_after_its_end(service: Running) -> None:
    claim = (await service.stub.Allocate(lease(request_id="q1"))).allocation
    await service.stub.Release(pb.ReleaseRequest(id=claim.id))
    await service.stub.Allocate(lease(request_id="q1"))


async def watch_behind(service: Running) -> None:
    watch = service.stub.WatchAllocations(pb.WatchAllocationsRequest())
    await watch.read()  # SYNCED: from here on changes gather
    claim = (await service.stub.Allocate(pod())).allocation
    held = service.engine.ledger.claims.get(ClaimId(claim.id))
    assert held is not None
    assert service.engine.ledger.listener is not None
    for number in range(MOST_UNREAD + 1):
        service.engine.ledger.listener(replace(held, id=ClaimId(f"{number:032x}")), False)
    while await watch.read():
        pass


STATES: dict[Reason, list[Case]] = {
    Reason.PORT_CONFLICT: [port_conflict],
    Reason.HELD_BY_LEASE: [held_by_lease],
    Reason.HELD_BY_SERVICE: [held_by_service],
    Reason.RANGE_EXHAUSTED: [range_exhausted],
    Reason.REQUEST_ID_REUSED: [request_id_reused],
    Reason.UNCONFIRMED_BACKLOG: [unconfirmed_backlog],
    Reason.NAMESPACE_BACKLOG: [namespace_backlog],
    Reason.TOO_MANY_LEASES: [too_many_leases],
    Reason.NOT_A_LEASE: [not_a_lease],
    Reason.HELD_BY_POD: [held_by_pod],
    Reason.NOT_SERVING: [not_serving],
    Reason.VIEW_STALE: [view_stale],
    Reason.SEARCH_INCOMPLETE: [search_incomplete],
    Reason.JOURNAL_UNAVAILABLE: [journal_unavailable],
    Reason.LEASE_NOT_STORED: [lease_not_stored],
    Reason.NAMESPACE_NOT_FOUND: [namespace_not_found],
    Reason.LEASE_QUOTA: [lease_quota],
    Reason.LEASE_FORBIDDEN: [lease_forbidden],
    Reason.ALLOCATION_NOT_FOUND: [
        repeated_after_its_end,
        lambda service: service.stub.Renew(pb.RenewRequest(id="f" * 32)),
        lambda service: service.stub.GetAllocation(pb.GetAllocationRequest(id="garbage")),
    ],
    Reason.NODE_NOT_FOUND: [lambda service: service.stub.GetNode(pb.GetNodeRequest(name="ghost"))],
    Reason.INVALID_PAGE: [
        lambda service: service.stub.ListAllocations(pb.ListAllocationsRequest(page_token="garbage")),
        lambda service: service.stub.ListNodes(pb.ListNodesRequest(page_token="\u00e9")),
        lambda service: service.stub.ListNodes(pb.ListNodesRequest(page_size=-1)),
    ],
    Reason.INVALID_REQUEST: [lambda service: service.stub.Release(pb.ReleaseRequest())],
    **{reason: [case] for reason, case in REPORTS.items()},
    Reason.WATCH_BEHIND: [watch_behind],
    Reason.STREAM_UNREAD: [stream_unread],
    Reason.NUMBER_OUT_OF_RANGE: [
        lambda service: service.stub.ExplainPort(pb.ExplainPortRequest(node="localhost")),
    ],
}


@pytest.mark.parametrize(
    ("reason", "case"), [pytest.param(r, c, id=f"{r.name} {n}") for r, cs in STATES.items() for n, c in enumerate(cs)]
)
async def test_a_request_that_cannot_be_granted_says_why(service: Running, reason: Reason, case: Case) -> None:
    assert await refusal(case(service)) == (reason.code, reason, [reason])


async def test_what_nobody_waits_for_is_dropped_before_its_commit(start: Start) -> None:
    service = await start(durable=True)
    journal = service.journal
    grant = journal.grant
    unwanted = lambda claim, answer, _: grant(claim, answer, lambda: False)  # noqa: E731
    setattr(journal, "grant", unwanted)  # noqa: B010 - mypy minds the assignment

    reason = Reason.DEADLINE_PASSED
    assert await refusal(service.stub.Allocate(pod())) == (reason.code, reason, [reason])
    assert list(service.engine.ledger.claims) == []


@pytest.mark.parametrize("reason", CALLERS, ids=lambda reason: reason.name)
async def test_a_caller_that_is_not_let_in_is_told_why(start: Start, reason: Reason) -> None:
    service = await start(guard=CALLERS[reason]())
    metadata = (("authorization", "Bearer token"),)

    for call in (
        service.stub.Allocate(lease(), metadata=metadata),
        service.stub.ListNodes(pb.ListNodesRequest(), metadata=metadata),
    ):
        assert await refusal(call) == (reason.code, reason, [reason])
    assert list(service.engine.ledger.claims) == []


def test_every_reason_of_the_allocator_has_a_row_here() -> None:
    of_the_shim = {
        Reason.ENABLED_VALUE,
        Reason.NOT_A_NUMBER,
        Reason.HOST_NETWORK_FORBIDDEN,
        Reason.NETWORK_MISMATCH,
        Reason.PUBLISH_INVALID,
        Reason.ALLOCATOR_UNREACHABLE,
        Reason.TLS_FAILED,
        Reason.TOO_MANY_REQUESTS,
    }
    provoked = {reason for reason, *_ in MISTAKES} | STATES.keys() | CALLERS.keys() | {Reason.DEADLINE_PASSED}

    assert provoked | of_the_shim == set(Reason)
    assert not provoked & of_the_shim


def test_the_contract_document_is_rendered_from_the_code() -> None:
    assert pages.main(["--check"]) == 0


def test_the_generated_stubs_are_fresh() -> None:
    subprocess.run([sys.executable, ROOT / "proto" / "generate.py", "--check"], check=True)
