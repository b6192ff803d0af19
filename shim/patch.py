"""From a Pod and its allocation to the JSONPatch, and to what people should be warned of. Pure.

Rules:

* The patch is minimal: nothing is written that is right already, and nothing is touched that is not ours. Fields that
  this program does not know survive byte for byte.
* mutate(mutate(pod)) adds nothing. A Pod that comes back with its own claim shows new numbers where the old ones were,
  so old and new are told apart by the allocation, never by the Pod.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from hostport.contract import Notice
from hostport.v1.allocator_pb2 import AllocateResponse
from shim.audit import audit_ops
from shim.env import env_ops
from shim.held import Held, is_own, match_ports
from shim.outcomes import Remark, one_per_kind, remark
from shim.pods import Pod
from shim.pointers import Op, add
from shim.review import Options

EPHEMERAL = (32768, 60999)
"""Linux's default net.ipv4.ip_local_port_range."""

NODE_PORTS = (30000, 32767)
"""The API server's default --service-node-port-range."""


def build_patch(pod: Pod, response: AllocateResponse, options: Options) -> tuple[list[Op], tuple[Remark, ...]]:
    """Raises AllocationError where the answer does not fit the Pod."""
    allocation = response.allocation
    held = match_ports(pod, allocation)
    env, about_env = env_ops(pod, held) if options.inject_env else ([], [])
    ops = [
        *_network_ops(pod),
        *_port_ops(held),
        *_dns_ops(pod, options),
        *_probe_ops(pod, held, is_own=is_own(pod, allocation)),
        *env,
        *audit_ops(pod, held, allocation.id),
    ]
    told = [Remark(each.reason, each.message) for each in response.warnings]
    return ops, one_per_kind([*told, *_cautions(held, options), *about_env, *_bare_pod(pod, held)])


def _network_ops(pod: Pod) -> Iterator[Op]:
    if not pod.host_network:
        yield add("/spec/hostNetwork", True)


def _port_ops(held: Iterable[Held]) -> Iterator[Op]:
    for each in held:
        if each.port.container_port != each.number:
            yield add(f"{each.port.pointer}/containerPort", each.number)
        if each.port.host_port != each.number:
            yield add(f"{each.port.pointer}/hostPort", each.number)


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
            known.setdefault(each.old, {}).setdefault(each.at, set()).add(each.number)
    for at, container in enumerate(pod.containers):
        for probe in container.probes:
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
        if low <= EPHEMERAL[1] and high >= EPHEMERAL[0]:
            why = "from which the node's own outgoing connections take theirs: a bind may fail"
            yield remark(Notice.EPHEMERAL_RANGE, f"{what} meets the ephemeral range {_span(EPHEMERAL)}, {why}")
        if low <= NODE_PORTS[1] and high >= NODE_PORTS[0]:
            why = "where a Service may take the same number on every node"
            yield remark(Notice.NODE_PORT_RANGE, f"{what} meets the NodePort range {_span(NODE_PORTS)}, {why}")
    for each in held:
        if each.number < 1024:
            why = "is below 1024: binding it takes root or NET_BIND_SERVICE"
            yield remark(Notice.PRIVILEGED_PORT, f"port {each.number} {why}")


def _span(bounds: tuple[int, int]) -> str:
    return f"{bounds[0]}-{bounds[1]}"


def _bare_pod(pod: Pod, held: Iterable[Held]) -> Iterator[Remark]:
    """containerPort is the merge key of apply, so that the same manifest asks for a second port the next time."""
    if pod.controller is None and pod.is_applied and any(each.is_moved for each in held):
        why = "applying this Pod again unchanged fails, as its containerPort changed"
        yield remark(Notice.BARE_POD_APPLIED, f"{why}: delete and create it, or use a workload such as a StatefulSet")
