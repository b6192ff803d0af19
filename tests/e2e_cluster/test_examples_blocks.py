"""The examples of blocks, of addresses and of names, on real nodes: programs bind their numbers, and clients reach them."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.api import Kubectl
from e2e.processes import wait_for, wait_until

from e2e_cluster.driver import Access
from e2e_cluster.installed import Installed
from e2e_cluster.test_programs import IMAGE, behind, said

LABEL = "hostport.io/external-address"
LOOKUP = """
import re, socket, struct, sys
with open("/etc/resolv.conf") as file:
    server = re.search(r"nameserver (\\S+)", file.read())[1]

def name_at(data, at):
    labels = []
    while data[at] & 0xC0 != 0xC0 and data[at]:
        labels.append(data[at + 1 : at + 1 + data[at]].decode())
        at += 1 + data[at]
    if data[at]:
        rest, _ = name_at(data, struct.unpack("!H", data[at : at + 2])[0] & 0x3FFF)
        return labels + rest, at + 2
    return labels, at + 1

question = b"".join(bytes([len(each)]) + each.encode() for each in sys.argv[1].split(".")) + b"\\0"
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
    client.settimeout(3)
    client.sendto(struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + question + struct.pack("!HH", 33, 1), (server, 53))
    data = client.recv(4096)
at = 12 + len(question) + 4
for _ in range(struct.unpack("!H", data[6:8])[0]):
    _, at = name_at(data, at)
    kind, _, _, length = struct.unpack("!HHIH", data[at : at + 10])
    if kind == 33:
        labels, _ = name_at(data, at + 16)
        print(socket.gethostbyname(".".join(labels)), struct.unpack("!H", data[at + 14 : at + 16])[0])
    at += 10 + length
"""
"""Prints address and number of each SRV record of a name, as a program in a Pod sees them."""

Json = dict[str, Any]


@pytest.fixture
def kubectl(access: Access, installed: Installed) -> Iterator[Kubectl]:
    yield access.kubectl.within("default")
    access.kubectl.within("default")("delete", "all,configmaps", "--all", "--grace-period=1")


def example(installed: Installed, name: str) -> str:
    """A manifest of examples/, with an image that the nodes have in place of Python's."""
    text = (Path(installed.clone) / "examples" / f"{name}.yaml").read_text(encoding="utf-8")
    assert list(yaml.safe_load_all(text))
    return text.replace("python:3.11-slim", IMAGE)


def numbers(stored: Json) -> list[int]:
    return [each["hostPort"] for each in stored["spec"]["containers"][0]["ports"]]


def block(stored: Json, name: str) -> range:
    """The numbers of a block, as its annotation says them."""
    first, _, last = stored["metadata"]["annotations"][f"hostport.io/allocated-{name}"].partition("-")
    return range(int(first), int(last) + 1)


def greeting(address: str, number: int) -> str:
    """What is said there by TCP; empty where nobody answers."""
    try:
        with socket.create_connection((address, number), timeout=2) as client:
            return client.recv(99).decode()
    except OSError:
        return ""


def echoed(address: str, number: int, packet: bytes) -> bytes:
    """What comes back by UDP; empty where nothing does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(2)
        client.sendto(packet, (address, number))
        try:
            return client.recv(2048)
        except OSError:
            return b""


def test_a_client_sends_through_all_100_ports_of_a_relay(
    kubectl: Kubectl, access: Access, installed: Installed
) -> None:
    kubectl("apply", "-f", "-", stdin=example(installed, "rtp-relay"))
    kubectl("rollout", "status", "deployment/rtp-relay", "--timeout=120s")
    relays = kubectl.pods("app=rtp-relay")

    held = [(each["spec"]["nodeName"], number) for each in relays for number in numbers(each)]
    assert len(relays) == 2
    assert len(held) == len(set(held)) == 202
    for each in relays:
        media = block(each, "rtp")
        assert (len(media), media[0] % 2) == (100, 0)
        assert set(media) < set(numbers(each))
        address = access.addresses[each["spec"]["nodeName"]]
        wait_until("the relay to relay", lambda a=address, n=media[0]: echoed(a, n, b"rtp") == b"rtp")  # type: ignore[misc]
        lost = [number for number in media if echoed(address, number, b"rtp %d" % number) != b"rtp %d" % number]
        assert lost == []
    kubectl("wait", "--for=condition=Complete", "job/rtp-client", "--timeout=120s")
    assert "100 of 100 ports of" in kubectl("logs", "job/rtp-client").stdout


def test_a_worker_that_moves_to_another_node_keeps_all_of_its_ports(
    kubectl: Kubectl, access: Access, installed: Installed
) -> None:
    kubectl("apply", "-f", "-", stdin=example(installed, "worker-pool"))
    kubectl("rollout", "status", "statefulset/worker", "--timeout=120s")

    def wrong() -> list[tuple[str, int]]:
        """Numbers at which a worker does not answer by its name."""
        return [
            (each["metadata"]["name"], number)
            for each in kubectl.pods("app=worker")
            for number in numbers(each)
            if greeting(access.addresses[each["spec"]["nodeName"]], number) != each["metadata"]["name"]
        ]

    before = {each["metadata"]["name"]: numbers(each) for each in kubectl.pods("app=worker")}
    assert before == {f"worker-{at}": list(range(26000 + 20 * at, 26020 + 20 * at)) for at in range(3)}
    wait_until("all 60 ports to answer", lambda: not wrong())

    (moving,) = kubectl.pods("statefulset.kubernetes.io/pod-name=worker-1")
    kubectl("cordon", moving["spec"]["nodeName"])
    try:
        kubectl("delete", "pod", "worker-1", "--grace-period=1")
        kubectl("rollout", "status", "statefulset/worker", "--timeout=120s")
    finally:
        kubectl("uncordon", moving["spec"]["nodeName"])

    after = {each["metadata"]["name"]: each for each in kubectl.pods("app=worker")}
    assert numbers(after["worker-1"]) == before["worker-1"]
    assert after["worker-1"]["spec"]["nodeName"] != moving["spec"]["nodeName"]
    wait_until("all 60 ports to answer again", lambda: not wrong())


@pytest.fixture
def public(access: Access, kubectl: Kubectl) -> Iterator[dict[str, str]]:
    """Public addresses of the nodes, as an operator says them, and a namespace that wants to be told."""
    told = {name: f"203.0.113.{at}" for at, name in enumerate(access.nodes, start=1)}
    for name, address in told.items():
        access.kubectl("label", "node", name, f"{LABEL}={address}", "--overwrite")
    access.kubectl("label", "namespace", "default", f"{LABEL}=true", "--overwrite")
    yield told
    access.kubectl("label", "namespace", "default", f"{LABEL}-")
    for name in told:
        access.kubectl("label", "node", name, f"{LABEL}-")


def test_a_forwarding_unit_tells_the_public_address_of_its_node_and_dns_its_number(
    kubectl: Kubectl, access: Access, installed: Installed, public: dict[str, str]
) -> None:
    kubectl("apply", "-f", "-", stdin=example(installed, "sfu"))
    kubectl("rollout", "status", "deployment/sfu", "--timeout=120s")

    for each in kubectl.pods("app=sfu"):
        node, (number,) = each["spec"]["nodeName"], numbers(each)
        candidate = f"candidate:1 1 UDP 2122260223 {public[node]} {number} typ host"
        wait_for(
            "the candidate",
            lambda a=access.addresses[node], n=number: echoed(a, n, b"?").decode(),  # type: ignore[misc]
            lambda seen, wanted=candidate: seen == wanted,  # type: ignore[misc]
        )
    pods = kubectl.pods("app=sfu")
    asker, name = pods[0]["metadata"]["name"], "_ice._udp.sfu.default.svc.cluster.local"
    expected = sorted(f"{access.addresses[each['spec']['nodeName']]} {numbers(each)[0]}" for each in pods)
    wait_for(
        "the SRV records of all units",
        lambda: sorted(kubectl.run("exec", asker, "--", "python3", "-c", LOOKUP, name).stdout.splitlines()),
        lambda seen: seen == expected,
    )


def test_the_names_of_a_headless_service_lead_to_each_replicas_own_number(
    kubectl: Kubectl, access: Access, installed: Installed
) -> None:
    """SRV records are made of these slices: one for each set of numbers."""
    kubectl("apply", "-f", "-", stdin=example(installed, "headless-service"))
    kubectl("rollout", "status", "deployment/lobby", "--timeout=120s")
    pods = kubectl.pods("app=lobby")
    expected = {(access.addresses[each["spec"]["nodeName"]], numbers(each)[0]) for each in pods}

    found = wait_for("each replica", lambda: behind(kubectl, "lobby"), lambda seen: seen == expected)

    assert {said(*each) for each in found} == {each["metadata"]["name"] for each in pods}
    named = [
        port["name"]
        for one in json.loads(kubectl("get", "endpointslices", "-o", "json").stdout)["items"]
        if one["metadata"].get("labels", {}).get("kubernetes.io/service-name") == "lobby"
        for port in one["ports"]
    ]
    assert set(named) == {"game"}
