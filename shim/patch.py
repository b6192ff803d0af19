"""From a Pod and its allocation to the JSONPatch, and to what people should be warned of. Pure.

Rules:

* The patch is minimal: nothing is written that is right already, and nothing is touched that is not ours. Fields that
  this program does not know survive byte for byte.
* mutate(mutate(pod)) adds nothing. A Pod that comes back with its own claim shows new numbers where the old ones were,
  so old and new are told apart by the allocation, never by the Pod.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from hostport.contract import Notice
from hostport.v1.allocator_pb2 import AllocateResponse
from shim.audit import audit_ops
from shim.env import Entries, env_ops
from shim.findings import in_own_network, look, on_host
from shim.held import Held, is_from_elsewhere, is_own, match_ports
from shim.outcomes import Remark, one_per_kind, remark
from shim.pods import Pod
from shim.pointers import Op, add, escaped
from shim.review import Options
from shim.settings import REWRITTEN, WARNINGS

EPHEMERAL = (32768, 60999)
"""Linux's default net.ipv4.ip_local_port_range."""

EVERY_ADDRESS = ("", "0.0.0.0", "::")  # noqa: S104 - spellings of hostIP, nothing is bound here
"""Of hostIP, as the scheduler and we read it."""

NODE_PORTS = (30000, 32767)
"""The API server's default --service-node-port-range."""


def build_patch(pod: Pod, response: AllocateResponse, options: Options) -> tuple[list[Op], tuple[Remark, ...]]:
    """Raises AllocationError where the answer does not fit the Pod."""
    allocation = response.allocation
    held = match_ports(pod, allocation, own_network=options.own_network)
    own, elsewhere = is_own(pod, allocation), is_from_elsewhere(pod, allocation)
    variables = _published_variables(pod, held, options)
    env, about_env = env_ops(pod, held, injects=options.inject_env, published=variables, is_from_elsewhere=elsewhere)
    ops, more, rewritten = _of_network(pod, held, options, is_own=own, is_from_elsewhere=elsewhere, variables=variables)
    found = one_per_kind([*_cautions(held, options), *about_env, *_bare_pod(pod, held), *more, *options.remarks])
    notes = {WARNINGS: _codes(pod, found, is_own=own), REWRITTEN: rewritten}
    ops += env  # behind the texts: variables change their places
    ops += audit_ops(pod, held, allocation.id, {name: value for name, value in notes.items() if value})
    ops += _published_notes(pod, held, options)
    return ops, one_per_kind([*(Remark(each.reason, each.message) for each in response.warnings), *found])


def _of_network(
    pod: Pod,
    held: tuple[Held, ...],
    options: Options,
    *,
    is_own: bool,
    is_from_elsewhere: bool,
    variables: Mapping[int, Entries],
) -> tuple[list[Op], list[Remark], str]:
    """What the network of the Pod makes necessary, what is told of it, and what was rewritten."""
    if options.own_network:
        return list(_port_ops(held)), list(in_own_network(pod, held, _published(pod, held, options, "env"))), ""
    published = {at: frozenset(entries) for at, entries in variables.items()}
    found = look(pod, held, rewrites=options.rewrites, is_own=is_own, published=published)
    ops = [
        *_network_ops(pod),
        *_port_ops(held),
        *_dns_ops(pod, options),
        *_probe_ops(pod, held, is_own=is_own),
        *found.ops,
    ]
    more = on_host(pod, held, is_own=is_own, is_from_elsewhere=is_from_elsewhere)
    return ops, [*found.remarks, *more], found.rewritten


def _codes(pod: Pod, found: Iterable[Remark], *, is_own: bool) -> str:
    """The words of what is told. A Pod that comes again has told some of it already, and cannot tell it twice."""
    told = dict.fromkeys(filter(None, pod.annotations.get(WARNINGS, "").split(",") if is_own else ()))
    return ",".join(told | dict.fromkeys(each.reason for each in found))


def _published_variables(pod: Pod, held: tuple[Held, ...], options: Options) -> dict[int, Entries]:
    """The variables that the user wants to have numbers, by place of container."""
    variables: dict[int, Entries] = {}
    for each, key in _published(pod, held, options, "env"):
        variables.setdefault(each.at, {})[key] = {"name": key, "value": str(each.number)}
    return variables


def _published_notes(pod: Pod, held: tuple[Held, ...], options: Options) -> Iterator[Op]:
    for each, key in _published(pod, held, options, "annotation"):
        if pod.annotations.get(key) != str(each.number):
            yield add(f"/metadata/annotations/{escaped(key)}", str(each.number))
    is_there = pod.has_labels
    for each, key in _published(pod, held, options, "label"):
        if not is_there:
            yield add("/metadata/labels", {})
        is_there = True
        if pod.labels.get(key) != str(each.number):
            yield add(f"/metadata/labels/{escaped(key)}", str(each.number))


def _published(pod: Pod, held: tuple[Held, ...], options: Options, kind: str) -> Iterator[tuple[Held, str]]:
    wanted = [each for each in options.publications if each.kind == kind]
    if wanted:
        by_pointer = {each.port.pointer: each for each in held}
        for publication in wanted:
            found = by_pointer.get(pod.ports[publication.ports[0]].pointer)
            if found is not None:
                yield found, publication.key


def _network_ops(pod: Pod) -> Iterator[Op]:
    if not pod.host_network:
        yield add("/spec/hostNetwork", True)


def _port_ops(held: Iterable[Held]) -> Iterator[Op]:
    seen: set[tuple[str, str, int]] = set()
    for each in held:
        if each.port.container_port != each.number and not each.own_network:
            yield add(f"{each.port.pointer}/containerPort", each.number)
        if each.port.host_port != each.number:
            yield add(f"{each.port.pointer}/hostPort", each.number)
        address = _address_beside(seen, each)
        if address != each.port.host_ip:
            yield add(f"{each.port.pointer}/hostIP", address)
        seen.add((each.protocol, address, each.number))


def _address_beside(seen: Collection[tuple[str, str, int]], each: Held) -> str:
    """The address of a port. One socket under two names: the API server refuses the same three words twice."""
    own = each.port.host_ip
    spellings = (own, *EVERY_ADDRESS) if own in EVERY_ADDRESS else (own,)
    return next((ip for ip in spellings if (each.protocol, ip, each.number) not in seen), own)


def _dns_ops(pod: Pod, options: Options) -> Iterator[Op]:
    """With ClusterFirst a hostNetwork Pod would ask the node's resolver, and lose the cluster's names."""
    if not options.keep_dns and pod.dns_policy in {"", "ClusterFirst"}:
        yield add("/spec/dnsPolicy", "ClusterFirstWithHostNet")


def _probe_ops(pod: Pod, held: tuple[Held, ...], *, is_own: bool) -> Iterator[Op]:
    """All at once: every number is looked up as the user wrote it, so that two ports may swap."""
    settled = {each.number for each in held} if is_own else set()
    known: dict[int, dict[int, set[int]]] = {}  # old TCP number → container → new numbers
    for each in held:
        if each.protocol == "TCP":
            known.setdefault(each.said, {}).setdefault(each.at, set()).add(each.number)
    for at, container in enumerate(pod.containers):
        for probe in (each for each in container.probes if each.is_here):
            number = probe.port if probe.port in settled else _followed(probe.port, at, known.get(probe.port, {}))
            if number != probe.port:
                yield add(probe.pointer, number)


def _followed(number: int, at: int, known: Mapping[int, set[int]]) -> int:
    """Where an old TCP number went: in the same container, else in the only other one; else it stays."""
    mine = known.get(at) or (next(iter(known.values())) if len(known) == 1 else set())
    return next(iter(mine)) if len(mine) == 1 else number


def _cautions(held: tuple[Held, ...], options: Options) -> Iterator[Remark]:
    spans = [options.range] if options.range else []
    spans += [(each.number, each.number) for each in held]
    for low, high in spans:
        what = f"port {low}" if low == high else f"range {low}-{high}"
        if not options.own_network and low <= EPHEMERAL[1] and high >= EPHEMERAL[0]:
            why = "from which the node's own outgoing connections take theirs: a bind may fail"
            yield remark(Notice.EPHEMERAL_RANGE, f"{what} meets the ephemeral range {_span(EPHEMERAL)}, {why}")
        if low <= NODE_PORTS[1] and high >= NODE_PORTS[0]:
            why = "where a Service may take the same number on every node"
            yield remark(Notice.NODE_PORT_RANGE, f"{what} meets the NodePort range {_span(NODE_PORTS)}, {why}")
    for each in () if options.own_network else held:  # there the program binds its own number
        if each.number < 1024:
            why = "is below 1024: binding it takes root or NET_BIND_SERVICE"
            yield remark(Notice.PRIVILEGED_PORT, f"port {each.number} {why}")


def _span(bounds: tuple[int, int]) -> str:
    return f"{bounds[0]}-{bounds[1]}"


def _bare_pod(pod: Pod, held: Iterable[Held]) -> Iterator[Remark]:
    """containerPort is the merge key of apply, so that the same manifest asks for a second port the next time."""
    if pod.controller is not None or not pod.is_applied:
        return
    if any(each.old != each.number and not each.own_network for each in held):
        why = "applying this Pod again unchanged fails, as its containerPort changed"
        yield remark(Notice.BARE_POD_APPLIED, f"{why}: delete and create it, or use a workload such as a StatefulSet")
