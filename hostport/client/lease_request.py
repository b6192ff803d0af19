"""What is asked for and what is granted, as values. Pure.

Rule: what can only be a slip of whoever wrote the call is a ValueError here, before anybody is asked. What depends on
the allocator, such as the longest time to live, is refused by the allocator.
"""

from __future__ import annotations

import builtins
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypedDict

from google.protobuf.duration_pb2 import Duration

from hostport.client.slips import USUAL_TTL, check_number, check_range, check_seconds, check_size, check_text
from hostport.contract.words import format_run
from hostport.v1 import allocator_pb2 as pb

Protocol = Literal["TCP", "UDP", "SCTP"]

_PROTOCOLS = {"TCP": pb.PROTOCOL_TCP, "UDP": pb.PROTOCOL_UDP, "SCTP": pb.PROTOCOL_SCTP}
_NAMES: dict[int, Protocol] = {pb.PROTOCOL_TCP: "TCP", pb.PROTOCOL_UDP: "UDP", pb.PROTOCOL_SCTP: "SCTP"}


@dataclass(frozen=True, slots=True)
class Port:
    """A port that is wanted. `number` 0: any number of the range; else this one and no other.

    `count`: how many consecutive numbers it stands for, `number` the first of them; more than one is a block.
    `alignment`: the first is a multiple of it, 2 for an even number.

    Raises:
        ValueError: the protocol, number, address, count or alignment is none.

    """

    name: str = ""
    protocol: Protocol = "TCP"
    number: int = 0
    host_ip: str = ""  # the address that it binds to; empty: every address
    count: int = 1
    alignment: int = 1

    def __post_init__(self) -> None:
        check_text("name", self.name)
        check_text("protocol", self.protocol)
        if self.protocol not in _PROTOCOLS:
            raise ValueError(f"protocol {self.protocol!r} is none of {', '.join(_PROTOCOLS)}")
        if self.number != 0 or isinstance(self.number, bool):
            check_number("number", self.number)
        check_text("host_ip", self.host_ip)
        if self.host_ip:
            try:
                ipaddress.ip_address(self.host_ip)
            except ValueError:
                raise ValueError(f"host_ip {self.host_ip!r} is no IP address, such as 192.0.2.1") from None
        check_size("count", self.count)
        check_size("alignment", self.alignment)

    def __str__(self) -> str:
        left_open = "any" if self.count == 1 else f"any {self.count}"
        number = format_run(self.number, self.count) if self.number else left_open
        return f"{self.name} {number}/{self.protocol}" if self.name else f"{number}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class LeasedPort:
    """A port that is leased. Of a block of `count` numbers, `number` is the first."""

    name: str
    protocol: Protocol
    number: int
    host_ip: str = ""
    count: int = 1

    @property
    def numbers(self) -> builtins.range:
        """All of its numbers."""
        return builtins.range(self.number, self.number + self.count)

    def __str__(self) -> str:
        shown = format_run(self.number, self.count)
        return f"{self.name} {shown}/{self.protocol}" if self.name else f"{shown}/{self.protocol}"


class LeaseTerms(TypedDict, total=False):
    """What may be said of a lease beside its owner and ports.

    namespace: whose quota it counts in; without one that of the caller.
    description: for people who ask who holds the port.
    range: lowest and highest number; without one 7000 to 8000.
    node, node_selector: where the port must be; without them anywhere.
    ttl: seconds that the lease outlives its last renewal.
    """

    namespace: str
    description: str
    range: tuple[int, int] | None
    node: str
    node_selector: Mapping[str, str]
    ttl: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRequest:
    """A lease that is wanted, for `owner`: `Kind/name`, for example `Relay/r1`. The rest is as in `LeaseTerms`.

    Raises:
        ValueError: the owner is not Kind/name, or its kind is Pod; the range is no pair of ports that ascends; the ttl
            is no time; a port, node or label is not of its type.

    """

    owner: str
    ports: Sequence[Port] = (Port(),)
    namespace: str = ""
    description: str = ""
    range: tuple[int, int] | None = None
    node: str = ""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    ttl: float = USUAL_TTL

    def __post_init__(self) -> None:
        check_text("owner", self.owner)
        kind, slash, name = self.owner.partition("/")
        if not (kind and slash and name):
            raise ValueError(f"owner {self.owner!r} is not Kind/name, such as Relay/r1")
        if kind == "Pod":
            raise ValueError("a lease is not for a Pod: the webhook asks for Pods")
        for port in self.ports:
            if not isinstance(port, Port):
                raise ValueError(f"port {port!r} is no Port, such as Port('media', 'UDP')")  # noqa: TRY004 - a slip
        for what in ("namespace", "description", "node"):
            check_text(what, getattr(self, what))
        if not isinstance(self.node_selector, Mapping):
            raise ValueError(f"node_selector {self.node_selector!r} is not a mapping of labels")  # noqa: TRY004 - a slip
        for label, value in self.node_selector.items():
            check_text("node_selector", label)
            check_text(f"node_selector {label}", value)
        if self.range is not None:
            check_range(self.range)
        check_seconds("ttl", self.ttl)

    def request(self, request_id: str) -> pb.AllocateRequest:
        """The message for the allocator."""
        kind, _, name = self.owner.partition("/")
        return pb.AllocateRequest(
            request_id=request_id,
            owner=pb.Owner(kind=kind, name=name, namespace=self.namespace, description=self.description),
            policy=pb.POLICY_DYNAMIC,  # a port that has a number keeps it under every policy
            range=pb.PortRange(min=self.range[0], max=self.range[1]) if self.range else None,
            ports=[
                pb.PortRequest(
                    name=port.name,
                    protocol=_PROTOCOLS[port.protocol],
                    host_port=port.number,
                    host_ip=port.host_ip,
                    count=port.count if port.count > 1 else 0,
                    alignment=port.alignment if port.alignment > 1 else 0,
                )
                for port in self.ports
            ],
            constraints=pb.NodeConstraints(node_name=self.node, node_selector=self.node_selector),
            ttl=duration(self.ttl),
        )


@dataclass(frozen=True, slots=True)
class Grant:
    """What was granted."""

    id: str
    node: str
    ports: tuple[LeasedPort, ...]

    @classmethod
    def of(cls, allocation: pb.Allocation) -> Grant:
        """What the allocator's answer grants."""
        ports = tuple(
            LeasedPort(port.name, _NAMES.get(port.protocol, "TCP"), port.host_port, port.host_ip, port.count or 1)
            for port in allocation.ports
        )
        return cls(allocation.id, allocation.node, ports)

    def port(self, name: str) -> LeasedPort:
        """The first port of a name.

        Raises:
            KeyError: there is no port of that name.

        """
        for port in self.ports:
            if port.name == name:
                return port
        raise KeyError(name)


def duration(seconds: float) -> Duration:
    """Seconds as the message that says so."""
    return Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))
