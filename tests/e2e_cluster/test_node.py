"""The node as it is, on real nodes: what processes have there, what becomes of it when programs end, and who may say so.

A process here is a Pod on its node's network that declares no port: to the scheduler, and to the books, it is none.
"""

from __future__ import annotations

import itertools
import json
import re
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from e2e.api import Kubectl
from e2e.manifests import hostport, numbers, pod, port, workload
from e2e.processes import wait_for, wait_until
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from e2e_cluster.conftest import IMG, run_agents
from e2e_cluster.driver import Access, Driver
from e2e_cluster.installed import AGENT, ALLOCATOR, NAMESPACE, Installed
from e2e_cluster.test_cli import hostport as command_line
from hostport.v1 import allocator_pb2 as pb
from hostport.v1 import allocator_pb2_grpc as rpc

pytestmark = pytest.mark.usefixtures("agents")
PROMPT = 15.0
"""Seconds until a process that opens or closes a number is known: a report every 10, and a moment."""

ONE, OTHER = "n1", "n2"
STATIC = hostport(policy="Static")
DYNAMIC = hostport(policy="Dynamic", min_port=20000, max_port=20009)
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
Json = dict[str, Any]


def on_nodes(*names: str) -> Json:
    wanted = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": list(names)}]}
    return {"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [wanted]}}}}


def agent_on(installed: Installed, node: str) -> Json:
    (agent,) = [each for each in installed.pods(AGENT) if each["spec"]["nodeName"] == node]
    return agent


@pytest.fixture
def kubectl(access: Access, installed: Installed) -> Iterator[Kubectl]:
    yield access.kubectl.within("default")
    access.kubectl.within("default")("delete", "all", "--all", "--grace-period=1")


def open_number(kubectl: Kubectl, node: str, number: int, restart: str = "Always") -> str:
    """Has a process listen on a number of a node; gives the name of the Pod to delete."""
    squatter = pod(f"squatter-{node}-{number}", {}, hostNetwork=True, nodeName=node, restartPolicy=restart)
    squatter["spec"]["containers"][0] |= {
        "image": "busybox:1.37",
        "command": ["httpd", "-f", "-h", "/tmp", "-p", str(number)],
    }
    kubectl("create", "-f", "-", stdin=json.dumps(squatter))
    name: str = squatter["metadata"]["name"]
    kubectl("wait", f"pod/{name}", "--for=condition=Ready", "--timeout=30s")
    return name


def preview(kubectl: Kubectl, notes: dict[str, str], number: int, *nodes: str) -> Json:
    """What a Pod would become. `number`: its hostPort; 0: none."""
    fixed: Json = {"hostPort": number} if number else {}
    asked = json.dumps(pod("preview", notes, port(80, "game", **fixed), **on_nodes(*nodes)))
    run = kubectl.run("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=asked)
    return run.json if run.code == 0 else {"refused": " ".join(run.stderr.split())}


def kept_off(made: Json) -> set[str]:
    """The nodes that a Pod is kept off by name."""
    terms = made["spec"]["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"] if "spec" in made else []
    return {name for term in terms for each in term.get("matchFields", ()) for name in each["values"]}


def wait_until_known(kubectl: Kubectl, node: str, number: int, *, known: bool = True) -> None:
    wait_until(
        f"{number} on {node} to be {'known' if known else 'forgotten'}",
        lambda: (node in kept_off(preview(kubectl, STATIC, number, ONE, OTHER, "n3"))) == known,
        seconds=PROMPT,
    )


def test_a_number_that_a_process_opens_is_known_soon_and_skipped_steered_or_refused(kubectl: Kubectl) -> None:
    open_number(kubectl, ONE, 20000)
    wait_for(
        "Dynamic to skip it", lambda: numbers(preview(kubectl, DYNAMIC, 0, ONE)), lambda got: got == [20001],
        seconds=PROMPT,
    )  # fmt: skip

    serving = pod("game", STATIC, port(80, "game", hostPort=20000), **on_nodes(ONE, OTHER))
    serving["spec"]["containers"][0] |= {
        "image": "busybox:1.37",
        "command": ["sh", "-c"],
        "args": ["exec httpd -f -h /tmp -p $HOSTPORT_GAME"],
    }
    kubectl("create", "-f", "-", stdin=json.dumps(serving))
    kubectl("wait", "pod/game", "--for=condition=Ready", "--timeout=60s")
    assert kubectl.get("pod", "game")["spec"]["nodeName"] == OTHER
    kubectl("delete", "pod", "game", "--grace-period=1")

    open_number(kubectl, OTHER, 20000)
    refused = wait_for(
        "the refusal",
        lambda: preview(kubectl, STATIC, 20000, ONE, OTHER).get("refused", ""),
        lambda said: "PORT_CONFLICT" in said,
        seconds=PROMPT,
    )
    assert re.search(rf"{ONE} by (a )?process.*{OTHER} by (a )?process", refused), refused


def test_what_a_pod_leaves_is_free_again_and_what_a_process_leaves_too(kubectl: Kubectl) -> None:
    name = open_number(kubectl, ONE, 20002)
    wait_until_known(kubectl, ONE, 20002)
    kubectl("delete", "pod", name, "--grace-period=1")

    wait_until_known(kubectl, ONE, 20002, known=False)


def test_an_agent_that_is_killed_says_the_truth_again_when_it_is_back(kubectl: Kubectl, installed: Installed) -> None:
    gone = open_number(kubectl, ONE, 20003)
    wait_until_known(kubectl, ONE, 20003)
    installed.kill(agent_on(installed, ONE), "agent")
    kubectl("delete", "pod", gone, "--grace-period=1")
    open_number(kubectl, ONE, 20004)

    wait_until_known(kubectl, ONE, 20004)
    wait_until_known(kubectl, ONE, 20003, known=False)


def test_an_allocator_that_restarts_knows_what_is_open_within_a_report(kubectl: Kubectl, installed: Installed) -> None:
    open_number(kubectl, ONE, 20005)
    wait_until_known(kubectl, ONE, 20005)
    installed.kill(installed.serving(), "allocator")
    installed.wait_until_settled()

    wait_until_known(kubectl, ONE, 20005)


def test_a_node_that_comes_back_is_told_anew(kubectl: Kubectl, access: Access) -> None:
    """Its Node is deleted and made again, as when a machine is replaced under its name."""
    open_number(kubectl, "n3", 20006)
    wait_until_known(kubectl, "n3", 20006)
    before = access.kubectl.get("node", "n3")
    made = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n3", "labels": before["metadata"]["labels"]}}
    access.kubectl("delete", "node", "n3")
    access.kubectl("create", "-f", "-", stdin=json.dumps(made))
    access.kubectl("wait", "node/n3", "--for=condition=Ready", "--timeout=60s")

    wait_until_known(kubectl, "n3", 20006)


def test_a_node_that_is_rebooted_is_told_as_it_is_then(kubectl: Kubectl, installed: Installed) -> None:
    """One process starts again with its node, and another does not."""
    ends, starts = open_number(kubectl, "n3", 20008, restart="Never"), open_number(kubectl, "n3", 20009)
    wait_until_known(kubectl, "n3", 20008)
    wait_until_known(kubectl, "n3", 20009)
    before = agent_on(installed, "n3")

    installed.driver.reboot("n3")
    wait_until("its agent to run again", lambda: starts_of(agent_on(installed, "n3")) > starts_of(before), seconds=120)
    installed.wait_until_settled(seconds=120)
    kubectl("wait", f"pod/{ends}", "--for=jsonpath={.status.phase}=Failed", "--timeout=60s")
    kubectl("wait", f"pod/{starts}", "--for=condition=Ready", "--timeout=60s")

    wait_until_known(kubectl, "n3", 20009)
    wait_until_known(kubectl, "n3", 20008, known=False)


def starts_of(pod: Json) -> int:
    count: int = pod["status"]["containerStatuses"][0]["restartCount"]
    return count


@contextmanager
def speaking_as(installed: Installed, agent: Json) -> Iterator[rpc.AllocatorServiceStub]:
    """The allocator, for whoever has the token of an agent."""
    kubectl, name = installed.kubectl, agent["metadata"]["name"]
    bound = ("--bound-object-kind=Pod", f"--bound-object-name={name}", "--audience=hostport.io")
    token = kubectl("create", "token", AGENT, *bound).stdout.strip()
    authority = kubectl.get("configmap", "hostport-ca")["data"]["ca.crt"].encode()
    credentials = grpc.composite_channel_credentials(
        grpc.ssl_channel_credentials(authority), grpc.access_token_call_credentials(token)
    )
    address = kubectl.get("service", ALLOCATOR)["spec"]["clusterIP"]
    options = [("grpc.ssl_target_name_override", f"{ALLOCATOR}.{NAMESPACE}.svc")]
    with grpc.secure_channel(f"{address}:50052", credentials, options=options) as channel:
        yield rpc.AllocatorServiceStub(channel)


def refusal_of(stub: rpc.AllocatorServiceStub, reports: Iterable[pb.ReportNodeRequest], seconds: float = 10) -> str:
    """The reason why what an agent says is refused; empty where it is not."""
    try:
        list(stub.ReportNode(iter(reports), timeout=seconds))
    except grpc.RpcError as error:
        info = error_details_pb2.ErrorInfo()
        for detail in getattr(rpc_status.from_call(cast("grpc.Call", error)), "details", ()):
            detail.Unpack(info)
        return str(info.reason or error)
    return ""


def opened(*numbers: int) -> list[pb.Socket]:
    return [pb.Socket(protocol=pb.PROTOCOL_TCP, port=number, process="liar") for number in numbers]


def snapshot(node: str, *numbers: int, more: bool = False) -> pb.ReportNodeRequest:
    return pb.ReportNodeRequest(node=node, snapshot=True, opened=opened(*numbers), more=more)


def forged(installed: Installed, agent: Json, node: str) -> str:
    """The reason why a report about a node is refused that comes with the token of this agent; empty where it is not."""
    with speaking_as(installed, agent) as stub:
        return refusal_of(stub, [snapshot(node, 20007)])


def when_known(said: Callable[[], str]) -> str:
    """What is said once it is known who reports. An allocator that has just started asks callers to try again."""
    unknown = {"ACCESS_UNKNOWN", "NOT_SERVING"}
    return wait_for("who reports to be known", said, lambda reason: reason not in unknown, seconds=60)


def test_an_agent_speaks_of_its_own_node_alone(kubectl: Kubectl, installed: Installed) -> None:
    liar = agent_on(installed, ONE)
    reason = when_known(lambda: forged(installed, liar, OTHER))
    assert reason == "NODE_NOT_ITS_OWN"
    assert kept_off(preview(kubectl, STATIC, 20007, ONE, OTHER)) == set()


def test_an_agent_that_floods_is_held_back_and_nobody_else_waits(kubectl: Kubectl, installed: Installed) -> None:
    liar, before = agent_on(installed, "n3"), installed.metric("process_resident_memory_bytes")
    many = opened(*range(30000, 31000))
    parts = [opened(*range(first, first + 1000)) for first in range(20000, 26000, 1000)]
    too_many = [pb.ReportNodeRequest(opened=part, more=part is not parts[-1]) for part in parts]
    sent, is_over = itertools.count(), threading.Event()

    def without_end() -> Iterator[pb.ReportNodeRequest]:
        yield snapshot("n3")
        while not is_over.is_set():
            next(sent)
            yield pb.ReportNodeRequest(opened=many)
            yield pb.ReportNodeRequest(closed=many)

    with speaking_as(installed, liar) as stub:
        too_large = when_known(lambda: refusal_of(stub, [snapshot("n3", more=True), *too_many]))
        assert too_large == "REPORT_TOO_LARGE"
        flood = threading.Thread(target=refusal_of, args=(stub, without_end(), 60))
        flood.start()
        took = []
        for _ in range(20):
            began = time.monotonic()
            assert len(numbers(preview(kubectl, DYNAMIC, 0, ONE, OTHER))) == 1
            took.append(time.monotonic() - began)
        is_over.set()
        grown = installed.metric("process_resident_memory_bytes") - before
        flood.join()

    told = {"median_s": round(statistics.median(took), 2), "longest_s": round(max(took), 2), "sent": next(sent)}
    sys.stderr.write(f"\npreviews beside a flood, and how much the allocator grew: {told} {grown / 2**20:.1f} MiB\n")
    assert max(took) < 5, told
    assert grown < 64 * 2**20, told
    open_number(kubectl, "n3", 20010)
    wait_until(
        "the agent of that node to be heard again",
        lambda: "n3" in kept_off(preview(kubectl, STATIC, 20010, ONE, OTHER, "n3")),
        seconds=90,
    )


# -- outgoing connections

REPLICAS, FIRST = 50, 45000
IMAGE = f"{IMG.rsplit(':', 1)[0]}-allocator:{IMG.rsplit(':', 1)[1]}"
TAKEN = 98  # EADDRINUSE
LISTEN = f"""
import os, socket, sys, time
try:
    door = socket.create_server(("", int(os.environ["HOSTPORT_GAME"])))
except OSError as error:
    sys.exit({TAKEN} if error.errno == {TAKEN} else 1)
print("listens", flush=True)
time.sleep(3600)
"""
CHURN = """
import collections, socket, struct, threading, time
door = socket.create_server(("127.0.0.1", 10999), backlog=4096)
reset = struct.pack("ii", 1, 0)
def take():
    held = collections.deque()
    while True:
        held.append(door.accept()[0])
        while len(held) > 8000:
            held.popleft().close()
threading.Thread(target=take, daemon=True).start()
held, count, since = collections.deque(), 0, time.monotonic()
while True:
    client = socket.create_connection(("127.0.0.1", 10999))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)  # no number waits for stray packets
    held.append(client)
    while len(held) > 6000:
        held.popleft().close()
    count += 1
    if count % 1000 == 0:
        print(round(count / (time.monotonic() - since)), "connections a second", flush=True)
    time.sleep(max(0.0, since + count / 5000 - time.monotonic()))
"""


EPHEMERAL = "/proc/sys/net/ipv4/ip_local_port_range"
USUAL, OTHERS = "32768-60999", "40000-60999"


def set_ephemeral(kubectl: Kubectl, node: str, numbers: str) -> None:
    """Has the outgoing connections of a node take other numbers, by a file that is mounted as the one of the agent is."""
    made = pod(f"range-{numbers}", {}, hostNetwork=True, nodeName=node, restartPolicy="Never")
    made["spec"]["volumes"] = [{"name": "range", "hostPath": {"path": EPHEMERAL, "type": "File"}}]
    made["spec"]["containers"][0] |= {
        "image": "busybox:1.37",
        "command": ["sh", "-c", f"echo {numbers.replace('-', ' ')} > /host/range"],
        "volumeMounts": [{"name": "range", "mountPath": "/host/range"}],
    }
    kubectl("create", "-f", "-", stdin=json.dumps(made))
    kubectl("wait", f"pod/{made['metadata']['name']}", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s")


@pytest.fixture
def other_range(kubectl: Kubectl) -> Iterator[str]:
    """Numbers that the connections of the other node take, which are not those of every Linux."""
    set_ephemeral(kubectl, OTHER, OTHERS)
    yield OTHERS
    set_ephemeral(kubectl, OTHER, USUAL)


def churn(kubectl: Kubectl, node: str) -> None:
    """Has a program of a node connect 5,000 times a second, with 6,000 connections open at a time."""
    made = pod("churn", {}, hostNetwork=True, nodeName=node)
    made["spec"]["containers"][0] |= {"image": IMAGE, "command": ["python3", "-c", CHURN]}
    kubectl("create", "-f", "-", stdin=json.dumps(made))
    wait_until("it to churn", lambda: connections(kubectl) > 0, seconds=60)


def connections(kubectl: Kubectl) -> int:
    """How many it has made, in thousands."""
    return kubectl.run("logs", "churn").stdout.count("connections a second")


def listening(kubectl: Kubectl) -> int:
    """How many of the programs listen on their number."""
    logs = ("logs", "--selector=app=game", "--tail=-1", f"--max-log-requests={REPLICAS}", "--ignore-errors")
    return kubectl.run(*logs).stdout.count("listens")


def starts_in_vain(kubectl: Kubectl, node: str) -> tuple[int, int]:
    """Starts 50 programs on 50 numbers; how often one of them found its own taken, and how many listen in the end.

    It ends with the first that found its own taken, once all were started.
    """
    notes = hostport(policy="Dynamic", min_port=FIRST, max_port=FIRST + REPLICAS - 1)
    made = workload("Deployment", "game", notes, port(80, "game"), replicas=REPLICAS, pod_spec=on_nodes(node))
    made["spec"]["template"]["spec"]["containers"][0] |= {"image": IMAGE, "command": ["python3", "-c", LISTEN]}
    before, began = connections(kubectl), time.monotonic()
    kubectl("create", "-f", "-", stdin=json.dumps(made))
    in_vain, listen, are_running = 0, 0, False
    while time.monotonic() < began + 240:
        listen = listening(kubectl) if are_running else 0  # before the statuses, which show who had to start again
        statuses = [
            status for each in kubectl.pods("app=game") for status in each["status"].get("containerStatuses", ())
        ]
        codes = [
            each[state].get("terminated", {}).get("exitCode") for each in statuses for state in ("state", "lastState")
        ]
        in_vain = max(in_vain, codes.count(TAKEN))
        are_running = len(statuses) == REPLICAS and all("running" in each["state"] for each in statuses)
        if len(statuses) == REPLICAS and (in_vain or listen == REPLICAS):
            break
        time.sleep(1)
    rate = 1000 * (connections(kubectl) - before) / (time.monotonic() - began)
    sys.stderr.write(f"\n{in_vain} in vain, {listen} listen, beside {rate:.0f} connections a second\n")
    assert rate > 0, "nothing connects"
    return in_vain, listen


def test_an_outgoing_connection_keeps_a_program_from_its_number_and_reserve_does_not_let_it(
    driver: Driver, clone: Path, kubectl: Kubectl, installed: Installed, other_range: str
) -> None:
    churn(kubectl, OTHER)
    asked = json.dumps(
        pod("told", hostport(policy="Dynamic", min_port=FIRST, max_port=FIRST + 9), port(80, "game"), **on_nodes(OTHER))
    )
    wait_for(
        "the warning of the node's own range",
        lambda: kubectl("create", "--dry-run=server", "-f", "-", stdin=asked).stderr,
        lambda said: other_range in said,
        seconds=PROMPT,
    )
    in_vain, _ = starts_in_vain(kubectl, OTHER)
    assert in_vain > 0
    kubectl("delete", "deployment", "game")
    wait_until("its Pods to be gone", lambda: not kubectl.get("pods", "-l", "app=game")["items"], seconds=90)

    run_agents(driver, clone, installed, "agent-reserve")
    # The agent is connected, and the allocator has what the one before it said until it has reported.
    wait_until(
        "it to say that it reserves", lambda: "(--reserve)" in command_line(installed.access, "node", OTHER).stderr
    )
    assert starts_in_vain(kubectl, OTHER) == (0, REPLICAS)
