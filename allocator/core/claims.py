"""A claim: some ports, for one owner, in one state of its life.

Claims are values. A change makes a new one; the ledger says which is in force.

    RESERVED ──the Pod is seen──▶ CONFIRMED ──it has a node──▶ BOUND ──it is gone──▶ (released)
        └──unconfirmed in time──▶ (released)
    LEASED ──released, or not renewed in time──▶ (released)
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from functools import lru_cache
from sys import intern
from typing import Any, NewType

import msgspec

from allocator.core.candidates import ANYWHERE, Constraints, NodeName
from allocator.core.ports import PortKey, Protocol, normalise_ip

ClaimId = NewType("ClaimId", str)
PodUid = NewType("PodUid", str)

POD = "Pod"


Shape = tuple[tuple[str, str, Protocol, int], ...]
"""Container, name, protocol and old containerPort of each port."""


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
        return (self.namespace, self.name) if self.is_pod and self.name else None

    def __str__(self) -> str:
        name = self.name or (f"{self.generate_name}*" if self.generate_name else self.description or "(unnamed)")
        return f"{self.kind} {self.namespace}/{name}" if self.namespace else f"{self.kind} {name}"


class ClaimPort(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One port of a claim. `container_port` is the one before the allocation."""

    container: str = ""
    name: str = ""
    protocol: Protocol = Protocol.TCP
    container_port: int = 0
    host_port: int
    host_ip: str = ""
    appeared: bool = False  # came with another webhook after the allocation: held as it stands, behind the others

    @property
    def key(self) -> PortKey:
        return PortKey(normalise_ip(self.host_ip), self.protocol, self.host_port)


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
    external: bool = False  # a Pod that we never allocated: known from the watch alone, never journalled

    @property
    def keys(self) -> Iterator[PortKey]:
        return (port.key for port in self.ports)

    @property
    def shape(self) -> Shape:
        """What makes two claims alike: their ports, less the numbers."""
        return tuple([(p.container, p.name, p.protocol, p.container_port) for p in self.ports])

    @property
    def is_settled(self) -> bool:
        """Whether `node` is where it is, not where it is planned."""
        return self.state is State.BOUND or self.state is State.LEASED
