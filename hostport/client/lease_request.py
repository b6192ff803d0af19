"""What is asked for and what is granted, as values. Pure.

Rule: what can only be a slip of whoever wrote the call is a ValueError here, before anybody is asked. What depends on
the allocator, such as the longest time to live, is refused by the allocator.
"""

from __future__ import annotations

import builtins
import ipaddress
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypedDict

from google.protobuf.duration_pb2 import Duration

from hostport.contract.limits import HIGHEST_PORT, LOWEST_PORT, MOST_NUMBERS
from hostport.contract.words import format_run
from hostport.v1 import allocator_pb2 as pb

Protocol = Literal["TCP", "UDP", "SCTP"]

_PROTOCOLS = {"TCP": pb.PROTOCOL_TCP, "UDP": pb.PROTOCOL_UDP, "SCTP": pb.PROTOCOL_SCTP}
_NAMES: dict[int, Protocol] = {pb.PROTOCOL_TCP: "TCP", pb.PROTOCOL_UDP: "UDP", pb.PROTOCOL_SCTP: "SCTP"}

USUAL_TTL = 300.0
"""Seconds that a lease outlives its last renewal. The allocator's own default is for those who do not renew."""


def _check_size(what: str, size: object) -> None:
    if not (isinstance(size, int) and 1 <= size <= MOST_NUMBERS):
        raise ValueError(f"{what} {size!r} is not in 1..{MOST_NUMBERS}")


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
        if self.protocol not in _PROTOCOLS:
            raise ValueError(f"protocol {self.protocol!r} is none of {', '.join(_PROTOCOLS)}")
        if self.number:
            _check_number("number", self.number)
        if self.host_ip:
            try:
                ipaddress.ip_address(self.host_ip)
            except ValueError:
                raise ValueError(f"host_ip {self.host_ip!r} is no IP address, such as 192.0.2.1") from None
        _check_size("count", self.count)
        _check_size("alignment", self.alignment)

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
        ValueError: the owner is not Kind/name, or its kind is Pod; a bound of the range is no port; the ttl is no time.

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
        kind, slash, name = self.owner.partition("/")
        if not (kind and slash and name):
            raise ValueError(f"owner {self.owner!r} is not Kind/name, such as Relay/r1")
        if kind == "Pod":
            raise ValueError("a lease is not for a Pod: the webhook asks for Pods")
        for bound in self.range or ():
            _check_number("range", bound)
        _check_seconds("ttl", self.ttl)

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


def _check_seconds(what: str, seconds: object) -> None:
    if not (isinstance(seconds, int | float) and math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"{what} {seconds!r} is not a number of seconds above 0, such as {USUAL_TTL:g}")


def _check_number(what: str, number: object) -> None:
    if not (isinstance(number, int) and LOWEST_PORT <= number <= HIGHEST_PORT):
        raise ValueError(f"{what} {number!r} is not in {LOWEST_PORT}..{HIGHEST_PORT}")
