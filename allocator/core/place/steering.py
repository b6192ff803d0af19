"""Which nodes a Pod is kept off, since somebody whom the scheduler does not know holds a number of it there.

Rules:

* The scheduler knows the ports of Pods, and nothing of leases and processes, so that a Pod could land on one. Whoever
  asks with `can_steer` writes the names that are given here into the Pod's required node affinity.
* The claim has the constraints that the Pod will have. So plans, later leases and the sight of the stored Pod agree.
* A lease is a promise: a Pod with a fixed number is refused where it cannot be kept off the nodes on which that is
  leased. No candidate is left, the names are more than `MOST_STEERED`, or the Pod's terms would grow beyond what an ask
  may say, so that its next admission would be refused.
* A process is a fact that may end. Where a Pod cannot be kept off it, it is told so. A Pod of a DaemonSet is made for
  one node and told, too; any other is refused where every candidate is taken, or is kept off all of them where it is
  to be Pending: the scheduler would bind it beside a process at once.

Entered only where a fixed number is leased on a candidate, or where agents report what is open on their nodes.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from allocator.core.asks import Refused
from allocator.core.candidates import Constraints
from allocator.core.claims import ClaimPort
from allocator.core.place import denials
from allocator.core.place.view import Demand
from hostport.contract import Notice, PodWarning
from hostport.contract.limits import MOST_STEERED, Bound


class Steering(msgspec.Struct, frozen=True, gc=False):
    """Where a Pod may run, and what it is told of the nodes that are left out, or should be."""

    within: Constraints
    warnings: tuple[PodWarning, ...] = ()


def off_leases(demand: Demand, within: Constraints) -> Constraints:
    """Constraints that leave out the candidates on which a fixed number of a Pod is leased.

    demand: of a Pod. within: where it may run by its own constraints.

    Raises:
        Refused: with HELD_BY_LEASE, where it cannot be kept off them.

    """
    held = demand.leased_nodes(key for _, key in demand.fixed)
    if not held:
        return within
    if not demand.ask.can_steer:
        raise Refused(*denials.leased(demand, demand.fixed))
    if held == demand.candidates.nodes:
        raise Refused(*denials.leased_everywhere(demand))
    count = held.bit_count()
    if count > MOST_STEERED:
        why = f"A Pod can be kept off {MOST_STEERED} nodes by name, and these are {count}"
        raise Refused(*denials.leased(demand, demand.fixed, f"{why}. {denials.BY_LABEL}"))
    narrower = _off(demand, within, held)
    if narrower is None:
        why = f"Its node affinity has no room to keep it off {count} of them"
        raise Refused(*denials.leased(demand, demand.fixed, f"{why}. {denials.BY_LABEL}"))
    return narrower


def waits_for_processes(demand: Demand) -> bool:
    """Whether nothing but processes has the fixed numbers of a Pod of a DaemonSet, on the one node it is made for."""
    within, view = demand.candidates.constraints, demand.view
    node = within.only_node
    if node is None or within.node_name is not None:
        return False
    keys = [key for _, key in demand.fixed]
    return bool(demand.foreign_nodes(keys)) and not view.ports.blockers(keys, node, demand.exempt)


def off_processes(demand: Demand, within: Constraints, ports: Iterable[ClaimPort], *, waits: bool) -> Steering:
    """Leaves out, where that can be, the candidates on which a process has one of the ports that a Pod is given.

    demand: with all candidates of the Pod. within: what `off_leases` gave. waits: whether the Pod is admitted without a
    node, to be Pending: then all candidates may be left out, and another node takes it.
    """
    keys = [port.key for port in ports]
    candidates = demand.view.sets.of(within).nodes
    kept = demand.candidates.nodes & ~candidates
    held = demand.foreign_nodes(keys) & candidates
    leaves_some = held != candidates or (waits and within.only_node is None)
    if held and demand.ask.can_steer and leaves_some and (kept | held).bit_count() <= MOST_STEERED:
        narrower = _off(demand, within, held)
        if narrower is not None:
            within, kept, held = narrower, kept | held, 0
    told = []
    if kept:
        told.append(PodWarning(Notice.STEERED, denials.steered(demand, keys, kept)))
    if held:
        told.append(PodWarning(Notice.HELD_BY_PROCESS, denials.beside_processes(demand, keys, held)))
    return Steering(within, tuple(told))


def _off(demand: Demand, within: Constraints, nodes: int) -> Constraints | None:
    """The constraints less some nodes; None: they would say more than an ask may."""
    narrower = within.kept_off(sorted(demand.view.nodes.names_of(nodes)))
    return narrower if narrower.weight <= Bound.CONSTRAINTS.most else None
