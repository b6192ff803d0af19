"""What people read of incidents and denials: Events name nobody of another namespace, the log names everybody."""

from __future__ import annotations

import logging
from typing import Any

import grpc
import pytest
from test_contract import static as static_fields

from allocator.cluster.correlator import ObjectEvent, Subject
from allocator.core.claims import PortRejection, RejectedBy
from allocator.core.foreign import NodePort, ObservedService
from allocator.core.ports import Protocol
from allocator.core.watch.listening import NoListener, SilentPort
from allocator.core.watch.replanner import Incident, IncidentKind
from allocator.reports import Reports
from hostport.v1 import allocator_pb2 as pb
from testing.kit import Desk, ask, claim_port, lease, on, pod, report
from testing.servicekit import Running


def told(desk: Desk, *, discloses: bool = False) -> list[ObjectEvent]:
    events: list[ObjectEvent] = []
    reports = Reports(discloses_holders=discloses, event=events.append)
    for incident in desk.ledger.take_incidents():
        reports.incident(incident)
    return events


def bound(desk: Desk, name: str, namespace: str = "demo") -> None:
    claim = desk.grant(ask(name, "web:5000=5000", policy="Static", namespace=namespace))
    desk.observe(pods=[pod(name, "web:5000", namespace=namespace, at="n1", carried_id=claim.id)])


def clashing(namespace: str) -> Desk:
    desk = Desk("n1", "n2")
    bound(desk, "web-0")
    bound(desk, "db-0", namespace)
    return desk


def test_both_pods_of_a_conflict_are_told_about_each_other() -> None:
    events = told(clashing("demo"))

    assert [(each.subject.name, each.reason) for each in events] == [("db-0", "Conflict"), ("web-0", "Conflict")]
    assert "5000/TCP on node n1 is held by Pod demo/web-0" in events[0].note
    assert "5000/TCP on node n1 is held by Pod demo/db-0" in events[1].note


@pytest.mark.parametrize(("discloses", "name"), [(False, "a Pod of another namespace"), (True, "Pod secret/db-0")])
def test_a_holder_of_another_namespace_is_named_only_where_that_is_allowed(
    caplog: pytest.LogCaptureFixture, discloses: bool, name: str
) -> None:
    events = told(clashing("secret"), discloses=discloses)

    (web,) = [each for each in events if each.subject.name == "web-0"]
    assert name in web.note
    assert discloses or "db-0" not in web.note
    assert "Pod demo/web-0" in str(vars(caplog.records[0])["fields"]["holders"])


def test_a_pod_that_never_asked_is_not_told() -> None:
    desk = Desk("n1")
    bound(desk, "web-0")
    desk.observe(pods=[pod("intruder", "x:5000", namespace="other", at="n1")])

    assert [(each.subject.name, each.reason) for each in told(desk)] == [("web-0", "ExternalConflict")]


def test_a_pod_that_the_kubelet_refused_hears_who_has_its_port() -> None:
    desk = Desk("n1", "n2")
    bound(desk, "web-0")
    claim = desk.grant(ask("web-1", "web:5000=5000", policy="Static"))
    rejection = PortRejection(RejectedBy.KUBELET)
    desk.observe(
        pods=[pod("web-1", "web:5000", at="n1", carried_id=claim.id, is_finished=True, rejection=rejection)],
    )

    (event,) = told(desk)

    assert event == ObjectEvent(
        subject=Subject(api_version="v1", kind="Pod", namespace="demo", name="web-1", uid="uid-demo-web-1"),
        reason="PortsRefused",
        action="Observe",
        note="the kubelet of node n1 refused this Pod for want of 5000/TCP: held there by Pod demo/web-0",
    )


def test_a_pod_that_the_scheduler_turns_down_against_the_books_is_pointed_out(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk("n1")
    claim = desk.grant(ask("web-0", "web:5000=5000", policy="Static"))
    desk.observe(pods=[pod("web-0", "web:5000", carried_id=claim.id, rejection=PortRejection(RejectedBy.SCHEDULER, 1))])
    desk.ledger.check_rejections(desk.now + 60)

    (event,) = told(desk)

    assert event.note == (
        "the scheduler finds no node free for 5000/TCP: nobody holds it there as far as the HostPort Operator can see"
    )
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.WARNING, "PortsRefused")
    fields = vars(record)["fields"]
    assert (fields["says"], fields["ports"], fields["holders"]) == ("scheduler", ["5000/TCP"], [])


def silent(text: str, why: NoListener, **more: Any) -> SilentPort:
    return SilentPort(claim_port(text), why, **more)


SILENCES = {
    "on its container port": (
        [silent("web-ui:8080=7000", NoListener.CONTAINER_PORT)],
        (
            "7000/TCP, but 8080, its containerPort before, is open there and is nobody else's number: the program seems to"
            " ignore its number. Let it listen on HOSTPORT_WEB_UI, or try hostport.io/rewrite,"
            " hostport.io/publish-<port name> or hostport.io/network: Pod"
        ),
    ),
    "on loopback": (
        [silent("web:80=7000", NoListener.OTHER_ADDRESS, addresses=("127.0.0.1", "::1"))],
        "7000/TCP, which is open on 127.0.0.1, ::1 alone: let the program listen on every address",
    ),
    "under another protocol": (
        [silent("dns:53=7000", NoListener.OTHER_PROTOCOL, protocol=Protocol.UDP)],
        "7000/TCP, which is open for UDP: declare the protocol that the program uses",
    ),
    "nowhere, two of them": (
        [silent(":80=7000", NoListener.NOTHING), silent("x:53/UDP=7001", NoListener.NOTHING)],
        (
            "7000/TCP: does the program read HOSTPORT_80 (PORT_MOVED at its admission)? Its log says what it listens on;"
            " 7001/UDP: does the program read HOSTPORT_X (PORT_MOVED at its admission)? Its log says what it listens on"
        ),
    ),
}


@pytest.mark.parametrize(("ports", "why"), SILENCES.values(), ids=SILENCES)
def test_a_pod_that_does_not_listen_is_told_the_likely_cause(ports: list[SilentPort], why: str) -> None:
    desk, events = Desk("n1"), list[ObjectEvent]()
    claim = desk.grant(ask("web-0", "web:5000=5000", policy="Static"))
    desk.observe(pods=[pod("web-0", "web:5000", at="n1", carried_id=claim.id, warnings="BARE_POD_APPLIED,PORT_MOVED")])
    claim = desk.ledger.claims.get(claim.id) or claim
    reports = Reports(discloses_holders=False, event=events.append)

    reports.incident(Incident(IncidentKind.NOT_LISTENING, claim, silent=tuple(ports)))

    assert events == [
        ObjectEvent(
            subject=Subject(api_version="v1", kind="Pod", namespace="demo", name="web-0", uid="uid-demo-web-0"),
            reason="NotListening",
            action="Observe",
            kind="NOT_LISTENING",
            note=f"this Pod has been Ready for a minute, and on node n1 nobody listens on: {why}",
        )
    ]


def test_a_pod_whose_last_node_a_process_took_is_not_told_of_a_pod_alone() -> None:
    desk, events = Desk("n1"), list[ObjectEvent]()
    claim = desk.grant(ask("web", "x:80=7000", policy="Static"))
    desk.observe(pods=[pod("web", "x:80=7000", carried_id=claim.id)])
    desk.observe(reports=[report("n1", "sshd:7000")])

    for incident in desk.ledger.take_incidents():
        Reports(discloses_holders=True, event=events.append).incident(incident)

    (event,) = events
    assert "another Pod or a process took the last one" in event.note


def test_an_unplaceable_pod_is_told_when_it_exists() -> None:
    desk = Desk("n1")
    first = desk.grant(ask("first", "web:5000=5000", policy="Static", when_full=None))
    desk.observe(pods=[pod("first", "web:5000", carried_id=first.id)])
    desk.observe(pods=[pod("intruder", "x:5000", at="n1")])

    (event,) = told(desk)

    assert (event.subject.name, event.reason) == ("first", "Unplaceable")
    assert event.note.startswith("5000/TCP of this Pod is free on none of the nodes where it may run")


# -- denials


def asking(**fields: Any) -> pb.AllocateRequest:
    controller = pb.Controller(api_version="apps/v1", kind="ReplicaSet", name="web-5d4f")
    owner = pb.Owner(kind="Pod", namespace="demo", generate_name="web-5d4f-", controller_uid="rs-1")
    return pb.AllocateRequest(**{"owner": owner, "controller": controller, **static_fields(22), **fields})


@pytest.fixture
async def full(service: Running) -> Running:
    """Port 22 is taken."""
    await service.stub.Allocate(asking(controller=None))
    return service


async def denied(service: Running, request: pb.AllocateRequest) -> list[ObjectEvent]:
    with pytest.raises(grpc.aio.AioRpcError):
        await service.stub.Allocate(request)
    return service.events


async def test_a_denial_is_told_to_the_owner_of_the_pod(full: Running) -> None:
    (event,) = await denied(full, asking())

    assert event.subject == Subject(
        api_version="apps/v1", kind="ReplicaSet", namespace="demo", name="web-5d4f", uid="rs-1"
    )
    assert (event.reason, event.action) == ("Denied", "Allocate")
    assert event.note.startswith(
        "PORT_CONFLICT: port 80/TCP of container c: 22/TCP is taken on the only candidate node"
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"dry_run": True},
        {"controller": None},
        {"owner": pb.Owner(kind="Pod", namespace="demo", name="web-0")},
        {"owner": pb.Owner(kind="Relay", name="r1")},
        {"controller": pb.Controller(api_version="apps/v1", kind="ReplicaSet", name="x" * 254)},
    ],
    ids=["a preview", "an older shim", "a bare Pod", "a lease", "a name that nothing has"],
)
async def test_nothing_is_told_where_there_is_nobody_to_tell(full: Running, fields: dict[str, Any]) -> None:
    assert await denied(full, asking(**fields)) == []


async def test_what_is_granted_is_not_told(full: Running) -> None:
    await full.stub.Allocate(asking(**static_fields(23)))

    assert full.events == []


# -- warnings


def warned(**fields: Any) -> pb.ReportWarningsRequest:
    made_by = pb.Controller(api_version="apps/v1", kind="ReplicaSet", name="web-5d4f")
    told = [
        pb.Warning(reason="PORT_MOVED", message="port 80 moved"),
        pb.Warning(reason="OLD_NUMBER", message="80 stands"),
    ]
    known: dict[str, Any] = {"namespace": "demo", "controller": made_by, "controller_uid": "rs-1", "warnings": told}
    return pb.ReportWarningsRequest(**known | fields)


async def test_what_a_shim_warned_of_is_told_to_the_owner_of_the_pod(full: Running) -> None:
    await full.stub.ReportWarnings(warned())

    owner = Subject(api_version="apps/v1", kind="ReplicaSet", namespace="demo", name="web-5d4f", uid="rs-1")
    assert full.events == [
        ObjectEvent(
            subject=owner, reason="Warned", action="Admit", note="PORT_MOVED: port 80 moved", kind="PORT_MOVED"
        ),
        ObjectEvent(subject=owner, reason="Warned", action="Admit", note="OLD_NUMBER: 80 stands", kind="OLD_NUMBER"),
    ]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        pytest.param({"controller": None}, "a controller has namespace, kind, name and uid", id="nobody"),
        pytest.param({"controller_uid": "x" * 254}, "each of at most 253 characters", id="a uid that nothing has"),
        pytest.param({"warnings": [pb.Warning(reason="no word")]}, "'no word' is no word", id="no word"),
        pytest.param({"warnings": [pb.Warning(reason="A")] * 33}, "33 warnings are more than 32", id="too many"),
    ],
)
async def test_a_report_that_cannot_be_told_is_refused(full: Running, fields: dict[str, Any], why: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await full.stub.ReportWarnings(warned(**fields))

    assert (error.value.code(), full.events) == (grpc.StatusCode.INVALID_ARGUMENT, [])
    assert why in (error.value.details() or "")


# -- Services that hold the number of a Pod


def with_service(namespace: str, *, discloses: bool = False) -> list[ObjectEvent]:
    """What is told when a Service takes the number of two Pods and a lease."""
    desk = Desk("n1", "n2", "n3")
    bound(desk, "web-0")
    desk.observe(pods=[pod("intruder", "x:5000", namespace="other", at="n2")])
    desk.grant(lease("relay", "x:1=5000", policy="Static", constraints=on("n3")))
    told(desk)
    port = NodePort(protocol=Protocol.TCP, number=5000)
    desk.observe(services=[ObservedService(namespace=namespace, name="shop", uid="uid-shop", ports=(port,))])
    return told(desk, discloses=discloses)


def test_a_pod_and_the_service_that_takes_its_number_are_told_about_each_other() -> None:
    of_service, of_pod, *others = with_service("demo")

    assert of_pod == ObjectEvent(
        subject=Subject(api_version="v1", kind="Pod", namespace="demo", name="web-0", uid="uid-demo-web-0"),
        reason="NodePortConflict",
        action="Observe",
        note="5000/TCP of this Pod is held by Service demo/shop (node port) as well: on every node kube-proxy takes what is"
        " sent to it, and the Pod gets none of it. Give the Service another node port, or the Pod another number",
        kind="5000/TCP uid-shop",
    )
    assert of_service == ObjectEvent(
        subject=Subject(api_version="v1", kind="Service", namespace="demo", name="shop", uid="uid-shop"),
        reason="NodePortConflict",
        action="Observe",
        note="node port 5000/TCP is the host port of Pod demo/web-0 on node n1 as well, which gets nothing of what is sent"
        " to it. Choose another node port",
        kind="5000/TCP uid-shop",
    )
    assert [each.subject for each in others] == [of_service.subject] * 2, (
        "no Event of who never asked, or has no object"
    )


@pytest.mark.parametrize(
    ("discloses", "pods"),
    [(False, ["a Pod of another namespace"]), (True, ["Pod demo/web-0", "Service other/shop"])],
    ids=["nobody else", "everybody"],
)
def test_a_service_and_a_pod_of_two_namespaces_are_named_where_that_is_allowed(
    discloses: bool, pods: list[str]
) -> None:
    notes = " ".join(each.note for each in with_service("other", discloses=discloses)[:2])

    assert all(each in notes for each in pods)
    assert ("web-0" in notes) is discloses
    assert ("other/shop" in notes) is discloses
