"""What is said of an ask that does not fit, or that fits with a catch: which port, where, held by whom, what to do.

The sentences are in the words of the proto, as all of the core's are. Whoever asks for a Pod adds what its annotations
call them. A holder of another namespace is not named, unless the operator allows it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from allocator.core.asks import PortAsk
from allocator.core.candidates import NodeName
from allocator.core.claims import Claim, ClaimId, Owner
from allocator.core.foreign import words_of
from allocator.core.place.packing import wants_runs
from allocator.core.place.view import Demand, free_nodes, is_foreign, open_for_lease
from allocator.core.ports import PortKey, format_numbers, runs_of, span
from allocator.core.reserved import ReservedNumbers
from hostport.contract import Mistake, Notice, PodWarning, Reason

MOST_REPORTS = 64
"""Candidates of which is looked whether processes that were told of long ago have some of a range."""

SHOWN_HOLDERS = 3
SHOWN_BLOCKS = 4
SHOWN_RUNS = 20

Ports = Sequence[tuple[PortAsk, PortKey]]
"""Ports as they are asked for, and as they would be held."""

BY_LABEL = "Choose another number, or keep the Pod off them by a label"


def leased(
    demand: Demand, ports: Ports, remedy: str = "Choose another number, or keep the Pod off that node"
) -> Iterator[Mistake]:
    """A sentence for each of the ports that is leased on a candidate. remedy: what to do."""
    for port, key in ports:
        nodes = demand.leased_nodes([key])
        if nodes:
            message = f"{port}: {key} is leased: {_held_on(demand, key, nodes)}. {remedy}"
            yield Mistake(Reason.HELD_BY_LEASE, "ports", message)


def leased_everywhere(demand: Demand) -> Iterator[Mistake]:
    """A sentence for each of the fixed ports, whose leases leave a Pod no candidate that could be kept off them."""
    everywhere, remedy = demand.candidates.nodes, "Choose another number, or end a lease"
    for port, key in demand.fixed:
        nodes = demand.leased_nodes([key])
        where = _held_on(demand, key, nodes)
        message = f"{port}: {key} is leased: {where}, and no candidate is left for all ports of the Pod. {remedy}"
        if nodes == everywhere:
            message = f"{port}: {key} is leased {_on_all(nodes)}: {where}. {remedy}"
        if nodes:
            yield Mistake(Reason.HELD_BY_LEASE, "ports", message)


def steered(demand: Demand, keys: Iterable[PortKey], nodes: int) -> str:
    """What a Pod is told that is kept off some nodes: which number somebody holds there, and who."""
    where = _held_among(demand, keys, nodes)
    return f"the Pod is kept off nodes where somebody whom the scheduler does not know holds its number: {where}"


def beside_processes(demand: Demand, keys: Iterable[PortKey], nodes: int) -> str:
    """What a Pod is told that is kept off none of some nodes on which processes have its number."""
    where = _held_among(demand, keys, nodes)
    return f"where the Pod may run a process holds its number, and the scheduler does not know: {where}"


def _held_among(demand: Demand, keys: Iterable[PortKey], nodes: int) -> str:
    """For each of some ports who holds it on some nodes without the scheduler's knowledge."""
    ports = demand.view.ports
    held = ((key, (ports.leased(key) | ports.foreign(key)) & nodes) for key in keys)
    return "; ".join(f"{key} on {_held_on(demand, key, there)}" for key, there in held if there)


def of_services(demand: Demand, ports: Ports) -> Iterator[Mistake]:
    """A sentence for each of the ports that a Service holds."""
    view, asker = demand.view, demand.ask.owner.namespace
    for port, key in ports:
        for held, holder in view.services.holding((key,)):
            who = words_of(holder, asker=asker, discloses=view.discloses_holders)
            message = (
                f"{port}: {held} is held on every node by {who}: kube-proxy takes what is sent to it. Choose another"
                " number, or give the Service another node port"
            )
            yield Mistake(Reason.HELD_BY_SERVICE, _field(demand, port), message)


def reserved(numbers: Iterable[int], of: ReservedNumbers) -> Iterator[Mistake]:
    """A sentence for each reserved number that a policy chose."""
    for number in numbers:
        yield Mistake(Reason.PORT_RESERVED, "range", f"{of.words(1 << number)}. Choose another range")


def undecided(demand: Demand) -> str:
    """What is said when the search was cut off."""
    what = f"{len(demand.ask.ports)} ports" if len(demand.ask.ports) > 1 else "a port"
    return (
        f"the search for {what} on {_nodes_in_words(demand.candidates.nodes)} was cut off before it was known whether"
        " there is room. Retry. Fewer ports in one Pod, or fewer Pods that wait for a node, make the search shorter"
    )


def conflicts(demand: Demand) -> list[Mistake]:
    """A sentence for each fixed number that no candidate has free; one for all where only their combination fails."""
    mistakes, candidates, view = [], demand.candidates, demand.view
    for port, key in demand.fixed:
        if demand.ask.owner.is_pod and free_nodes([key], candidates, view, demand.exempt):
            continue
        if not demand.ask.owner.is_pod and open_for_lease([key], candidates.nodes, view):
            continue
        held = view.ports.conflicting(key) & candidates.nodes
        holders = _holders_on(demand, key, held, demand.exempt)
        where = _words_of(demand, key, held, holders) if held else "a Pod that has no node yet may land there"
        remedy = _of_rollout(demand, holders) or "Choose another number or free it"
        message = f"{port}: {key} is taken {_on_all(candidates.nodes)}: {where}. {remedy}"
        mistakes.append(Mistake(Reason.PORT_CONFLICT, _field(demand, port), message))
    if not mistakes:
        numbers = ", ".join(str(key) for _, key in demand.fixed)
        message = f"{numbers} are each free somewhere, but not together on one of {_nodes_in_words(candidates.nodes)}"
        mistakes.append(Mistake(Reason.PORT_CONFLICT, "ports", message))
    return mistakes


def _field(demand: Demand, port: PortAsk) -> str:
    """The field of a fixed number: that of its author, where the policy makes the numbers of other ports."""
    if port.host_port and demand.ask.policy.is_ranged:
        return f"ports[{demand.ask.ports.index(port)}].host_port"
    return "ports"


def exhausted(demand: Demand) -> Mistake:
    """The sentence for open ports that find no numbers of the range."""
    ask, view = demand.ask, demand.view
    wanted = [group.count for group in demand.groups if not group.number]
    of_range = demand.within_range().bit_count()
    taken = span(ask.low, ask.high) & view.reserved.numbers
    aside = f", {_lowest_runs(taken)} reserved" if taken else ""
    held = 0
    for protocol in demand.protocols:
        held |= view.services.within(protocol, ask.low, ask.high) << ask.low
    if held:
        aside += f", {_lowest_runs(held)} held by Services"
    left = "no number" if len(wanted) == 1 else f"no {len(wanted)} numbers"
    if wants_runs(demand):
        left = "no run of " + " and of ".join(
            f"{count} free numbers" if count > 1 else "1" for count in wanted[:SHOWN_BLOCKS]
        )
    message = (
        f"range {ask.low}-{ask.high} ({of_range} numbers{aside}) has {left} left"
        f" {_on_any(demand.candidates.nodes)}. Widen the range, or free ports{_by_old_report(demand)}"
    )
    return Mistake(Reason.RANGE_EXHAUSTED, "range", message)


def _by_old_report(demand: Demand) -> str:
    """That processes which an agent told of long ago are among those that have the range, of one of some candidates."""
    view, ask = demand.view, demand.ask
    names = islice(view.nodes.names_of(demand.candidates.nodes), MOST_REPORTS) if view.ports.sockets.entries else ()
    for name in filter(view.ports.sockets.is_stale, names):
        if view.nodes.at(view.nodes.positions[name]).has_foreign(ask.low, ask.high):
            return f". Processes of {name} are among the holders, as its agent said {_minutes_ago(demand, name)}"
    return ""


def _minutes_ago(demand: Demand, name: NodeName) -> str:
    return f"{demand.view.ports.sockets.age(name) / 60:.0f} minutes ago"


def _lowest_runs(numbers: int) -> str:
    """The lowest runs of a set of numbers, as text, and how many more numbers there are."""
    shown = 0
    for low, high in islice(runs_of(numbers), SHOWN_RUNS):
        shown |= span(low, high)
    more = (numbers & ~shown).bit_count()
    return format_numbers(shown) + (f" and {more} more" if more else "")


def behind(demand: Demand, in_the_way: Sequence[Claim]) -> Iterator[PodWarning]:
    """A sentence for each holder that will go before the Pod, which is planned behind it."""
    for claim in in_the_way:
        who = _holder(demand, claim)
        if claim.is_terminating:
            message = f"{who} on node {claim.node} is terminating: the Pod waits until it is gone"
            yield PodWarning(Notice.BEHIND_TERMINATING, message)
        else:
            message = f"{who} on node {claim.node} has a lower priority: the scheduler may preempt it"
            yield PodWarning(Notice.BEHIND_PREEMPTED, message)


def full(demand: Demand) -> PodWarning:
    """The sentence for a Pod that is admitted although no candidate has room."""
    on = _nodes_in_words(demand.candidates.nodes)
    message = f"every one of {on} is full: the Pod stays Pending until there is room or another node"
    return PodWarning(Notice.ALL_FULL, message)


def _held_on(demand: Demand, key: PortKey, nodes: int) -> str:
    """Who holds a port on some nodes, a few of them by name, those that are exempt among them."""
    return _words_of(demand, key, nodes, _holders_on(demand, key, nodes, frozenset()))


def _holders_on(
    demand: Demand, key: PortKey, nodes: int, exempt: frozenset[ClaimId]
) -> list[tuple[NodeName, list[Claim]]]:
    """A few of some nodes by name, each with the claims that hold a port there, less those that are exempt."""
    claims, holders = demand.view.claims, demand.view.ports.holders
    return [
        (name, [claims[each] for each in holders(name, key) if each not in exempt])
        for name in islice(demand.view.nodes.names_of(nodes), SHOWN_HOLDERS)
    ]


def _words_of(demand: Demand, key: PortKey, nodes: int, holders: Iterable[tuple[NodeName, list[Claim]]]) -> str:
    """Who holds a port on some nodes. holders: the claims that do, on a few of them."""
    parts, has_reports = [], bool(demand.view.ports.sockets.entries)
    for name, claims in holders:
        who = [_holder(demand, claim) for claim in claims]
        who += _processes(demand, key, name) if has_reports else ()
        parts.append(f"{name} by {', '.join(who[:SHOWN_HOLDERS])}")
    more = nodes.bit_count() - SHOWN_HOLDERS
    return ", ".join(parts) + (f", and on {more} more" if more > 0 else "")


def _processes(demand: Demand, key: PortKey, name: NodeName) -> Iterator[str]:
    """The processes that hold a port on a node; with the age of what its agent said, where that is old."""
    view, sockets = demand.view, demand.view.ports.sockets
    if not is_foreign((key,), name, view):
        return
    age = f" (as its agent said {_minutes_ago(demand, name)})" if sockets.is_stale(name) else ""
    yield from {f"{socket}{age}": None for socket in sockets.processes(name, key)}


def _of_rollout(demand: Demand, holders: Iterable[tuple[NodeName, list[Claim]]]) -> str:
    """What to do where the Pod's own workload holds the number on some node: it makes new Pods before old ones go."""
    asking = demand.ask.owner
    for _, claims in holders:
        for claim in claims:
            if is_of_one_workload(claim.owner, asking):
                return (
                    "Pods of the same workload hold it: with a rolling update set maxSurge 0 (and maxUnavailable 1) or"
                    " strategy Recreate, run at most one replica for each node, or use policy Dynamic"
                )
    return ""


def is_of_one_workload(one: Owner, other: Owner) -> bool:
    """Whether two Pods were made for one workload: by one controller, or by two ReplicaSets of one Deployment."""
    if not (one.is_pod and other.is_pod and one.namespace == other.namespace):
        return False
    if one.controller_uid and one.controller_uid == other.controller_uid:
        return True
    stems = {_stem(each.generate_name) for each in (one, other) if each.controller_uid}
    return len(stems) == 1 and "" not in stems and bool(one.controller_uid and other.controller_uid)


def _stem(generate_name: str) -> str:
    """`web` of a ReplicaSet's `web-5c86cff746-`; empty for names that no Deployment gives."""
    named = re.fullmatch(r"(.+)-[bcdfghjklmnpqrstvwxz2456789]{5,10}-", generate_name)
    return named[1] if named else ""


def _holder(demand: Demand, claim: Claim) -> str:
    """A holder as the asking owner may see it."""
    owner = claim.owner
    if demand.view.discloses_holders or not owner.namespace or owner.namespace == demand.ask.owner.namespace:
        return f"{owner}" if owner.is_pod else f"lease {claim.id} of {owner}"
    return "a Pod of another namespace" if owner.is_pod else "a lease of another namespace"


def _on_all(nodes: int) -> str:
    return "on the only candidate node" if nodes.bit_count() == 1 else f"on all {_nodes_in_words(nodes)}"


def _on_any(nodes: int) -> str:
    return "on the only candidate node" if nodes.bit_count() == 1 else f"on any of {_nodes_in_words(nodes)}"


def _nodes_in_words(nodes: int) -> str:
    return f"{nodes.bit_count()} candidate nodes"
