"""How messages of the API read in a table."""

from __future__ import annotations

import time

from google.protobuf.timestamp_pb2 import Timestamp

from hostport.v1 import allocator_pb2 as pb
from hostport_cli.printing import age

PROTOCOLS = ("TCP", "UDP", "SCTP")


def now() -> float:
    """Seconds since the epoch. Of its own, so that tests can turn it: gRPC's deadlines are told by `time.time`."""
    return time.time()


def port(held: pb.AllocatedPort | pb.HeldPort) -> str:
    """`10000/TCP`, a block as `20000-20099/TCP`, with the address where it is a specific one."""
    ip = f"{address(held)}:" if address(held) else ""
    return f"{ip}{numbers(held)}/{protocol(held.protocol)}"


def address(held: pb.AllocatedPort | pb.HeldPort) -> str:
    """The address; empty where it is every one."""
    return "" if held.host_ip in {"0.0.0.0", "::"} else held.host_ip  # noqa: S104 - compared


def numbers(held: pb.AllocatedPort | pb.HeldPort) -> str:
    """`10000`, or a block as `20000-20099`."""
    return f"{held.host_port}-{last(held)}" if held.count > 1 else str(held.host_port)


def last(held: pb.AllocatedPort | pb.HeldPort) -> int:
    """The highest of its numbers."""
    return held.host_port + max(held.count, 1) - 1


def foreign(holder: pb.ForeignHolder) -> str:
    """`Service/demo/web`, `process/sshd`, `reserved/kubelet`; what is not known is left out."""
    kinds = pb.ForeignHolder
    match holder.kind:
        case kinds.KIND_SERVICE:
            known = [holder.namespace, holder.name] if holder.name else ["(of another namespace)"]
            return "/".join(["Service", *known])
        case kinds.KIND_PROCESS:
            return f"process/{holder.name}" if holder.name else f"process (uid {holder.uid})"
        case _:
            return "/".join(filter(None, ["reserved", holder.name]))


def listening(value: pb.Listening.ValueType) -> str:
    """`yes`, `no`, or empty where it is not known."""
    return {pb.LISTENING_YES: "yes", pb.LISTENING_NO: "no"}.get(value, "")


def listens(allocation: pb.Allocation) -> str:
    """Likewise for all ports of an allocation: `1 of 2` where it is some."""
    known = [each.listening for each in allocation.ports if each.listening]
    yes = known.count(pb.LISTENING_YES)
    if not known or yes in {0, len(known)}:
        return listening(known[0]) if known else ""
    return f"{yes} of {len(known)}"


def ports(allocation: pb.Allocation) -> str:
    return ",".join(map(port, allocation.ports))


def named_ports(allocation: pb.Allocation) -> str:
    return ",".join(f"{each.name}={port(each)}" if each.name else port(each) for each in allocation.ports)


def protocol(value: pb.Protocol.ValueType) -> str:
    return pb.Protocol.Name(value).removeprefix("PROTOCOL_") if value else "TCP"


def state(allocation: pb.Allocation) -> str:
    """`BOUND`, with what is remarkable about it."""
    remarks = [word for word in ("external", "unplaceable") if getattr(allocation, word)]
    remarks += ["conflict"] if any(each.HasField("conflict") for each in allocation.ports) else []
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
