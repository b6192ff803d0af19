"""Why a Pod has its host ports, or has none: facts in, sentences out. Pure.

What the annotations ask for is read by the webhook's own parser, so that it cannot differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hostport.allocations import AllocationRow, parse_allocations
from hostport.contract import Mistake, Notice
from hostport.contract.policies import DEFAULT_POLICY, POLICIES, PolicyTerms
from hostport.contract.words import format_run
from hostport.services import Selecting, moved_ports
from hostport.timestamps import seconds_of
from hostport.v1 import allocator_pb2 as pb
from hostport_cli import wording
from hostport_cli.cluster import selects, webhook_of
from hostport_cli.steered import holders_told
from shim.allocation_request import COMPLETION_INDEX, POD_INDEX
from shim.annotations import ALLOCATION_ID, ALLOCATIONS, ENABLED, WARNINGS
from shim.manifests import admission_review
from shim.review import Denied, NotOurs, ReviewError, ToAllocate, parse_review


@dataclass(frozen=True, slots=True, kw_only=True)
class PodFacts:
    """What was found.

    configuration: None where there is no webhook. found: None where the allocator has no such allocation.
    held: what is held on the nodes that a Pod without a node is kept off by name.
    """

    pod: Any
    namespace_labels: dict[str, str]
    configuration: Any
    found: pb.GetAllocationResponse | None
    services: tuple[Selecting, ...] = ()
    held: Mapping[str, Sequence[pb.HeldPort]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PortRule:
    """One port, and how it came to its number.

    count: how many numbers it stands for, `number` the first of them. listening: `yes`, `no`, or empty where it is not
    known whether a program listens.
    """

    container: str
    name: str
    old: str
    number: int
    rule: str
    count: int = 1
    listening: str = ""

    @property
    def numbers(self) -> str:
        """`7000`, or a block as `20000-20099`."""
        return format_run(self.number, self.count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What is told. `verdict` is one sentence; `is_good` False: the Pod asked for ports and lacks them."""

    verdict: str
    is_good: bool
    facts: dict[str, str] = field(default_factory=dict)
    ports: tuple[PortRule, ...] = ()
    mistakes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def explain(facts: PodFacts) -> Explanation:
    """Says of one Pod what it asked for, what it was given and by which rule, and what is wrong."""
    pod = facts.pod
    metadata = pod["metadata"]
    annotations: dict[str, str] = metadata.get("annotations") or {}
    asked = _asked(pod)
    told = {
        "Pod": f"{metadata['namespace']}/{metadata['name']}, {_where_it_runs(pod)}",
        "Webhook": _describe_webhook(facts),
    }
    if ENABLED not in annotations:
        return _no(told, f"It did not ask: it has no annotation {ENABLED}.", is_good=True)
    if isinstance(asked, NotOurs):
        return _no(told, f"It was left alone: {asked.why}.", is_good=True)
    if isinstance(asked, Denied) and ALLOCATION_ID not in annotations:
        return _no(told, "It has no ports from us, and would be denied today.", mistakes=asked.mistakes)
    if ALLOCATION_ID not in annotations:
        return _no(told, f"It asked, and was never sent to the webhook: {_why_not_sent(facts)}.")
    if isinstance(asked, ToAllocate):
        told |= _wishes(asked, pod)
    if not pod["spec"].get("hostNetwork"):
        told["Network"] = "its own: the node maps each number to the containerPort"
    ports = tuple(_port_rules(annotations, asked, facts))
    told |= _allocation(annotations[ALLOCATION_ID], facts.found)
    if facts.held:
        told["Kept off"] = holders_told(pod, facts.held)
    verdict, is_good = _standing(pod, facts.found)
    return Explanation(
        verdict=verdict, is_good=is_good, facts=told, ports=ports, warnings=tuple(_warnings(annotations, facts))
    )


def _warnings(annotations: dict[str, str], facts: PodFacts) -> Iterator[str]:
    """What was told at the admission, by its words, and Services that lead nowhere now."""
    for word in filter(None, annotations.get(WARNINGS, "").split(",")):
        meaning = Notice[word].condition if word in Notice.__members__ else "see docs/contract.md"
        yield f"{word}: {meaning}"
    for port in facts.found.allocation.ports if facts.found else ():
        if port.HasField("conflict"):
            taker = wording.foreign(port.conflict)
            yield f"{wording.port(port)} is also the node port of {taker}: kube-proxy takes what is sent to it"
    pod = facts.pod
    if pod["spec"].get("hostNetwork"):
        moved = moved_ports(annotations.get(ALLOCATIONS, ""))
        for service in facts.services:
            if service.selects(pod["metadata"].get("labels") or {}):
                yield from (f"{Notice.SERVICE_OLD_PORT}: {sentence}" for _, sentence in service.lost(moved))


def _no(told: dict[str, str], verdict: str, *, is_good: bool = False, mistakes: Sequence[Mistake] = ()) -> Explanation:
    return Explanation(verdict=verdict, is_good=is_good, facts=told, mistakes=tuple(map(str, mistakes)))


def _asked(pod: Any) -> ToAllocate | Denied | NotOurs | None:
    try:
        return parse_review(json.dumps(admission_review(pod, "explain", dry_run=True)).encode())
    except ReviewError:
        return None


def _where_it_runs(pod: Any) -> str:
    node, phase = pod.get("spec", {}).get("nodeName"), pod.get("status", {}).get("phase", "Unknown")
    return f"{phase} on {node}" if node else f"{phase}, on no node yet"


def _describe_webhook(facts: PodFacts) -> str:
    if facts.configuration is None:
        return "not installed: there is no MutatingWebhookConfiguration hostport-operator"
    webhook = webhook_of(facts.configuration)
    return f"{facts.configuration['metadata']['name']}, failurePolicy {webhook.get('failurePolicy', 'Fail')}"


def _why_not_sent(facts: PodFacts) -> str:
    """In the order in which the API server decides."""
    configuration, namespace = facts.configuration, facts.pod["metadata"]["namespace"]
    if configuration is None:
        return "the webhook is not installed. Install it, and create the Pod anew"
    webhook = webhook_of(configuration)
    if not selects(webhook.get("namespaceSelector") or {}, facts.namespace_labels):
        return f"the webhook leaves namespace {namespace} alone (namespaceSelector)"
    if not selects(webhook.get("objectSelector") or {}, facts.pod["metadata"].get("labels") or {}):
        return "the webhook leaves Pods with these labels alone (objectSelector)"
    created, installed = (seconds_of(each["metadata"].get("creationTimestamp")) for each in (facts.pod, configuration))
    if created and installed and created < installed:
        return "it is older than the webhook's configuration. Create it anew"
    if webhook.get("failurePolicy") == "Ignore":
        return "failurePolicy is Ignore, and the webhook did not answer then. Create the Pod anew"
    return "the annotation was added to a Pod that existed, where it has no effect. Create the Pod anew"


def _wishes(asked: ToAllocate, pod: Any) -> dict[str, str]:
    request = asked.request
    terms = _terms(request)
    bounds = f", from {request.range.min} to {request.range.max}" if terms.has_range else ""
    if terms.has_index:
        wish = f"{terms.name}{bounds}, stride {request.stride}"
        return {"Policy": wish, "Index": f"{request.index}, of {_index_source(pod)}"}
    return {"Policy": f"{terms.name}{bounds}"}


def _terms(request: pb.AllocateRequest) -> PolicyTerms:
    """The row of the policy that a request names, or means where it names none."""
    names = {pb.Policy.Value(terms.proto_name): name for name, terms in POLICIES.items()}
    return POLICIES[names.get(request.policy, DEFAULT_POLICY)]


def _index_source(pod: Any) -> str:
    metadata = pod["metadata"]
    if POD_INDEX in (metadata.get("labels") or {}):
        return f"label {POD_INDEX}"
    if COMPLETION_INDEX in {**(metadata.get("labels") or {}), **(metadata.get("annotations") or {})}:
        return COMPLETION_INDEX
    return "the name"


def _allocation(allocation_id: str, found: pb.GetAllocationResponse | None) -> dict[str, str]:
    if found is None:
        return {"Allocation": f"{allocation_id}, which the allocator does not know"}
    held = found.allocation
    where = f" on {held.node}" if held.node else ""
    told = {"Allocation": f"{held.id}, {wording.state(held)}{where}"}
    if held.state == pb.STATE_BOUND:
        return told  # it runs where it is bound
    candidates = f"{found.candidate_count} {'node' if found.candidate_count == 1 else 'nodes'}"
    return {"Candidates": f"{candidates} where it may run, as things stand", **told}


def _port_rules(annotations: dict[str, str], asked: Any, facts: PodFacts) -> Iterator[PortRule]:
    for row in parse_allocations(annotations.get(ALLOCATIONS, "[]")):
        yield PortRule(
            container=row.container,
            name=row.name,
            old=f"{row.container_port}/{row.protocol}",
            number=row.host_port,
            rule=_rule(asked, facts.found, row.host_port),
            count=max(row.count, 1),
            listening=wording.listening(_held(facts.found, row).listening),
        )


def _held(found: pb.GetAllocationResponse | None, row: AllocationRow) -> pb.AllocatedPort:
    """The port of an allocation that a row of the Pod's table is about; an empty one where there is none."""
    for port in found.allocation.ports if found else ():
        if port.host_port == row.host_port and wording.protocol(port.protocol) == row.protocol:
            return port
    return pb.AllocatedPort()


def _rule(asked: Any, found: pb.GetAllocationResponse | None, number: int) -> str:
    if not isinstance(asked, ToAllocate):
        return "as its annotations said then"
    request = asked.request
    appeared = found is not None and any(p.appeared and p.host_port == number for p in found.allocation.ports)
    if appeared:
        return "came with another webhook, held as it stands"
    terms, low, high = _terms(request), request.range.min, request.range.max
    steps, rest = divmod(number - low - request.index, request.stride) if terms.has_index else (0, 0)
    if terms.has_range and (rest or steps < 0 or not low <= number <= high):
        return "the hostPort that was written"
    stride = f" + {steps} * {request.stride}" if steps else ""
    return terms.rule.format(min=low, max=high, index=request.index, steps=stride)


def _standing(pod: Any, found: pb.GetAllocationResponse | None) -> tuple[str, bool]:
    phase = pod.get("status", {}).get("phase")
    if phase in {"Succeeded", "Failed"}:
        return f"It has finished ({phase}): its ports are free again.", True
    if found is None:
        return "It carries numbers that the allocator does not hold for it: delete it, so that it is made anew.", False
    held = found.allocation
    if held.unplaceable:
        return "It has numbers, and they are free on no node where it may run: free a port, or add a node.", False
    if held.state == pb.STATE_BOUND:
        silent = ", ".join(wording.port(port) for port in held.ports if port.listening == pb.LISTENING_NO)
        return f"It has its ports{silent and f', and nobody listens on {silent}'}.", True
    return "It has its numbers, and waits for a node.", True
