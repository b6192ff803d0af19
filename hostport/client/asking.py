"""What is asked for and what is got, as values. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from google.protobuf.duration_pb2 import Duration

from hostport.v1 import allocator_pb2 as pb

Protocol = Literal["TCP", "UDP", "SCTP"]

_PROTOCOLS = {"TCP": pb.PROTOCOL_TCP, "UDP": pb.PROTOCOL_UDP, "SCTP": pb.PROTOCOL_SCTP}
_NAMES: dict[int, Protocol] = {pb.PROTOCOL_TCP: "TCP", pb.PROTOCOL_UDP: "UDP", pb.PROTOCOL_SCTP: "SCTP"}


@dataclass(frozen=True, slots=True)
class Port:
    """A port that is wanted. `number` 0: any number of the range; else this one and no other."""

    name: str = ""
    protocol: Protocol = "TCP"
    number: int = 0
    host_ip: str = ""  # the address that it binds to; empty: every address


@dataclass(frozen=True, slots=True)
class LeasedPort:
    """A port that is leased."""

    name: str
    protocol: Protocol
    number: int
    host_ip: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A lease that is wanted, for `owner`: `Kind/name`, for example `Relay/r1`."""

    owner: str
    ports: Sequence[Port] = (Port(),)
    namespace: str = ""
    description: str = ""
    range: tuple[int, int] | None = None  # lowest and highest number; None: 7000 to 8000
    node: str = ""  # that node alone; empty: any
    node_selector: Mapping[str, str] = field(default_factory=dict)
    ttl: float = 300.0  # seconds that the lease outlives its last renewal

    def request(self, request_id: str) -> pb.AllocateRequest:
        """Raises ValueError when `owner` is not Kind/name, or the kind is Pod."""
        kind, slash, name = self.owner.partition("/")
        if not (kind and slash and name):
            raise ValueError(f"owner {self.owner!r} is not Kind/name, such as Relay/r1")
        if kind == "Pod":
            raise ValueError("a lease is not for a Pod: the webhook asks for Pods")
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
        ports = tuple(
            LeasedPort(port.name, _NAMES.get(port.protocol, "TCP"), port.host_port, port.host_ip)
            for port in allocation.ports
        )
        return cls(allocation.id, allocation.node, ports)

    def number(self, name: str) -> int:
        """The number of a port.

        Raises:
            KeyError: there is no port of that name.

        """
        for port in self.ports:
            if port.name == name:
                return port.number
        raise KeyError(name)


def duration(seconds: float) -> Duration:
    return Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))
