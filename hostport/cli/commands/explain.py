"""`hostport explain`: why a Pod has its host ports, or has none."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

import click

from hostport.cli import cluster
from hostport.cli.exits import CliError, Exit
from hostport.cli.explaining import Explanation, Facts, explain
from hostport.cli.kubectl import Kubectl, KubectlError
from hostport.cli.options import NAMESPACE, Command, asking
from hostport.cli.printing import plain_table, show_data, styled
from hostport.cli.session import Session
from hostport.client.errors import NotFoundError
from hostport.services import Selecting, parse_service
from hostport.v1 import allocator_pb2 as pb
from shim.settings import ALLOCATION_ID

EVENTS = "/apis/events.k8s.io/v1/namespaces/{}/events?fieldSelector=reason%3DFailedCreate"
WEBHOOK = "pods.hostport.io"


@click.command("explain", cls=Command)
@click.argument("pod")
@click.option("-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table", show_default=True,
              help="What to print.")  # fmt: skip
@asking(NAMESPACE)
async def explain_pod(session: Session, pod: str, output: str) -> int:
    """Tell why POD has its host ports, or has none.

    Was it sent to the webhook? What did it ask for, where may it run, which rule chose each number? The exit status
    is 1 when it asked for ports and lacks them. Reads the Pod through kubectl.
    """
    namespace, name = await session.namespace_of_pod(), pod.removeprefix("pod/")
    told = explain(await _facts(session, namespace, name))
    if output == "table":
        click.echo("\n".join(_lines(told)))
    else:
        show_data(output, asdict(told))
    return Exit.OK if told.is_good else Exit.FAILED


async def _facts(session: Session, namespace: str, name: str) -> Facts:
    kubectl = session.kubectl
    pod, place, configuration, services = await asyncio.gather(
        _pod(kubectl, namespace, name),
        kubectl.get(f"/api/v1/namespaces/{namespace}"),
        _configuration(kubectl),
        _services(kubectl, namespace),
    )
    return Facts(
        pod=pod,
        namespace_labels=place["metadata"].get("labels") or {},
        configuration=configuration,
        services=services,
        found=await _allocation(session, (pod["metadata"].get("annotations") or {}).get(ALLOCATION_ID, "")),
    )


async def _pod(kubectl: Kubectl, namespace: str, name: str) -> Any:
    """The Pod; where there is none, the error tells what was denied to Pods of that name."""
    try:
        return await kubectl.get(f"/api/v1/namespaces/{namespace}/pods/{name}")
    except KubectlError as error:
        if error.reason != "NotFound":
            raise
        denied = await _denials(kubectl, namespace, name)
        hint = denied or "if its controller cannot create it, `kubectl describe` of the controller tells why"
        raise CliError(f"there is no Pod {name} in namespace {namespace}: {hint}", Exit.NOT_FOUND) from error


async def _denials(kubectl: Kubectl, namespace: str, name: str) -> str:
    """The newest denial that a controller tells whose Pods have such names."""
    try:
        events = (await kubectl.get(EVENTS.format(namespace)))["items"]
    except KubectlError:
        return ""
    told = [each for each in events if WEBHOOK in each.get("note", "") and name.startswith(each["regarding"]["name"])]
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


async def _configuration(kubectl: Kubectl) -> Any:
    try:
        return await cluster.webhook_configuration(kubectl)
    except KubectlError as error:
        if error.reason == "NotFound":
            return None
        raise


async def _allocation(session: Session, allocation_id: str) -> pb.GetAllocationResponse | None:
    if not allocation_id:
        return None
    async with session.allocator() as allocator:
        try:
            found: pb.GetAllocationResponse = await allocator.call(
                "GetAllocation", pb.GetAllocationRequest(id=allocation_id)
            )
        except NotFoundError:
            return None
    return found


def _lines(told: Explanation) -> list[str]:
    lines = [styled(told.verdict, "green" if told.is_good else "bold red"), ""]
    lines += [f"{f'{key}:':<13}{value}" for key, value in told.facts.items()]
    if told.mistakes:
        lines += ["", "What is wrong with it:", *(f"  {mistake}" for mistake in told.mistakes)]
    if told.warnings:
        lines += ["", "Warnings:", *(f"  {warning}" for warning in told.warnings)]
    if told.ports:
        rows = [[port.container, port.name, port.old, str(port.number), port.rule] for port in told.ports]
        lines += ["", *plain_table(["CONTAINER", "PORT", "ASKED", "NUMBER", "RULE"], rows)]
    return lines
