"""Services that send to the number that a port had before it moved: who is told, and when."""

from __future__ import annotations

import json
from typing import Any

import pytest

from allocator.cluster.correlator import ObjectEvent, Subject
from allocator.cluster.targets import MOST_OWNERS, Targets
from cluster.conftest import Follow
from hostport.services import Selecting, parse_service
from testing.apiserver import ApiServer
from testing.observing import Object, Recorder

TABLE = json.dumps(
    [
        {"container": "c", "name": "db", "protocol": "TCP", "containerPort": 8080, "hostPort": 7000},
        {"container": "c", "name": "", "protocol": "UDP", "containerPort": 53, "hostPort": 7001},
        {"container": "c", "name": "same", "protocol": "TCP", "containerPort": 9090, "hostPort": 9090},
    ]
)
OWNER = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "sts-1", "controller": True}


def metadata(name: str = "db-0", **more: Any) -> Object:
    return {"namespace": "demo", "name": name, "labels": {"app": "db"}, "ownerReferences": [OWNER], **more}


def service(name: str = "num", selector: Object | None = None, **port: Any) -> Selecting | None:
    spec = {"selector": selector or {"app": "db"}, "ports": [{"port": 80, "targetPort": 8080} | port]}
    return parse_service({"metadata": {"name": name, "namespace": "demo"}, "spec": spec})


class Told:
    def __init__(self) -> None:
        self.heard: list[ObjectEvent] = []
        self.targets = Targets(self.heard.append)

    def notes(self) -> list[str]:
        notes = [each.note for each in self.heard]
        self.heard.clear()
        return notes


@pytest.fixture
def told() -> Told:
    return Told()


def test_a_service_that_is_another_name_selects_nobody() -> None:
    spec = {"type": "ExternalName", "selector": {"app": "db"}, "ports": [{"port": 8080}]}
    assert parse_service({"metadata": {"name": "alias"}, "spec": spec}) is None


@pytest.mark.parametrize("target", [[8080], {"number": 8080}, 80.5, True], ids=repr)
def test_a_target_that_is_neither_a_number_nor_a_name_is_passed_over(target: object) -> None:
    """A manifest of a person has no API server before it."""
    assert service(targetPort=target) is None


SENTENCE = "SERVICE_OLD_PORT: Service num sends port 80/TCP to 8080, which moved to 7000: set targetPort: db"


def test_a_service_that_is_made_later_is_told_to_the_owner(told: Told) -> None:
    told.targets.pod("p-0", metadata(), TABLE)
    told.targets.service("demo", "num", service())

    owner = Subject(api_version="apps/v1", kind="StatefulSet", namespace="demo", name="db", uid="sts-1")
    assert told.heard == [
        ObjectEvent(subject=owner, reason="Warned", action="Observe", note=SENTENCE, kind="SERVICE_OLD_PORT num")
    ]


def test_so_is_one_that_was_there_before(told: Told) -> None:
    told.targets.service("demo", "num", service())
    told.targets.pod("p-0", metadata(), TABLE)

    assert told.notes() == [SENTENCE]


def test_an_owner_with_a_hundred_pods_is_told_once(told: Told) -> None:
    told.targets.service("demo", "num", service())
    for number in range(100):
        told.targets.pod(f"p-{number}", metadata(f"db-{number}"), TABLE)
    told.targets.service("demo", "num", service())

    assert told.notes() == [SENTENCE]


def test_a_bare_pod_is_told_itself(told: Told) -> None:
    told.targets.service("demo", "num", service())
    told.targets.pod("p-0", metadata(ownerReferences=[]), TABLE)

    assert [each.subject.kind for each in told.heard] == ["Pod"]


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(service(targetPort="db"), id="by name"),
        pytest.param(service(targetPort=9090), id="a port that did not move"),
        pytest.param(service(protocol="UDP"), id="another protocol"),
        pytest.param(service(selector={"app": "web"}), id="of other Pods"),
    ],
)
def test_others_are_told_of_nobody(told: Told, found: Selecting | None) -> None:
    told.targets.pod("p-0", metadata(), TABLE)
    told.targets.service("demo", "num", found)

    assert told.notes() == []


def test_a_service_that_was_mended_and_is_wrong_again_is_told_again(told: Told) -> None:
    told.targets.pod("p-0", metadata(), TABLE)
    for found in (service(), None, service()):
        told.targets.service("demo", "num", found)

    assert told.notes() == [SENTENCE, SENTENCE]


def test_an_owner_is_forgotten_with_its_last_pod(told: Told) -> None:
    for uid in ("p-0", "p-1"):
        told.targets.pod(uid, metadata(), TABLE)
    told.targets.gone("p-0")
    told.targets.service("demo", "num", service())
    assert told.notes() == [SENTENCE]

    told.targets.gone("p-1")
    told.targets.service("demo", "more", service("more"))
    assert told.notes() == []


@pytest.mark.parametrize("table", ["", "[", "{}", "[1]", '[{"name": "x"}]', "[" * 10_000])
def test_a_table_that_cannot_be_read_has_no_ports(told: Told, table: str) -> None:
    told.targets.service("demo", "num", service())
    told.targets.pod("p-0", metadata(), table)

    assert told.notes() == []


def test_so_many_owners_are_remembered(told: Told) -> None:
    for number in range(MOST_OWNERS + 1):
        told.targets.pod(f"p-{number}", metadata(ownerReferences=[OWNER | {"uid": f"u-{number}"}]), TABLE)

    told.targets.service("demo", "num", service())

    assert len(told.notes()) == MOST_OWNERS


# -- as the API server tells


def stored(uid: str) -> Object:
    notes = {"hostport.io/allocation-id": "a" * 32, "hostport.io/allocations": TABLE}
    containers = [{"name": "c", "ports": [{"containerPort": 7000, "hostPort": 7000}]}]
    made = metadata(uid, uid=uid, annotations=notes)
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": made,
        "spec": {"hostNetwork": True, "containers": containers},
    }


def stored_service(target: int | str) -> Object:
    ports = [{"port": 80, "targetPort": target, "protocol": "TCP"}]
    made = {"name": "num", "namespace": "demo"}
    return {"kind": "Service", "metadata": made, "spec": {"selector": {"app": "db"}, "ports": ports}}


async def test_pods_and_services_of_the_api_server_are_compared(server: ApiServer, follow: Follow, told: Told) -> None:
    server.put("pods", stored("db-0"))
    observer = Recorder()
    cluster = follow(observer, tell=told.heard.append)
    await cluster.synced()

    server.put("services", stored_service("db"))
    server.put("services", stored_service(8080))
    await observer.until(lambda: told.heard)

    assert told.notes() == [SENTENCE]
