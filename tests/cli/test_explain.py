"""Why a Pod has its ports, or has none: what `hostport explain` says, whole. Pods are made by the webhook's own code."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from clikit import hostport_here

from hostport.contract.policies import POLICIES
from hostport.services import parse_service
from hostport.v1 import allocator_pb2 as pb
from hostport_cli.cluster import webhook_of
from hostport_cli.commands.explain import _lines, label_selector
from hostport_cli.explaining import PodFacts, explain
from hostport_cli.steered import excluded_nodes
from shim.offline import offline_allocator
from shim.render import read_files, render_pods

ROOT = Path(__file__).parents[2]
ID = "0af7651916cd43dd8448eb211c80319c"


def admitted(example: str, position: int = 0) -> dict[str, Any]:
    """A Pod of an example as it is stored, with its id, on node n2."""
    out, err = io.StringIO(), io.StringIO()
    pods = read_files([str(ROOT / "examples" / example)]).pods
    asyncio.run(render_pods(pods, offline_allocator(), dry_run=False, output="json", out=out, err=err))
    pod: dict[str, Any] = json.loads(out.getvalue())["items"][position]
    pod["metadata"]["annotations"]["hostport.io/allocation-id"] = ID
    pod["metadata"].setdefault("name", "web-x7k2p")
    pod["metadata"]["creationTimestamp"] = "2026-11-24T12:00:00Z"
    pod["spec"]["nodeName"] = "n2"
    pod["status"] = {"phase": "Running"}
    return pod


def asking(**annotations: str) -> dict[str, Any]:
    """A Pod that nobody changed."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "web-0",
            "namespace": "demo",
            "creationTimestamp": "2026-11-24T12:00:00Z",
            "annotations": {f"hostport.io/{key.replace('_', '-')}": value for key, value in annotations.items()},
        },
        "spec": {"containers": [{"name": "web", "ports": [{"containerPort": 80, "protocol": "TCP"}]}]},
        "status": {"phase": "Running"},
    }


def found(state: pb.State.ValueType = pb.STATE_BOUND, **more: Any) -> pb.GetAllocationResponse:
    return pb.GetAllocationResponse(allocation=pb.Allocation(id=ID, state=state, node="n2", **more), candidate_count=3)


def configuration(created: str = "2026-11-20T12:00:00Z", **webhook: Any) -> dict[str, Any]:
    made = yaml.safe_load((ROOT / "deploy" / "base" / "webhook.yaml").read_text(encoding="utf-8"))
    made["metadata"]["creationTimestamp"] = created
    webhook_of(made).update(webhook)
    return dict(made)


def told(pod: dict[str, Any], **facts: Any) -> str:
    everything: dict[str, Any] = {
        "namespace_labels": {"kubernetes.io/metadata.name": pod["metadata"]["namespace"]},
        "configuration": configuration(),
        "found": found(),
    }
    return "\n".join(_lines(explain(PodFacts(pod=pod, **everything | facts))))


def test_a_replica_of_a_stateful_set_is_told_how_its_numbers_came_about() -> None:
    assert (
        told(admitted("distributed-db.yaml", 1))
        == f"""\
It has its ports.

Pod:         default/distributed-db-1, Running on n2
Webhook:     hostport-operator, failurePolicy Fail
Policy:      Index, from 10000 to 11000, stride 100
Index:       1, of label apps.kubernetes.io/pod-index
Allocation:  {ID}, BOUND on n2

CONTAINER   PORT      ASKED      NUMBER   RULE
db          primary   8080/TCP   10001    10000 + 1
db          metrics   9090/TCP   10101    10000 + 1 + 1 * 100"""
    )


def test_a_pod_that_waits_for_a_node_is_told_how_many_there_are_for_it() -> None:
    assert told(admitted("distributed-db.yaml"), found=found(pb.STATE_CONFIRMED)).splitlines()[6:8] == [
        "Candidates:  3 nodes where it may run, as things stand",
        f"Allocation:  {ID}, CONFIRMED on n2",
    ]


def test_a_pod_with_policy_dynamic_is_told_where_its_number_was_searched() -> None:
    assert told(admitted("game-server.yaml")).splitlines()[-2:] == [
        "game        game       7777/UDP   20000    lowest of 20000-20999 that was free where it may run",
        "game        game-tcp   7777/TCP   20000    lowest of 20000-20999 that was free where it may run",
    ]


def test_a_pod_with_a_network_of_its_own_is_told_that_numbers_are_mapped() -> None:
    pod = admitted("edge-proxy.yaml")
    pod["spec"]["hostNetwork"] = False

    assert "Network:     its own: the node maps each number to the containerPort" in told(pod).splitlines()


def test_a_port_that_was_fixed_is_told_to_be() -> None:
    fixed = "proxy       https   8443/TCP   8443     the hostPort that was written"

    assert told(admitted("edge-proxy.yaml")).splitlines()[-1] == fixed


VERDICTS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "did not ask": (asking(), {}, "It did not ask: it has no annotation hostport.io/enabled."),
    "switched off": (asking(enabled="false"), {}, "It was left alone: hostport.io/enabled is not true."),
    "would be denied": (asking(enabled="true", policy="dynamic"), {},
                        "It has no ports from us, and would be denied today."),
    "no webhook": (
        asking(enabled="true"), {"configuration": None},
        "It asked, and was never sent to the webhook: the webhook is not installed. Install it, and create the Pod anew.",
    ),
    "an excluded namespace": (
        asking(enabled="true"), {"namespace_labels": {"hostport.io/webhook": "ignore"}},
        "It asked, and was never sent to the webhook: the webhook leaves namespace demo alone (namespaceSelector).",
    ),
    "older than the webhook": (
        asking(enabled="true"), {"configuration": configuration("2026-11-24T13:00:00Z")},
        "It asked, and was never sent to the webhook: it is older than the webhook's configuration. Create it anew.",
    ),
    "failed open": (
        asking(enabled="true"), {"configuration": configuration(failurePolicy="Ignore")},
        ("It asked, and was never sent to the webhook: failurePolicy is Ignore, and the webhook did not answer then."
        " Create the Pod anew."),
    ),
    "annotated later": (
        asking(enabled="true"), {},
        ("It asked, and was never sent to the webhook: the annotation was added to a Pod that existed, where it has no"
        " effect. Create the Pod anew."),
    ),
    "unknown to the allocator": (
        admitted("distributed-db.yaml"), {"found": None},
        "It carries numbers that the allocator does not hold for it: delete it, so that it is made anew.",
    ),
    "waits for a node": (
        admitted("distributed-db.yaml"), {"found": found(pb.STATE_CONFIRMED)},
        "It has its numbers, and waits for a node.",
    ),
    "unplaceable": (
        admitted("distributed-db.yaml"), {"found": found(pb.STATE_CONFIRMED, unplaceable=True)},
        "It has numbers, and they are free on no node where it may run: free a port, or add a node.",
    ),
    "finished": (
        admitted("distributed-db.yaml") | {"status": {"phase": "Succeeded"}}, {"found": None},
        "It has finished (Succeeded): its ports are free again.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", VERDICTS)
def test_the_first_line_says_why_it_has_ports_or_has_none(case: str) -> None:
    pod, facts, verdict = VERDICTS[case]

    assert told(pod, **facts).splitlines()[0] == verdict


@pytest.mark.parametrize(
    "table",
    ["null", "true", "-1", "[null]", '[{"container": 1}]', '[{"container": "c", "containerPort": "x"}]', "[" * 9999],
    ids=lambda table: table[:40],
)
def test_a_table_that_anybody_may_have_written_is_taken_for_an_empty_one(table: str) -> None:
    pod = admitted("distributed-db.yaml")
    pod["metadata"]["annotations"]["hostport.io/allocations"] = table

    first, *rest = told(pod, found=found()).splitlines()

    assert first == "It has its ports."
    assert not [line for line in rest if line.startswith("CONTAINER")]


def test_what_would_be_denied_is_told_in_the_words_of_the_denial() -> None:
    assert told(asking(enabled="true", policy="dynamic", min_port="many")).splitlines()[-3:] == [
        "What is wrong with it:",
        (
            '  UNKNOWN_POLICY: annotation hostport.io/policy: "dynamic" is none of '
            f'{", ".join(POLICIES)}; did you mean "Dynamic"?'
        ),
        '  NOT_A_NUMBER: annotation hostport.io/min-port: "many" is not a number: write decimal digits in quotes',
    ]


def test_warnings_of_the_admission_and_services_that_lead_nowhere_are_told() -> None:
    pod = admitted("game-server.yaml")
    pod["metadata"]["annotations"]["hostport.io/warnings"] = "PORT_MOVED,OF_LATER"
    pod["metadata"]["labels"] = {"app": "game"}
    port = {"port": 7777, "protocol": "UDP"}
    made = {
        "metadata": {"name": "front", "namespace": "default"},
        "spec": {"selector": {"app": "game"}, "ports": [port]},
    }
    service = parse_service(made)
    assert service is not None

    lines = told(pod, services=(service,)).splitlines()

    start = lines.index("Warnings:")
    assert lines[start + 1 : start + 4] == [
        "  PORT_MOVED: A port moved, and nothing in the Pod names its HOSTPORT_ variable",
        "  OF_LATER: see docs/contract.md",
        ("  SERVICE_OLD_PORT: Service front sends port 7777/UDP to 7777, which moved to 20000: set targetPort: game"),
    ]


SELECTORS: dict[str, tuple[dict[str, Any], str]] = {
    "labels": ({"matchLabels": {"app": "web", "tier": "1"}}, "app=web,tier=1"),
    "expressions": (
        {
            "matchExpressions": [
                {"key": "app", "operator": "In", "values": ["web", "api"]},
                {"key": "old", "operator": "NotIn", "values": ["yes"]},
                {"key": "here", "operator": "Exists"},
                {"key": "gone", "operator": "DoesNotExist"},
            ]
        },
        "app in (web,api),old notin (yes),here,!gone",
    ),
}


@pytest.mark.parametrize("case", SELECTORS)
def test_the_pods_of_a_workload_are_found_by_its_selector(case: str) -> None:
    selector, expected = SELECTORS[case]

    assert label_selector(selector) == expected


@pytest.mark.parametrize(
    "arguments", [[], ["web-0", "-l", "app=web"], ["svc/web"]], ids=["nothing", "both", "a kind without Pods"]
)
def test_what_is_to_be_explained_is_said_once(arguments: list[str]) -> None:
    ended = hostport_here("explain", "-n", "demo", *arguments)

    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)


def kept_off(*fields: dict[str, Any], **term: Any) -> dict[str, Any]:
    """The affinity of a Pod with one term."""
    required = {"nodeSelectorTerms": [{"matchFields": list(fields)} | term]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}


def off(*names: str) -> list[dict[str, Any]]:
    return [{"key": "metadata.name", "operator": "NotIn", "values": [name]} for name in names]


def test_a_pod_that_waits_is_told_which_nodes_it_is_kept_off_and_by_whom() -> None:
    pod = admitted("distributed-db.yaml", 1)
    del pod["spec"]["nodeName"]
    pod["spec"]["affinity"] = kept_off(*off("n3", "n1"))
    number = pod["spec"]["containers"][0]["ports"][0]["hostPort"]
    relay, sshd = (
        pb.Owner(kind="Relay", namespace="eu", name="r1"),
        pb.ForeignHolder(kind=pb.ForeignHolder.KIND_PROCESS, name="sshd"),
    )
    held = {
        "n1": [
            pb.HeldPort(protocol=pb.PROTOCOL_TCP, host_port=number, owner=relay),
            pb.HeldPort(protocol=pb.PROTOCOL_TCP, host_port=number, foreign=sshd),
            pb.HeldPort(protocol=pb.PROTOCOL_TCP, host_port=1, owner=relay),
        ],
        "n3": [pb.HeldPort(protocol=pb.PROTOCOL_UDP, host_port=number, owner=relay)],
        "n4": [pb.HeldPort(protocol=pb.PROTOCOL_TCP, host_port=number - 1, count=2, owner=relay)],
    }

    lines = told(pod, held=held, found=found(pb.STATE_CONFIRMED, unplaceable=True)).splitlines()

    (line,) = [line for line in lines if line.startswith("Kept off")]
    assert line == (
        f"Kept off:    n1 ({number}/TCP by Relay/eu/r1, {number}/TCP by process/sshd), n3 (nobody has its numbers there"
        f" now: a new Pod may go there), n4 ({number - 1}-{number}/TCP by Relay/eu/r1)"
    )


@pytest.mark.parametrize(
    ("affinity", "names"),
    [
        (None, []),
        ({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": None}}, []),
        (kept_off(*off("n2", "n1")), ["n1", "n2"]),
        (kept_off({"key": "metadata.name", "operator": "In", "values": ["n1"]}), []),
        (kept_off(*off("n1"), matchExpressions=[{"key": "x", "operator": "Exists"}]), ["n1"]),
    ],
    ids=["no affinity", "nothing required", "two names", "another operator", "beside expressions"],
)
def test_the_names_that_a_pod_is_kept_off_stand_in_its_affinity(affinity: Any, names: list[str]) -> None:
    assert excluded_nodes({"spec": {"affinity": affinity}}) == names


def test_a_node_is_excluded_where_each_term_does_so() -> None:
    affinity = kept_off(*off("n1", "n2"))
    affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"] += [
        {},
        {"matchFields": off("n2")},
    ]

    assert excluded_nodes({"spec": {"affinity": affinity}}) == ["n2"]
