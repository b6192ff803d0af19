"""`hostport explain`: why a Pod has its host ports, or has none."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import quote

import click

from hostport.client.errors import NotFoundError
from hostport.services import Selecting, parse_service
from hostport.v1 import allocator_pb2 as pb
from hostport_cli import cluster
from hostport_cli.exits import CliError, Exit
from hostport_cli.explaining import Explanation, PodFacts, explain
from hostport_cli.kubectl import Kubectl, KubectlError, together
from hostport_cli.options import NAMESPACE, Command, asking
from hostport_cli.printing import plain_table, show_data, styled, visible
from hostport_cli.session import Session
from hostport_cli.steered import excluded_nodes
from shim.annotations import ALLOCATION_ID

EVENTS = "/apis/events.k8s.io/v1/namespaces/{}/events?fieldSelector=reason%3DFailedCreate"
WEBHOOK = "pods.hostport.io"
NO_POD = "if its controller cannot create it, `kubectl describe` of the controller tells why"
POD = {"pod", "pods", "po"}
_APPS, _BATCH = "/apis/apps/v1/namespaces/{{}}/{}/{{}}", "/apis/batch/v1/namespaces/{{}}/{}/{{}}"
_KINDS = {
    _APPS.format("deployments"): ("deploy", "deployment", "deployments"),
    _APPS.format("statefulsets"): ("sts", "statefulset", "statefulsets"),
    _APPS.format("daemonsets"): ("ds", "daemonset", "daemonsets"),
    _APPS.format("replicasets"): ("rs", "replicaset", "replicasets"),
    _BATCH.format("jobs"): ("job", "jobs"),
}
WORKLOADS = {alias: path for path, aliases in _KINDS.items() for alias in aliases}
"""Paths of the API, for a namespace and a name, by the names that kubectl knows."""


@click.command("explain", cls=Command)
@click.argument("what", metavar="[POD | KIND/NAME]", default="")
@click.option("-l", "--selector", metavar="LABELS", default="", help="The Pods with these labels, as for kubectl.")
@click.option("-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table", show_default=True,
              help="What to print.")  # fmt: skip
@asking(NAMESPACE)
async def explain_pod(session: Session, what: str, selector: str, output: str) -> int:
    """Tell why a Pod has its host ports, or has none.

    Was it sent to the webhook? What did it ask for, where may it run, which rule chose each number? The exit status
    is 1 when one asked for ports and lacks them. Reads the Pods through kubectl.

    \b
    hostport explain web-0
    hostport explain deploy/web   # all of its Pods; also sts, ds, rs and job
    hostport explain -l app=web
    """  # noqa: D301 - click keeps the lines after its mark
    if bool(what) == bool(selector):
        raise click.UsageError("name a Pod, a workload as KIND/NAME, or labels by -l; one of them")
    namespace = await session.namespace_of_pod()
    pods = await _pods_meant(session.kubectl, namespace, what, selector)
    told = [explain(facts) for facts in await _pod_facts(session, namespace, pods)]
    if output == "table":
        click.echo("\n\n".join("\n".join(_lines(each)) for each in told))
    else:
        plain = [asdict(each) for each in told]
        show_data(output, plain if _is_many(what) else plain[0])
    return Exit.OK if all(each.is_good for each in told) else Exit.FAILED


def _is_many(what: str) -> bool:
    """Whether it may be several Pods, whose number is not known before."""
    kind, slash, _ = what.partition("/")
    return not what or (bool(slash) and kind not in POD)


async def _pod_facts(session: Session, namespace: str, pods: Sequence[Any]) -> list[PodFacts]:
    """What there is to know of Pods of one namespace, in their order."""
    kubectl = session.kubectl
    place, configuration, services = await together(
        kubectl.get(f"/api/v1/namespaces/{namespace}"),
        kubectl.find(cluster.CONFIGURATION_PATH),
        _services(kubectl, namespace),
    )
    ids = [(pod["metadata"].get("annotations") or {}).get(ALLOCATION_ID, "") for pod in pods]
    allocations = await _allocations(session, ids)
    held = await _held_on_nodes(session, pods)
    return [
        PodFacts(
            pod=pod,
            namespace_labels=place["metadata"].get("labels") or {},
            configuration=configuration,
            services=services,
            found=allocations.get(allocation_id),
            held={name: held[name] for name in _nodes_to_ask(pod) if name in held},
        )
        for pod, allocation_id in zip(pods, ids, strict=True)
    ]


async def _pods_meant(kubectl: Kubectl, namespace: str, what: str, selector: str) -> list[Any]:
    """The Pods that are meant.

    Raises:
        CliError: there are none; it tells what was denied to Pods of that name.

    """
    kind, slash, name = what.rpartition("/")
    if what and (not slash or kind in POD):
        return [await _pod(kubectl, namespace, name)]
    if what and kind not in WORKLOADS:
        raise click.UsageError(f"{kind!r} is no kind that makes Pods: {', '.join(sorted(WORKLOADS))}")
    if what:
        workload = await kubectl.get(WORKLOADS[kind].format(namespace, quote(name)))
        selector = label_selector(workload["spec"]["selector"])
    path = f"/api/v1/namespaces/{namespace}/pods?labelSelector={quote(selector, safe='')}"
    pods: list[Any] = (await kubectl.get(path))["items"]
    if not pods:
        hint = await _denials(kubectl, namespace, lambda owner: owner.startswith(name)) if what else ""
        raise CliError(f"{what or selector} has no Pods in namespace {namespace}: {hint or NO_POD}", Exit.NOT_FOUND)
    return pods


def label_selector(selector: Mapping[str, Any]) -> str:
    """The selector of a workload, `matchLabels` and `matchExpressions`, as the API takes it in a query."""
    wanted = [f"{key}={value}" for key, value in (selector.get("matchLabels") or {}).items()]
    for each in selector.get("matchExpressions") or ():
        key, values = each["key"], ",".join(each.get("values") or ())
        forms = {
            "In": f"{key} in ({values})",
            "NotIn": f"{key} notin ({values})",
            "Exists": key,
            "DoesNotExist": f"!{key}",
        }
        wanted.append(forms[each["operator"]])
    return ",".join(wanted)


async def _pod(kubectl: Kubectl, namespace: str, name: str) -> Any:
    """The Pod; where there is none, the error tells what was denied to Pods of that name."""
    pod = await kubectl.find(f"/api/v1/namespaces/{namespace}/pods/{quote(name)}")
    if pod is None:
        hint = await _denials(kubectl, namespace, name.startswith) or NO_POD
        raise CliError(f"there is no Pod {name} in namespace {namespace}: {hint}", Exit.NOT_FOUND)
    return pod


async def _denials(kubectl: Kubectl, namespace: str, is_meant: Callable[[str], bool]) -> str:
    """The newest denial that a controller tells, of those whose name is meant; empty where there is none."""
    try:
        events = (await kubectl.get(EVENTS.format(namespace)))["items"]
    except KubectlError:
        return ""
    told = [each for each in events if WEBHOOK in each.get("note", "") and is_meant(each["regarding"]["name"])]
    if not told:
        return ""
    newest = max(told, key=lambda each: each.get("deprecatedLastTimestamp") or each["metadata"]["creationTimestamp"])
    regarding, note = newest["regarding"], " ".join(newest["note"].partition(WEBHOOK)[2].split())
    return f"the last Pod of {regarding['kind']} {regarding['name']} was denied: {note.partition(': ')[2] or note}"


async def _services(kubectl: Kubectl, namespace: str) -> tuple[Selecting, ...]:
    """The Services that find ports by number; none where one may not look."""
    try:
        listed = (await kubectl.get(f"/api/v1/namespaces/{namespace}/services"))["items"]
    except KubectlError as error:
        if error.reason != "Forbidden":
            raise
        return ()
    return tuple(service for each in listed if (service := parse_service(each, namespace)))


async def _allocations(session: Session, ids: Sequence[str]) -> dict[str, pb.GetAllocationResponse]:
    """Those of these ids that the allocator has. It is not asked where there is no id."""
    found: dict[str, pb.GetAllocationResponse] = {}
    if not any(ids):
        return found
    async with session.allocator() as allocator:
        for each in filter(None, ids):
            with contextlib.suppress(NotFoundError):
                found[each] = await allocator.call("GetAllocation", pb.GetAllocationRequest(id=each))
    return found


def _nodes_to_ask(pod: Any) -> list[str]:
    """The nodes to ask about: a Pod of ours that has a node is kept off no other."""
    is_ours = ALLOCATION_ID in (pod["metadata"].get("annotations") or {})
    return excluded_nodes(pod) if is_ours and not pod["spec"].get("nodeName") else []


async def _held_on_nodes(session: Session, pods: Sequence[Any]) -> dict[str, Sequence[pb.HeldPort]]:
    """What is held on the nodes that some of the Pods are kept off; the allocator is not asked where there are none."""
    held: dict[str, Sequence[pb.HeldPort]] = {}
    names = sorted({name for pod in pods for name in _nodes_to_ask(pod)})
    if not names:
        return held
    async with session.allocator() as allocator:
        for name in names:
            with contextlib.suppress(NotFoundError):
                held[name] = (await allocator.call("GetNode", pb.GetNodeRequest(name=name))).ports
    return held


def _lines(told: Explanation) -> list[str]:
    lines = [styled(visible(told.verdict), "green" if told.is_good else "bold red"), ""]
    lines += [visible(f"{f'{key}:':<13}{value}") for key, value in told.facts.items()]
    if told.mistakes:
        lines += ["", "What is wrong with it:", *(visible(f"  {mistake}") for mistake in told.mistakes)]
    if told.warnings:
        lines += ["", "Warnings:", *(visible(f"  {warning}") for warning in told.warnings)]
    if told.ports:
        titles = ["CONTAINER", "PORT", "ASKED", "NUMBER", "RULE"]
        rows = [[port.container, port.name, port.old, port.numbers, port.rule] for port in told.ports]
        if any(port.listening for port in told.ports):
            titles.append("LISTENING")
            rows = [[*row, port.listening] for row, port in zip(rows, told.ports, strict=True)]
        lines += ["", *plain_table(titles, rows)]
    return lines
