"""From a Pod and its allocation to the JSONPatch, and to what people should be warned of. Pure.

Rules:

* The patch is minimal: nothing is written that is right already, and nothing is touched that is not ours. Fields that
  this program does not know survive byte for byte.
* mutate(mutate(pod)) adds nothing. A Pod that comes back with its own claim shows new numbers where the old ones were,
  so old and new are told apart by the allocation, never by the Pod.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from hostport.contract import Notice, PodWarning
from hostport.v1.allocator_pb2 import AllocateResponse
from shim.annotations import NETWORK, REWRITTEN, WARNINGS
from shim.blocks import entry_ops
from shim.findings import PROMETHEUS, called, look
from shim.outcomes import AddOp, Op, clipped
from shim.pods import NewPod, undeclared
from shim.ports import (
    EVERY_ADDRESS,
    AssignedPort,
    Entries,
    audit_ops,
    env_ops,
    is_from_elsewhere,
    is_own,
    match_ports,
)
from shim.publishing import published, published_notes, published_variables
from shim.review import PatchOptions
from shim.steering import steering_ops

EPHEMERAL = (32768, 60999)
"""Linux's default net.ipv4.ip_local_port_range, for nodes of which no agent says it."""

NODE_PORTS = (30000, 32767)
"""The API server's default --service-node-port-range."""


MOST_MAPPED = 32
"""Ports for which the node's portmap writes rules without anybody noticing."""


def build_patch(
    pod: NewPod, response: AllocateResponse, options: PatchOptions
) -> tuple[list[Op], tuple[PodWarning, ...]]:
    """Raises AllocationError where the answer does not fit the Pod."""
    allocation = response.allocation
    assigned = match_ports(pod, allocation, own_network=options.settings.own_network)
    own, elsewhere = is_own(pod, allocation), is_from_elsewhere(pod, allocation)
    variables = published_variables(pod, assigned, options.publications) if options.publications else {}
    env, about_env = env_ops(
        pod,
        assigned,
        injects=options.settings.inject_env,
        published=variables,
        is_from_elsewhere=elsewhere,
        is_addressed=response.external_address,
    )
    ops, more, rewritten = _of_network(
        pod, assigned, options, is_own=own, is_from_elsewhere=elsewhere, variables=variables
    )
    found = _one_per_kind(
        [
            *_number_warnings(assigned, options, _ephemeral(response)),
            *about_env,
            *_bare_pod(pod, assigned),
            *more,
            *options.warnings,
        ]
    )
    codes = _codes(pod, found, is_own=own)
    notes = ({WARNINGS: codes} if codes else {}) | ({REWRITTEN: rewritten} if rewritten else {})
    ops += env  # behind the texts: variables change their places
    ops += audit_ops(pod, assigned, allocation.id, notes)
    if options.publications:
        ops += published_notes(pod, assigned, options.publications)
    if response.avoid_nodes:
        ops += steering_ops(pod.spec, response.avoid_nodes)
    told = [PodWarning(each.reason, each.message) for each in response.warnings]
    return ops, _one_per_kind([*told, *found]) if told else found


def _of_network(
    pod: NewPod,
    assigned: tuple[AssignedPort, ...],
    options: PatchOptions,
    *,
    is_own: bool,
    is_from_elsewhere: bool,
    variables: Mapping[int, Entries],
) -> tuple[list[Op], list[PodWarning], str]:
    """What the network of the Pod makes necessary, what is told of it, and what was rewritten."""
    if options.settings.own_network:
        return (
            list(_port_ops(assigned)),
            [
                *in_own_network(pod, assigned, published(pod, assigned, options.publications, "env")),
                *_scraped(published(pod, assigned, options.publications, "annotation")),
            ],
            "",
        )
    notes = [each.key for each in options.publications if each.kind == "annotation"]
    found = look(
        pod,
        assigned,
        rewrites=options.settings.rewrites,
        is_own=is_own,
        published={at: frozenset(entries) for at, entries in variables.items()},
        notes=notes,
        injects=options.settings.inject_env,
    )
    ops = [
        *_network_ops(pod),
        *_port_ops(assigned),
        *_dns_ops(pod, options),
        *_probe_ops(pod, assigned, is_own=is_own),
        *found.ops,
    ]
    more = on_host(pod, assigned, is_own=is_own, is_from_elsewhere=is_from_elsewhere)
    return ops, [*found.warnings, *more], found.rewritten


def _codes(pod: NewPod, found: Iterable[PodWarning], *, is_own: bool) -> str:
    """The words of what is told. A Pod that comes again has told some of it already, and cannot tell it twice."""
    told = [word for word in pod.annotations.get(WARNINGS, "").split(",") if word] if is_own else []
    return ",".join(dict.fromkeys([*told, *[each.reason for each in found]]))


def _network_ops(pod: NewPod) -> Iterator[Op]:
    if not pod.host_network:
        yield AddOp("/spec/hostNetwork", True)


def _port_ops(assigned: Collection[AssignedPort]) -> Iterator[Op]:
    seen: set[tuple[str, str, int]] = set()
    blocks: list[AssignedPort] = []
    for each in assigned:
        if each.port.container_port != each.number and not each.own_network:
            yield AddOp(f"{each.port.pointer}/containerPort", each.number)
        if each.port.host_port != each.number:
            yield AddOp(f"{each.port.pointer}/hostPort", each.number)
        address = _address_beside(seen, each)
        if address != each.port.host_ip:
            yield AddOp(f"{each.port.pointer}/hostIP", address)
        seen.add((each.protocol, address, each.number))
        if each.count > 1 or each.port.others:
            blocks.append(each)
    if blocks:
        yield from entry_ops(blocks)


def _address_beside(seen: Collection[tuple[str, str, int]], each: AssignedPort) -> str:
    """The address of a port. One socket under two names: the API server refuses the same three words twice."""
    own = each.port.host_ip
    for ip in (own, *EVERY_ADDRESS) if own in EVERY_ADDRESS else ():
        if (each.protocol, ip, each.number) not in seen:
            return ip
    return own


def _dns_ops(pod: NewPod, options: PatchOptions) -> Iterator[Op]:
    """With ClusterFirst a hostNetwork Pod would ask the node's resolver, and lose the cluster's names."""
    if not options.settings.keep_dns and pod.dns_policy in {"", "ClusterFirst"}:
        yield AddOp("/spec/dnsPolicy", "ClusterFirstWithHostNet")


def _probe_ops(pod: NewPod, assigned: tuple[AssignedPort, ...], *, is_own: bool) -> Iterator[Op]:
    """All at once: every number is looked up as the user wrote it, so that two ports may swap."""
    asking = [(at, each) for at, container in enumerate(pod.containers) for each in container.probes if each.is_here]
    if not asking:
        return
    settled = {each.number for each in assigned} if is_own else set()
    known: dict[int, dict[int, set[int]]] = {}  # old TCP number → container → new numbers
    for each in assigned:
        if each.protocol == "TCP":
            known.setdefault(each.said, {}).setdefault(each.at, set()).add(each.number)
    for at, probe in asking:
        number = probe.port if probe.port in settled else _followed(probe.port, at, known.get(probe.port, {}))
        if number != probe.port:
            yield AddOp(probe.pointer, number)


def _followed(number: int, at: int, known: Mapping[int, set[int]]) -> int:
    """Where an old TCP number went: in the same container, else in the only other one; else it stays."""
    mine = known.get(at) or (next(iter(known.values())) if len(known) == 1 else set())
    return next(iter(mine)) if len(mine) == 1 else number


def _number_warnings(
    assigned: tuple[AssignedPort, ...], options: PatchOptions, ephemeral: Sequence[tuple[int, int]]
) -> Iterator[PodWarning]:
    """What may surprise people about the numbers. ephemeral: those that outgoing connections of the nodes take."""
    own_network, bounds = options.settings.own_network, options.settings.range
    spans = [bounds] if bounds else []
    spans += [(each.number, each.number + each.count - 1) for each in assigned]
    for span in spans:
        for met in () if own_network else ephemeral:
            if _overlap(span, met):
                why = "from which the node's own outgoing connections take theirs: a bind may fail"
                message = f"{_what(span)} meets the ephemeral range {_span_text(met)}, {why}"
                yield PodWarning(Notice.EPHEMERAL_RANGE, message)
                break
        if _overlap(span, NODE_PORTS):
            why = "where a Service may take the same number on every node"
            message = f"{_what(span)} meets the NodePort range {_span_text(NODE_PORTS)}, {why}"
            yield PodWarning(Notice.NODE_PORT_RANGE, message)
    for each in () if own_network else assigned:  # there the program binds its own number
        if each.number < 1024:
            why = "is below 1024: binding it takes root or NET_BIND_SERVICE"
            yield PodWarning(Notice.PRIVILEGED_PORT, f"port {each.number} {why}")


def _ephemeral(response: AllocateResponse) -> Sequence[tuple[int, int]]:
    """The numbers that outgoing connections of the nodes take: what their agents say, else what Linux does."""
    if not response.has_ephemeral_ranges:
        return (EPHEMERAL,)
    return [(each.min, each.max) for each in response.ephemeral_ranges]


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]


def _what(bounds: tuple[int, int]) -> str:
    return f"port {bounds[0]}" if bounds[0] == bounds[1] else f"range {_span_text(bounds)}"


def _span_text(bounds: tuple[int, int]) -> str:
    return f"{bounds[0]}-{bounds[1]}"


def _bare_pod(pod: NewPod, assigned: Iterable[AssignedPort]) -> Iterator[PodWarning]:
    """containerPort is the merge key of apply, so that the same manifest asks for a second port the next time."""
    if pod.controller is not None or not pod.is_applied:
        return
    if any(each.old != each.number and not each.own_network for each in assigned):
        why = "applying this Pod again unchanged fails, as its containerPort changed"
        yield PodWarning(
            Notice.BARE_POD_APPLIED, f"{why}: delete and create it, or use a workload such as a StatefulSet"
        )


def on_host(
    pod: NewPod, assigned: tuple[AssignedPort, ...], *, is_own: bool, is_from_elsewhere: bool
) -> Iterator[PodWarning]:
    """What hostNetwork makes of the Pod's other ports, and of numbers that its author wrote."""
    if not is_own and not pod.host_network:
        yield from _mapping_warnings(assigned)
    elif not is_own and not is_from_elsewhere:
        yield from _replaced(assigned)
    yield from _undeclared_ports(pod, assigned, is_own=is_own)
    numbers = {each.said for each in assigned if each.is_moved and each.protocol == "TCP"} - (
        {each.number for each in assigned} if is_own else set()
    )
    for container in pod.containers:
        for probe in container.probes:
            if not probe.is_here and probe.port in numbers:
                why = "and stays as it is: ask the Pod itself, or the number that it has now"
                host = clipped(probe.host, 40)
                yield PodWarning(Notice.PROBE_HOST, f"{probe.path} asks host {host} at {probe.port}, {why}")
        for port in () if container.is_counted else container.all_ports[:1]:
            why = "becomes a host port, as hostNetwork makes it: remove it from ports if nothing listens there"
            yield PodWarning(Notice.INIT_PORT, f"{port.container_port} of init container {container.name} {why}")


def _undeclared_ports(pod: NewPod, assigned: tuple[AssignedPort, ...], *, is_own: bool) -> Iterator[PodWarning]:
    asked = undeclared(pod)
    if not asked:
        return
    former = {each.old for each in assigned} if is_own else set()  # a probe that could follow none of two stays there
    former.update(*[_others(each) for each in assigned if each.count > 1 and not each.is_moved])
    for number in [each for each in asked if each not in former][:1]:
        why = "which no port of the Pod has: with hostNetwork it is bound on the node. Declare it in ports"
        yield PodWarning(Notice.UNDECLARED_PORT, f"{asked[number]} asks {number}, {why}")


def _others(each: AssignedPort) -> range:
    """The numbers of a block behind the first one that a probe may ask."""
    return range(each.number + 1, each.number + each.count) if each.protocol == "TCP" else range(0)


def _mapping_warnings(assigned: tuple[AssignedPort, ...]) -> Iterator[PodWarning]:
    for each in assigned:
        port = each.port
        if port.host_port == each.number != port.container_port:
            remedy = f"listen on {each.number}, or set {NETWORK}: Pod"
            message = (
                f"{called(each)} was mapped from {each.number} to {each.said}; with hostNetwork nothing is: {remedy}"
            )
            yield PodWarning(Notice.MAPPED_PORT, message)


def _replaced(assigned: tuple[AssignedPort, ...]) -> Iterator[PodWarning]:
    for each in assigned:
        port = each.port
        if port.host_port == port.container_port != each.number and not each.appeared:
            why = "with hostNetwork it counts as unset. To keep it use policy Static or Passthrough"
            message = f"hostPort {port.host_port} of {called(each)} became {each.number}: {why}"
            yield PodWarning(Notice.HOST_PORT_REPLACED, message)


def in_own_network(
    pod: NewPod, assigned: tuple[AssignedPort, ...], published: Iterable[tuple[AssignedPort, str]]
) -> Iterator[PodWarning]:
    """What is said of a Pod that keeps a network of its own. `published`: ports, and variables with their numbers."""
    for each, variable in published:
        literals = {entry.get("name"): entry.get("value") for entry in pod.containers[each.at].env or ()}
        if literals.get(variable) == str(each.old) != str(each.number):  # the program listens where nobody maps to
            was = f"variable {clipped(variable, 16)} of container {clipped(each.container, 16)} was {each.old}"
            where = f"as port {each.name or each.old} is inside the Pod, and is {each.number} now"
            yield PodWarning(Notice.PUBLISHED_INSIDE, f"{was}, {where}: publish into another, or set {NETWORK}: Host")
    numbers = sum([each.count for each in assigned])
    if numbers > MOST_MAPPED:
        why = "for each of which the node writes rules: starts become slow. Use fewer, or hostport.io/network: Host"
        yield PodWarning(Notice.MANY_PORTS, f"{numbers} ports are more than {MOST_MAPPED}, {why}")


def _scraped(published: Iterable[tuple[AssignedPort, str]]) -> Iterator[PodWarning]:
    """What is said of a number that Prometheus reads and asks the Pod's own address at. `published`: annotations."""
    for each, key in published:
        if key == PROMETHEUS and each.number != each.port.container_port:
            says = f"annotation {key} says {each.number}, and Prometheus asks the Pod's own address"
            where = f"where port {each.name or each.old} is {each.port.container_port}"
            remedy = f"leave that target out, or set {NETWORK}: Host"
            yield PodWarning(Notice.PUBLISHED_INSIDE, f"{says}, {where}: {remedy}")


def _one_per_kind(warnings: list[PodWarning]) -> tuple[PodWarning, ...]:
    """The first of each kind, in order."""
    first: dict[str, PodWarning] = {}
    for each in warnings:
        first.setdefault(each.reason, each)
    return tuple(first.values())
