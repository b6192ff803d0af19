"""What people read of incidents and denials: Events name nobody of another namespace, the log names everybody."""

from __future__ import annotations

import logging
from typing import Any

import grpc
import pytest
from kit import Desk, ask, pod
from servicekit import Running
from test_contract import static as static_fields

from allocator.cluster.happenings import Happening, Subject
from allocator.core.pods import Judge, Verdict
from allocator.reports import Reports
from hostport.v1 import allocator_pb2 as pb


def told(desk: Desk, *, discloses: bool = False) -> list[Happening]:
    events: list[Happening] = []
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
    verdict = Verdict(Judge.KUBELET)
    desk.observe(
        pods=[pod("web-1", "web:5000", at="n1", carried_id=claim.id, is_finished=True, verdict=verdict)],
    )

    (event,) = told(desk)

    assert event == Happening(
        subject=Subject(api_version="v1", kind="Pod", namespace="demo", name="web-1", uid="uid-demo-web-1"),
        reason="PortsRefused",
        action="Observe",
        note="the kubelet of node n1 refused this Pod for want of 5000/TCP: held there by Pod demo/web-0",
    )


def test_a_pod_that_the_scheduler_turns_down_against_the_books_is_pointed_out(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk("n1")
    claim = desk.grant(ask("web-0", "web:5000=5000", policy="Static"))
    desk.observe(pods=[pod("web-0", "web:5000", carried_id=claim.id, verdict=Verdict(Judge.SCHEDULER, 1))])
    desk.ledger.weigh_verdicts(desk.now + 60)

    (event,) = told(desk)

    assert event.note == (
        "the scheduler finds no node free for 5000/TCP: nobody holds it there as far as the HostPort Operator can see"
    )
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.WARNING, "PortsRefused")
    fields = vars(record)["fields"]
    assert (fields["says"], fields["ports"], fields["holders"]) == ("scheduler", ["5000/TCP"], [])


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


async def denied(service: Running, request: pb.AllocateRequest) -> list[Happening]:
    with pytest.raises(grpc.aio.AioRpcError):
        await service.stub.Allocate(request)
    return service.happenings


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

    assert full.happenings == []


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
    assert full.happenings == [
        Happening(subject=owner, reason="Warned", action="Admit", note="PORT_MOVED: port 80 moved", kind="PORT_MOVED"),
        Happening(subject=owner, reason="Warned", action="Admit", note="OLD_NUMBER: 80 stands", kind="OLD_NUMBER"),
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

    assert (error.value.code(), full.happenings) == (grpc.StatusCode.INVALID_ARGUMENT, [])
    assert why in (error.value.details() or "")
