"""Every reason has one word: kubectl, both programs' metrics, both logs and the page of docs/troubleshooting.md say it.

Each is provoked as it happens to people: a review over HTTP to a real shim, which asks a real allocator over gRPC; what no
admission can meet is asked over gRPC alone. The page quotes what is then said, and the quotation is held against it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from msgspec.structs import replace
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from tornado.httpclient import AsyncHTTPClient

from allocator.certificates.issuing import CertificateSubject, issue, new_authority, pem
from allocator.certificates.serving import BuiltInCertificate
from allocator.cluster.client import ApiError
from allocator.core.admission import HANDFUL, Shares
from allocator.core.asks import Refused
from allocator.core.candidates import NodeName
from allocator.core.claims import ClaimId, ClusterChange, ObservedPod, PodUid
from allocator.core.foreign import NodePort, ObservedService
from allocator.core.ports import Protocol
from allocator.journal.contract import JournalError
from allocator.leases.api import no_namespace, refusal_of
from allocator.leases.durability import NotStoredError
from allocator.watchers import MOST_UNREAD
from hostport.contract import Mistake, Notice, Reason
from hostport.credentials import Credentials
from hostport.flags import Address
from hostport.logs import JsonFormatter
from hostport.v1 import allocator_pb2 as pb
from shim.runtime import Shim, ShimOptions
from testing.kit import PAIRS, claim_port, fill_with_pairs
from testing.servicekit import CALLERS, REPORTS, Running, Start, stream_unread

ROOT = Path(__file__).resolve().parents[1]
ANYWHERE = Address("127.0.0.1", 0)
ALLOCATOR = CertificateSubject(name="hostport-allocator", alternatives=("127.0.0.1",))
Json = dict[str, Any]


@dataclass(slots=True)
class World:
    """A shim, an allocator, and what they wrote."""

    service: Running
    shim: Shim
    records: list[logging.LogRecord] = field(default_factory=list)

    async def admit(self, pod: Json, *, uid: str = "u-1", patience: str = "20s") -> str:
        """What kubectl shows of the answer; empty where the Pod is admitted.

        The answer comes as soon as there is one: `patience` matters where there is none before it is over.
        """
        answer = await AsyncHTTPClient(force_instance=True).fetch(
            f"{self.shim.url}/mutate?timeout={patience}",
            method="POST",
            body=json.dumps(review(pod, uid)),
            headers={"Content-Type": "application/json"},
            raise_error=False,
        )
        said = json.loads(answer.body)
        if answer.code != 200:
            return f'Internal error occurred: failed calling webhook "again.pods.hostport.io": failed to call webhook: {said["message"]}'
        status = said["response"].get("status", {})
        reason, message = status.get("reason", ""), status.get("message", "")
        denial = f'admission webhook "pods.hostport.io" denied the request: {message}'
        return f"Error from server ({reason}): {denial}" if message else ""

    async def counted_by_shim(self) -> set[str]:
        scraped = await AsyncHTTPClient(force_instance=True).fetch(f"http://{self.shim.side_address}/metrics")
        return counted(text_string_to_metric_families(scraped.body.decode()), "hostport_shim_answers_total")

    def counted_by_allocator(self) -> set[str]:
        return counted(self.service.registry.collect(), "hostport_allocations_total")

    def logged(self, program: str) -> list[str]:
        """The reasons in the canonical lines of a program."""
        lines = [json.loads(JsonFormatter().format(record)) for record in self.records]
        return [line["reason"] for line in lines if line["logger"].startswith(program) and line.get("reason")]


def review(pod: Json, uid: str) -> Json:
    return {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": uid,
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "namespace": "demo",
            "operation": "CREATE",
            "object": pod,
        },
    }


def pod(
    name: str = "web-0", *ports: Json, spec: Json | None = None, metadata: Json | None = None, **wants: str
) -> Json:
    """A Pod that asks for ports; `wants` are annotations, with `_` for `-`."""
    asked = {f"hostport.io/{key.replace('_', '-')}": value for key, value in ({"enabled": "true"} | wants).items()}
    container = {"name": "app", "image": "x", "ports": list(ports) or [{"containerPort": 8080}]}
    return {
        "metadata": {"name": name, "namespace": "demo", "annotations": asked} | (metadata or {}),
        "spec": {"containers": [container]} | (spec or {}),
    }


def static(name: str, number: int) -> Json:
    return pod(name, {"containerPort": 80, "hostPort": number}, policy="Static")


def counted(families: Iterable[Metric], name: str) -> set[str]:
    """The reasons that a counter has seen."""
    return {
        sample.labels["reason"]
        for family in families
        for sample in family.samples
        if sample.name == name and sample.labels["reason"] and sample.value
    }


@asynccontextmanager
async def world(service: Running, **options: Any) -> AsyncIterator[World]:
    shim = Shim(ShimOptions(**{"listen": ANYWHERE, "http": ANYWHERE, "allocator": service.address} | options))
    made = World(service, shim)
    handler = logging.Handler()
    setattr(handler, "emit", made.records.append)  # noqa: B010 - mypy minds the assignment
    loggers = [logging.getLogger(name) for name in ("allocator", "shim")]
    for each in loggers:
        each.addHandler(handler)
        each.setLevel(logging.INFO)
    try:
        yield made
    finally:
        for each in loggers:
            each.removeHandler(handler)
            each.setLevel(logging.NOTSET)
        for one in {shim, made.shim}:
            await one.stop()


# -- what people meet when a Pod is created

Case = Callable[[World], Awaitable[str]]


def of(asking: Json) -> Case:
    """A Pod that is wrong in itself."""
    return lambda world: world.admit(asking)


async def port_conflict(world: World) -> str:
    await world.admit(static("db-0", 9000), uid="u-0")
    return await world.admit(static("web-0", 9000))


async def held_by_lease(world: World) -> str:
    owner = pb.Owner(kind="Relay", name="r1", description="relay of the EU lobby")
    wanted = [pb.PortRequest(host_port=9000)]
    await world.service.stub.Allocate(pb.AllocateRequest(owner=owner, policy=pb.POLICY_STATIC, ports=wanted))
    return await world.admit(static("web-0", 9000))


async def held_by_service(world: World) -> str:
    web = ObservedService(namespace="demo", name="web", ports=(NodePort(protocol=Protocol.TCP, number=9000),))
    world.service.engine.maintenance.observe(ClusterChange(services=[web]))
    return await world.admit(static("web-0", 9000))


async def range_exhausted(world: World) -> str:
    only: dict[str, Any] = {"policy": "Dynamic", "min_port": "9000", "max_port": "9000"}
    return [await world.admit(pod(name, **only), uid=name) for name in ("a", "b")][1]


async def request_id_reused(world: World) -> str:
    return [await world.admit(pod(name, policy="Dynamic")) for name in ("a", "b")][1]


async def unconfirmed_backlog(world: World) -> str:
    controller = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "rs-1", "controller": True}
    made = {"name": "", "generateName": "web-", "ownerReferences": [controller]}
    asking = pod(policy="Dynamic", metadata=made | {"annotations": pod(policy="Dynamic")["metadata"]["annotations"]})
    world.service.engine.maintenance.observe(ClusterChange(lists_pods=True))
    for turn in range(3):
        await world.admit(asking, uid=f"u-{turn}")
    world.service.now += 5
    world.service.engine.maintenance.proven(world.service.now)
    return await world.admit(asking, uid="u-last")


async def namespace_backlog(world: World) -> str:
    world.service.engine.maintenance.observe(ClusterChange(lists_pods=True))
    world.service.engine.maintenance.observe(ClusterChange(enforced={"demo": "restricted"}, lists_pods=False))
    made = [pod(f"web-{turn}", policy="Dynamic") for turn in range(HANDFUL.reservations + 1)]
    return [await world.admit(each, uid=each["metadata"]["name"]) for each in made][-1]


async def not_serving(world: World) -> str:
    world.service.engine.is_serving = False
    return await world.admit(pod())


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


async def view_stale(world: World) -> str:
    world.service.engine.around.watch = cast("Any", Blind())
    held = ObservedPod(
        uid=PodUid("u1"), namespace="x", name="h", ports=(claim_port("x:9000"),), node=NodeName("localhost")
    )
    world.service.engine.maintenance.observe(ClusterChange(pods=[held], lists_pods=True))
    return await world.admit(static("web-0", 9000))


async def search_incomplete(world: World) -> str:
    fill_with_pairs(world.service.engine.ledger, world.service.now)
    one, other = PAIRS[0]
    numbers = ({"containerPort": 80, "hostPort": one}, {"containerPort": 81, "hostPort": other})
    return await world.admit(pod("web-0", *numbers, policy="Static"))


Grant = Callable[..., asyncio.Future[bool]]


def failing(error: Exception) -> Grant:
    def grant(*_: object) -> asyncio.Future[bool]:
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        future.set_exception(error)
        return future

    return grant


def refusing(mistake: Mistake) -> Grant:
    """A journal whose object store says that the caller is wrong."""
    error = NotStoredError(mistake.message)
    error.refusal = Refused(mistake)
    return failing(error)


def patch_grant(service: Running, grant: Grant) -> None:
    setattr(service.journal, "grant", grant)  # noqa: B010 - mypy minds the assignment


async def journal_unavailable(world: World) -> str:
    patch_grant(world.service, failing(JournalError("database or disk is full")))
    return await world.admit(pod())


async def deadline_passed(world: World) -> str:
    patch_grant(world.service, cancelled)
    return await world.admit(pod())


def cancelled(*_: object) -> asyncio.Future[bool]:
    """What the journal does where nobody waits any more."""
    future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    future.set_result(False)
    return future


async def allocator_unreachable(world: World) -> str:
    await world.service.stop()
    return await world.admit(pod(), patience="1s")


async def tls_failed(world: World) -> str:
    """It asks an allocator whose certificate comes from another authority."""
    ours, other = (new_authority(now=time.time(), seconds=3600) for _ in range(2))
    serving = BuiltInCertificate(now=time.time())
    serving.serve(issue(other, ALLOCATOR, now=time.time(), seconds=3600), pem([other.certificate]))
    server = grpc.aio.server()
    port = server.add_secure_port("127.0.0.1:0", serving.credentials(asks_clients=True))
    await server.start()
    with tempfile.NamedTemporaryFile() as trusted:
        trusted.write(pem([ours.certificate]).encode())
        trusted.flush()
        address, credentials = Address("127.0.0.1", port), Credentials(ca=Path(trusted.name))
        world.shim = Shim(ShimOptions(listen=ANYWHERE, http=ANYWHERE, allocator=address, credentials=credentials))
        said = await world.admit(pod(), patience="2s")
    await server.stop(None)
    return said


# -- what only callers of the gRPC service meet


def lease(**fields: Any) -> pb.AllocateRequest:
    asked: dict[str, Any] = {"owner": pb.Owner(kind="Relay", name="r1"), "ports": [pb.PortRequest()]}
    asked |= {"policy": pb.POLICY_DYNAMIC} | fields
    return pb.AllocateRequest(**asked)


def pod_request() -> pb.AllocateRequest:
    return lease(owner=pb.Owner(kind="Pod", namespace="demo", name="web-0"), ports=[pb.PortRequest(container_port=80)])


async def not_a_lease(service: Running) -> None:
    claim = (await service.stub.Allocate(pod_request())).allocation
    await service.stub.Renew(pb.RenewRequest(id=claim.id))


async def held_by_pod(service: Running) -> None:
    claim = (await service.stub.Allocate(pod_request())).allocation
    held = ObservedPod(
        uid=PodUid("u1"), namespace="demo", name="web-0", ports=(claim_port("x:7000"),), carried_id=claim.id
    )
    service.engine.maintenance.observe(ClusterChange(pods=[held], lists_pods=True))
    await service.stub.Release(pb.ReleaseRequest(id=claim.id))


async def too_many_leases(service: Running) -> None:
    for _ in range(Shares().leases // 500 + 1):
        await service.stub.Allocate(lease(ports=[pb.PortRequest()] * 500, range=pb.PortRange(min=10_000, max=60_000)))


async def lease_not_stored(service: Running) -> None:
    error = NotStoredError("PortLease media/r1-3f2a9c01b7: 401 Unauthorized")
    patch_grant(service, failing(error))
    await service.stub.Allocate(lease())


async def namespace_not_found(service: Running) -> None:
    patch_grant(service, refusing(no_namespace("media")))
    await service.stub.Allocate(lease())


def turned_down(status: int, message: str) -> Callable[[Running], Awaitable[None]]:
    """The API server does not take the PortLease, in the words of Kubernetes."""

    async def call(service: Running) -> None:
        mistake = refusal_of(ApiError(status, "Forbidden", message), "media")
        assert mistake is not None
        patch_grant(service, refusing(mistake))
        await service.stub.Allocate(lease())

    return call


async def watch_behind(service: Running) -> None:
    watch = service.stub.WatchAllocations(pb.WatchAllocationsRequest())
    await watch.read()  # SYNCED: from here on changes gather
    await service.stub.Allocate(lease())
    [claim] = service.engine.ledger.claims
    assert service.engine.ledger.listener is not None
    for number in range(MOST_UNREAD + 1):
        service.engine.ledger.listener(replace(claim, id=ClaimId(f"{number:032x}")), False)
    while await watch.read():
        pass


CALLS: dict[Reason, Callable[[Running], Awaitable[Any]]] = {
    Reason.INVALID_REQUEST: lambda service: service.stub.Allocate(lease(owner=pb.Owner())),
    Reason.NO_PORTS: lambda service: service.stub.Allocate(lease(ports=[])),
    Reason.CONTAINER_PORT_MISSING: lambda service: service.stub.Allocate(lease(policy=pb.POLICY_PASSTHROUGH)),
    Reason.INVALID_TTL: lambda service: service.stub.Allocate(lease(ttl={"seconds": -5})),
    Reason.INVALID_PAGE: lambda service: service.stub.ListNodes(pb.ListNodesRequest(page_token="x")),
    Reason.ALLOCATION_NOT_FOUND: lambda service: service.stub.Renew(pb.RenewRequest(id="f" * 32)),
    Reason.NODE_NOT_FOUND: lambda service: service.stub.GetNode(pb.GetNodeRequest(name="ghost")),
    Reason.NOT_A_LEASE: not_a_lease,
    Reason.HELD_BY_POD: held_by_pod,
    **REPORTS,
    Reason.WATCH_BEHIND: watch_behind,
    Reason.STREAM_UNREAD: stream_unread,
    Reason.NAMESPACE_NOT_FOUND: namespace_not_found,
    Reason.LEASE_NOT_STORED: lease_not_stored,
    Reason.TOO_MANY_LEASES: too_many_leases,
    Reason.LEASE_QUOTA: turned_down(
        403,
        'portleases.hostport.io "r1-3f2a9c01b7" is forbidden: exceeded quota: leases, requested:'
        " count/portleases.hostport.io=1, used: count/portleases.hostport.io=20, limited: count/portleases.hostport.io=20",
    ),
    Reason.LEASE_FORBIDDEN: turned_down(
        422,
        'portleases.hostport.io "r1-3f2a9c01b7" is forbidden: ValidatingAdmissionPolicy "leases" with binding "leases"'
        " denied request: no lease in media",
    ),
}

TWO_PORTS = ({"name": "a", "containerPort": 80}, {"name": "b", "containerPort": 81})
SAME = {"hostPort": 9000}
RTP = {"name": "rtp", "containerPort": 10000, "protocol": "UDP"}

ADMISSIONS: dict[Reason, Case] = {
    Reason.ENABLED_VALUE: of(pod(enabled="yes")),
    Reason.UNKNOWN_POLICY: of(pod(policy="dynamic")),
    Reason.UNKNOWN_VALUE: of(pod(when_full="Wait")),
    Reason.NOT_A_NUMBER: of(pod(min_port="10k")),
    Reason.HOST_NETWORK_FORBIDDEN: of(pod(spec={"hostUsers": False})),
    Reason.NETWORK_MISMATCH: of(pod(network="Pod", spec={"hostNetwork": True})),
    Reason.PUBLISH_INVALID: of(pod("web-0", {"name": "game", "containerPort": 7777}, publish_game="SERVER_PORT")),
    Reason.NUMBER_OUT_OF_RANGE: of(pod(min_port="70000")),
    Reason.TOO_MANY_PORTS: of(pod("web-0", *({"containerPort": number} for number in range(1, 514)), policy="Dynamic")),
    Reason.INVALID_COOL_DOWN: of(pod(policy="Dynamic", cool_down="2h")),
    Reason.BLOCK_INVALID: of(pod("web-0", RTP, block_rtp="100%")),
    Reason.BLOCK_SIZES_DIFFER: of(
        pod("web-0", RTP, RTP | {"name": "tcp", "protocol": "TCP"}, block_rtp="100", block_tcp="10")
    ),
    Reason.BLOCK_MISALIGNED: of(pod("web-0", RTP | {"hostPort": 20001}, policy="Static", block_rtp="100 even")),
    Reason.RANGE_TOO_SMALL: of(
        pod("web-0", RTP, policy="Dynamic", block_rtp="100", min_port="20000", max_port="20050")
    ),
    Reason.TOO_MANY_NUMBERS: of(pod("web-0", RTP, TWO_PORTS[0], block_rtp="1024")),
    Reason.TOO_COMPLEX: of(pod(spec={"tolerations": [{"operator": "Exists"}] * 257})),
    Reason.RANGE_INVERTED: of(pod(min_port="9000", max_port="8000")),
    Reason.NO_INDEX: of(pod("web")),
    Reason.INDEX_EXCEEDS_STRIDE: of(pod("web-100", *TWO_PORTS)),
    Reason.NUMBER_BEYOND_RANGE: of(pod("web-12", min_port="8000", max_port="8010")),
    Reason.OWN_PORTS_COLLIDE: of(pod("web-0", TWO_PORTS[0] | SAME, TWO_PORTS[1] | SAME, policy="Static")),
    Reason.HOST_PORT_MISSING: of(pod(policy="Static")),
    Reason.PORT_RESERVED: of(pod(min_port="6443")),
    Reason.RANGE_RESERVED: of(pod(policy="Dynamic", min_port="22", max_port="22")),
    Reason.REQUEST_ID_REUSED: request_id_reused,
    Reason.PORT_CONFLICT: port_conflict,
    Reason.HELD_BY_LEASE: held_by_lease,
    Reason.HELD_BY_SERVICE: held_by_service,
    Reason.RANGE_EXHAUSTED: range_exhausted,
    Reason.UNCONFIRMED_BACKLOG: unconfirmed_backlog,
    Reason.NAMESPACE_BACKLOG: namespace_backlog,
    Reason.NOT_SERVING: not_serving,
    Reason.VIEW_STALE: view_stale,
    Reason.SEARCH_INCOMPLETE: search_incomplete,
    Reason.JOURNAL_UNAVAILABLE: journal_unavailable,
    Reason.DEADLINE_PASSED: deadline_passed,
    Reason.ALLOCATOR_UNREACHABLE: allocator_unreachable,
    Reason.TLS_FAILED: tls_failed,
    Reason.TOO_MANY_REQUESTS: of(pod()),
}

OF_THE_SHIM = {
    Reason.ENABLED_VALUE,
    Reason.UNKNOWN_POLICY,
    Reason.UNKNOWN_VALUE,
    Reason.NOT_A_NUMBER,
    Reason.HOST_NETWORK_FORBIDDEN,
    Reason.NETWORK_MISMATCH,
    Reason.PUBLISH_INVALID,
    Reason.NUMBER_OUT_OF_RANGE,
    Reason.TOO_MANY_PORTS,
    Reason.INVALID_COOL_DOWN,
    Reason.BLOCK_INVALID,
    Reason.BLOCK_SIZES_DIFFER,
    Reason.TOO_MANY_NUMBERS,
    Reason.TOO_COMPLEX,
    Reason.RANGE_INVERTED,
    Reason.ALLOCATOR_UNREACHABLE,
    Reason.TLS_FAILED,
    Reason.TOO_MANY_REQUESTS,
}
"""The allocator was not asked, or was asked only for what else is wrong."""


def page() -> dict[str, str]:
    """Entry by word."""
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL))


def quotation(entry: str) -> str:
    """The first quoted text of an entry, as a pattern; `…` is what differs from case to case."""
    found = re.search(r"```text\n(.*?)\n```", entry, re.DOTALL)
    assert found, entry
    words = " ".join(found.group(1).split())
    return ".*".join(map(re.escape, words.split("…")))


@pytest.mark.parametrize("reason", ADMISSIONS, ids=lambda reason: reason.name)
async def test_a_reason_has_one_word_wherever_it_is_seen(service: Running, reason: Reason) -> None:
    options = {"max_concurrent": 0} if reason is Reason.TOO_MANY_REQUESTS else {}
    async with world(service, **options) as here:
        said = await ADMISSIONS[reason](here)

        assert reason.name in said
        assert await here.counted_by_shim() == {reason.name}
        assert here.logged("shim")[-1] == reason.name
        if reason not in OF_THE_SHIM:
            assert here.counted_by_allocator() == {reason.name}
            assert here.logged("allocator")[-1] == reason.name
        assert re.fullmatch(quotation(page()[reason.name]), said), said


@pytest.mark.parametrize("reason", CALLS, ids=lambda reason: reason.name)
async def test_a_reason_that_only_callers_meet_is_quoted_as_it_is_given(service: Running, reason: Reason) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await CALLS[reason](service)

    said = f"{reason_of(caught.value)}: {caught.value.details()}"
    assert re.fullmatch(quotation(page()[reason.name]), said), said


def reason_of(error: grpc.aio.AioRpcError) -> str:
    status = rpc_status.from_call(cast("Any", error))
    info = error_details_pb2.ErrorInfo()
    assert status is not None, error
    assert status.details[0].Unpack(info)
    return str(info.reason)


@pytest.mark.parametrize("reason", CALLERS, ids=lambda reason: reason.name)
async def test_a_caller_that_is_not_let_in_reads_what_is_quoted(start: Start, reason: Reason) -> None:
    service = await start(guard=CALLERS[reason]())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.stub.Allocate(lease(), metadata=(("authorization", "Bearer token"),))

    said = f"{reason_of(caught.value)}: {caught.value.details()}"
    assert re.fullmatch(quotation(page()[reason.name]), said), said


def test_every_reason_is_provoked_here() -> None:
    assert ADMISSIONS.keys() | CALLS.keys() | CALLERS.keys() == set(Reason)


@pytest.mark.parametrize("word", [*Reason, *Notice], ids=lambda word: f"{type(word).__name__} {word.name}")
def test_every_word_has_an_entry_in_troubleshooting(word: Reason | Notice) -> None:
    entry = page()[word.name if isinstance(word, Reason) else f"Warning_{word.name}"]

    assert len(entry.split()) > 10


def test_the_page_has_no_entry_for_a_word_that_is_gone() -> None:
    assert page().keys() == {*Reason.__members__, *(f"Warning_{name}" for name in Notice.__members__)}
