"""How messages of the API read in a table."""

from __future__ import annotations

import time

from google.protobuf.timestamp_pb2 import Timestamp

from hostport.cli.printing import age
from hostport.v1 import allocator_pb2 as pb

PROTOCOLS = ("TCP", "UDP", "SCTP")


def now() -> float:
    """Seconds since the epoch. Of its own, so that tests can turn it: gRPC's deadlines are told by `time.time`."""
    return time.time()


def port(held: pb.AllocatedPort | pb.HeldPort) -> str:
    """`10000/TCP`, with the address where it is a specific one."""
    ip = f"{held.host_ip}:" if held.host_ip and held.host_ip not in {"0.0.0.0", "::"} else ""  # noqa: S104 - compared
    return f"{ip}{held.host_port}/{protocol(held.protocol)}"


def ports(allocation: pb.Allocation) -> str:
    return ",".join(map(port, allocation.ports))


def named_ports(allocation: pb.Allocation) -> str:
    return ",".join(f"{each.name}={port(each)}" if each.name else port(each) for each in allocation.ports)


def protocol(value: pb.Protocol.ValueType) -> str:
    return pb.Protocol.Name(value).removeprefix("PROTOCOL_") if value else "TCP"


def state(allocation: pb.Allocation) -> str:
    """`BOUND`, with what is remarkable about it."""
    remarks = [word for word in ("external", "unplaceable") if getattr(allocation, word)]
    return " ".join([state_name(allocation.state), *(f"({remark})" for remark in remarks)])


def network(allocation: pb.Allocation) -> str:
    """`Host` or `Pod`; empty where it is not known, or is none of ours."""
    if allocation.external or allocation.state not in {pb.STATE_CONFIRMED, pb.STATE_BOUND}:
        return ""
    return "Pod" if allocation.own_network else "Host"


def state_name(value: pb.State.ValueType) -> str:
    return pb.State.Name(value).removeprefix("STATE_")


def owner(of: pb.Owner, *, qualified: bool) -> str:
    """`Pod/db-0`, or `Pod/demo/db-0` where namespaces are mixed."""
    name = of.name or f"{of.generate_name}*"
    return "/".join(filter(None, [of.kind, of.namespace if qualified else "", name]))


def since(moment: Timestamp, now: float) -> str:
    return age(now - seconds(moment))


def until(allocation: pb.Allocation, now: float) -> str:
    return age(seconds(allocation.expire_time) - now) if allocation.HasField("expire_time") else "never"


def seconds(moment: Timestamp) -> float:
    return moment.seconds + moment.nanos / 1e9
