"""A claim: some ports, for one owner, in one state of its life; and what may happen to it.

Longer than 350 lines because what a claim is and what each event makes of it are read together.

Claims are values. An event gives a new one; the ledger says which is in force. `TRANSITIONS` has every event that may
happen in a state; any other is an error of ours. A claim is made by an ask (of a Pod, or for a lease), or by the sight
of a Pod that never asked.

A Pod is recognised by the allocation id that it carries, and by what cannot be copied with it: its namespace and its
name (or generateName, where it had no name at admission). A Pod is the truth about itself: its ports, node and
constraints are the claim's as soon as it is seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from functools import lru_cache
from sys import intern
from typing import Any, NewType

import msgspec
from msgspec.structs import replace

from allocator.core.candidates import ANYWHERE, Constraints, Node, NodeName
from allocator.core.foreign import ObservedService, ServiceName
from allocator.core.ports import PortKey, Protocol, lowest, normalise_ip, slots_and_addresses
from allocator.core.sockets import SocketChange

ClaimId = NewType("ClaimId", str)
PodUid = NewType("PodUid", str)

POD = "Pod"


Shape = tuple[tuple[str, str, Protocol, int, int], ...]
"""Container, name, protocol, old containerPort and count of numbers of each port."""


Bounds = tuple[int, int]
"""The lowest and the highest number of a range."""


@lru_cache(maxsize=1024)
def bounds(low: int, high: int) -> Bounds:
    """Cached: there are many claims and few ranges, which then are one object each."""
    return low, high


class State(Enum):
    """Where a claim stands in its life."""

    RESERVED = "RESERVED"
    CONFIRMED = "CONFIRMED"
    BOUND = "BOUND"
    LEASED = "LEASED"
    RELEASED = "RELEASED"

    # As for Protocol: members are singletons.
    __hash__ = object.__hash__


class Owner(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """For whom the ports are. `kind` "Pod" is a Pod; anything else leases."""

    kind: str = POD
    namespace: str = ""
    name: str = ""
    generate_name: str = ""
    uid: str = ""
    controller_uid: str = ""
    description: str = ""

    @classmethod
    def kept_once(cls, fields: Any) -> Owner:
        """The owner with the fields of a message or record. What many owners have alike is one object."""
        return cls(
            kind=intern(fields.kind),
            namespace=intern(fields.namespace),
            name=fields.name,
            generate_name=intern(fields.generate_name),
            uid=fields.uid,
            controller_uid=intern(fields.controller_uid),
            description=fields.description,
        )

    @property
    def is_pod(self) -> bool:
        return self.kind == POD

    @property
    def full_name(self) -> tuple[str, str] | None:
        """(namespace, name) of a named Pod: what succession goes by. None for others."""
        return (self.namespace, self.name) if self.kind == POD and self.name else None

    def __str__(self) -> str:
        name = self.name or (f"{self.generate_name}*" if self.generate_name else self.description or "(unnamed)")
        return f"{self.kind} {self.namespace}/{name}" if self.namespace else f"{self.kind} {name}"


class ClaimPort(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One port of a claim. `container_port` is the one before the allocation.

    count: how many consecutive numbers it stands for, host_port the first of them; more than one is a block.
    """

    container: str = ""
    name: str = ""
    protocol: Protocol = Protocol.TCP
    container_port: int = 0
    host_port: int
    host_ip: str = ""
    appeared: bool = False  # came with another webhook after the allocation: held as it stands, behind the others
    count: int = 1

    @property
    def key(self) -> PortKey:
        return PortKey(normalise_ip(self.host_ip), self.protocol, self.host_port, self.count)


def count_numbers(ports: Iterable[Any]) -> int:
    """How many numbers some ports, of a claim or of an ask, stand for: those of a block are counted one by one."""
    numbers = 0
    for port in ports:  # in the way of every decision, and a generator takes twice as long
        numbers += port.count
    return numbers


CLAIM_WEIGHT = 8


def weight_of(claim: Claim | None) -> int:
    """What a claim that comes or goes weighs, in numbers: each of its own, and `CLAIM_WEIGHT` for the rest of it.

    None: it has gone meanwhile.
    """
    return CLAIM_WEIGHT + (count_numbers(claim.ports) if claim is not None else 0)


def shape_of(ports: Iterable[Any]) -> Shape:
    """What makes two claims alike: their ports, less the numbers. ports: of a claim, or of an ask."""
    return tuple([(p.container, p.name, p.protocol, p.container_port, p.count) for p in ports])


class Claim(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Ports that an owner holds on `node`: bound to it, or planned there while it has none."""

    id: ClaimId
    owner: Owner
    state: State
    ports: tuple[ClaimPort, ...]
    created: float  # by the wall clock, for people
    constraints: Constraints = ANYWHERE
    node: NodeName | None = None
    expires: float | None = None  # by the clock that the ledger is given as `now`
    settled_at: float | None = None  # when its Pod was first seen on its node, by the wall clock, for people
    pod_uid: PodUid | None = None
    range: Bounds | None = None  # the bounds that its numbers were chosen from; None: they were fixed
    priority: int = 0  # spec.priority of the Pod
    may_preempt: bool = False
    is_terminating: bool = False  # the Pod has a deletionTimestamp; it holds its ports until it is gone
    own_network: bool = False  # the Pod was seen, and keeps a network of its own: the node maps the numbers
    warnings: str = ""  # what the Pod was warned of, as it stands in the Pod: words with commas
    unmanaged: bool = False  # a Pod that we never allocated: known from the watch alone, never journalled

    @property
    def keys(self) -> list[PortKey]:
        return [port.key for port in self.ports]

    @property
    def shape(self) -> Shape:
        """What makes two claims alike: their ports, less the numbers."""
        return shape_of(self.ports)

    @property
    def is_settled(self) -> bool:
        """Whether `node` is where it is, not where it is planned."""
        return self.state is State.BOUND or self.state is State.LEASED


class LifeEvent(Enum):
    """What happens to a claim."""

    POD_ASKED = "Allocate for a Pod"
    LEASE_ASKED = "Allocate for a lease"
    POD_ASKED_AGAIN = "the Pod asks again"
    DEADLINE_SET = "its deadline is set"
    PLANNED = "it is planned on a node, or on none"
    POD_SEEN = "the Pod is seen, without a node"
    POD_SEEN_ON_NODE = "the Pod is seen on a node"
    POD_GONE = "the Pod is gone or finished"
    RENEWED = "Renew"
    ENDED = "Release, or its time is up"

    # As for Protocol: members are singletons.
    __hash__ = object.__hash__


TRANSITIONS: Mapping[tuple[State | None, LifeEvent], State] = {
    (None, LifeEvent.POD_ASKED): State.RESERVED,
    (None, LifeEvent.LEASE_ASKED): State.LEASED,
    # A Pod that never asked: the claim is unmanaged.
    (None, LifeEvent.POD_SEEN): State.CONFIRMED,
    (None, LifeEvent.POD_SEEN_ON_NODE): State.BOUND,
    (State.RESERVED, LifeEvent.POD_ASKED_AGAIN): State.RESERVED,
    # It was made, or kept, when nobody showed us Pods.
    (State.RESERVED, LifeEvent.DEADLINE_SET): State.RESERVED,
    (State.RESERVED, LifeEvent.PLANNED): State.RESERVED,
    (State.RESERVED, LifeEvent.POD_SEEN): State.CONFIRMED,
    (State.RESERVED, LifeEvent.POD_SEEN_ON_NODE): State.BOUND,
    (State.RESERVED, LifeEvent.POD_GONE): State.RELEASED,
    (State.RESERVED, LifeEvent.ENDED): State.RELEASED,
    (State.CONFIRMED, LifeEvent.PLANNED): State.CONFIRMED,
    (State.CONFIRMED, LifeEvent.POD_SEEN): State.CONFIRMED,
    (State.CONFIRMED, LifeEvent.POD_SEEN_ON_NODE): State.BOUND,
    (State.CONFIRMED, LifeEvent.POD_GONE): State.RELEASED,
    # An older list may show the Pod as it was before it had a node.
    (State.BOUND, LifeEvent.POD_SEEN): State.CONFIRMED,
    (State.BOUND, LifeEvent.POD_SEEN_ON_NODE): State.BOUND,
    (State.BOUND, LifeEvent.POD_GONE): State.RELEASED,
    (State.LEASED, LifeEvent.RENEWED): State.LEASED,
    (State.LEASED, LifeEvent.ENDED): State.RELEASED,
}
"""The state before, None where there is no claim yet, and the event → the state afterwards."""

_SEEN = frozenset(
    {
        "owner", "state", "ports", "constraints", "node", "expires", "settled_at", "pod_uid", "priority", "may_preempt",
        "is_terminating", "own_network", "warnings",
    }
)  # fmt: skip

CHANGED: Mapping[LifeEvent, frozenset[str]] = {
    LifeEvent.POD_ASKED_AGAIN: frozenset({"ports", "constraints", "node"}),
    LifeEvent.DEADLINE_SET: frozenset({"expires"}),
    LifeEvent.PLANNED: frozenset({"node"}),
    LifeEvent.POD_SEEN: _SEEN,
    LifeEvent.POD_SEEN_ON_NODE: _SEEN,
    LifeEvent.RENEWED: frozenset({"expires"}),
}
"""The fields of a claim that an event may change; it keeps all the others. An event that ends it changes none."""

LIVE_STATES = tuple(state for state in State if state is not State.RELEASED)
"""The states of a claim that holds its ports."""


class IllegalTransitionError(AssertionError):
    """An event that cannot happen in the state of the claim: a mistake of ours."""


def after(state: State | None, event: LifeEvent) -> State:
    """The state of a claim after an event. `state`: the one before; None where there is no claim yet.

    Raises:
        IllegalTransitionError: no such event can happen in that state.

    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransitionError(f"{event.value!r} for a claim that is {state.name if state else None}") from None


class RejectedBy(Enum):
    """Who says that a Pod's host ports are not free."""

    SCHEDULER = "scheduler"  # and tries again
    KUBELET = "kubelet"  # and the Pod has failed


class PortRejection(msgspec.Struct, frozen=True, gc=False):
    """That a Pod's host ports are not free: on how many nodes."""

    by: RejectedBy
    nodes: int = 1


class ObservedPod(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What we need to know of a Pod that exists."""

    uid: PodUid
    namespace: str
    name: str
    generate_name: str = ""
    controller_uid: str = ""
    node: NodeName | None = None
    is_finished: bool = False  # Succeeded or Failed: its ports are free
    ports: tuple[ClaimPort, ...] = ()  # those with a host port
    constraints: Constraints = ANYWHERE
    priority: int = 0
    may_preempt: bool = False
    is_terminating: bool = False  # it has a deletionTimestamp, and holds its ports until it is gone
    carried_id: str = ""  # the allocation id that stands in it
    own_network: bool = False  # it has no hostNetwork: the node maps its numbers
    warnings: str = ""  # what it was warned of: words with commas
    rejection: PortRejection | None = None  # what Kubernetes says of its ports
    ready_at: float | None = None  # since when it is Ready, by the wall clock: of Pods with numbers of ours on a node

    @property
    def event(self) -> LifeEvent:
        """What the sight of the Pod is for its claim."""
        return LifeEvent.POD_SEEN_ON_NODE if self.node else LifeEvent.POD_SEEN


class ClusterChange(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What changed in the cluster since the last change: a batch that a source tells at once.

    The one interface for what the cluster shows: whoever tells of something new adds a field here, and says what it
    means in `Ledger.observe`. What ends is told before what is new.
    """

    gone_nodes: Iterable[NodeName] = ()
    nodes: Iterable[Node] = ()
    gone_pods: Iterable[PodUid] = ()
    pods: Iterable[ObservedPod] = ()
    gone_services: Iterable[ServiceName] = ()
    services: Iterable[ObservedService] = ()
    reports: Iterable[SocketChange] = ()  # what agents say of their nodes; of a Node that is not there it is nothing
    addressed: Iterable[str] | None = None  # the namespaces whose Pods are told the address of their node
    enforced: Mapping[str, str] | None = None  # the Pod Security level by namespace, where it forbids host ports
    lists_pods: bool = True  # whether the source tells of Pods, so that reservations can be confirmed from now on


def is_of_pod(claim: Claim, pod: ObservedPod) -> bool:
    """Whether a claim, whose id the Pod carries, was made for it and waits for its Pod."""
    return (
        claim.state is State.RESERVED
        and claim.owner.namespace == pod.namespace
        and is_same_name(claim.owner, pod.name, pod.generate_name)
    )


def is_same_name(owner: Owner, name: str, generate_name: str) -> bool:
    """Whether a Pod may be the one that a claim was made for: by name, or by generateName where it had no name."""
    return owner.name == name if owner.name else owner.generate_name == generate_name != ""


def seen(claim: Claim, pod: ObservedPod, wall_clock: float, *, keeps_constraints: bool) -> Claim:
    """The claim as it is once its Pod was seen; an equal one where the Pod shows nothing new.

    wall_clock: when it was seen, in seconds. keeps_constraints: the Pod does not say where it may run.

    Raises:
        IllegalTransitionError: the claim is none of a Pod.

    """
    return replace(
        claim,
        owner=replace(claim.owner, name=pod.name, generate_name=pod.generate_name, uid=pod.uid),
        state=after(claim.state, pod.event),
        ports=as_stored(claim.ports, pod.ports),
        constraints=claim.constraints if keeps_constraints else pod.constraints,
        node=pod.node or claim.node,  # the plan, until there is a node
        expires=None,
        settled_at=(claim.settled_at or wall_clock) if pod.node else None,
        pod_uid=pod.uid,
        priority=pod.priority,
        may_preempt=pod.may_preempt,
        is_terminating=pod.is_terminating or claim.is_terminating,  # for good, though an older list may not know
        own_network=pod.own_network,
        warnings=pod.warnings,
    )


def planned(claim: Claim, node: NodeName | None) -> Claim:
    """The claim with another plan. `node`: where it stands from now on; None: nowhere.

    Raises:
        IllegalTransitionError: it is settled, so that there is nothing to plan.

    """
    return replace(claim, state=after(claim.state, LifeEvent.PLANNED), node=node)


def unmanaged_claim(pod: ObservedPod, created: float) -> Claim:
    """What a Pod holds that we never allocated to: its ports, all the same. `created` is by the wall clock."""
    return Claim(
        id=ClaimId(f"pod-{pod.uid}"),
        owner=Owner(
            namespace=pod.namespace,
            name=pod.name,
            generate_name=pod.generate_name,
            uid=pod.uid,
            controller_uid=pod.controller_uid,
        ),
        state=after(None, pod.event),
        ports=pod.ports,
        created=created,
        constraints=pod.constraints,
        node=pod.node,
        pod_uid=pod.uid,
        priority=pod.priority,
        may_preempt=pod.may_preempt,
        is_terminating=pod.is_terminating,
        own_network=pod.own_network,
        unmanaged=True,
    )


def as_stored(ports: tuple[ClaimPort, ...], stored: tuple[ClaimPort, ...]) -> tuple[ClaimPort, ...]:
    """The claim's ports as the Pod has them: the claim's own where the numbers agree, since they know the old ones.

    The numbers of a block are ports of their own in a Pod.
    """
    if set(slots_and_addresses(ports)) == set(slots_and_addresses(stored)):
        return ports
    return blocks_as_stored(ports, stored) if any(port.count > 1 for port in ports) else stored


def has_shrunk(claim: Claim, shown: Claim) -> bool:
    """Whether a claim had a block of which its Pod, as it is shown now, lacks some numbers."""
    has = [port.key for port in shown.ports]
    return any(
        sum(key.length for key in has if key.ip == had.ip and key.meets(had)) < had.length
        for had in (port.key for port in claim.ports if port.count > 1)
    )


def blocks_as_stored(ports: tuple[ClaimPort, ...], stored: tuple[ClaimPort, ...]) -> tuple[ClaimPort, ...]:
    """The same for a claim with blocks: what is left of a block stays one port, or one for each run that is left.

    What the Pod has besides comes behind, as it stands.
    """
    theirs = {(port.key.ip, port.protocol, port.host_port): port for port in stored}
    kept: list[ClaimPort] = []
    for port in ports:
        ip, protocol, first, _ = key = port.key
        numbers = sum(1 << number - first for number in key.numbers if (ip, protocol, number) in theirs)
        begin = 0
        while numbers >> begin:
            begin += lowest(numbers >> begin)
            length = lowest(~(numbers >> begin))
            is_whole = length == port.count
            kept.append(port if is_whole else replace(port, host_port=port.host_port + begin, count=length))
            begin += length
    mine = {(key.ip, key.protocol, number) for key in (port.key for port in ports) for number in key.numbers}
    return (*kept, *(port for key, port in theirs.items() if key not in mine))
