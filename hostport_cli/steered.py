"""Which nodes a Pod is kept off by name, and who holds its numbers there. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from hostport.contract.limits import MOST_STEERED
from hostport.v1 import allocator_pb2 as pb
from hostport_cli import wording
from hostport_cli.holding import holder

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def excluded_nodes(pod: Any) -> list[str]:
    """The nodes that each term of a Pod's required node affinity excludes by name, in order, `MOST_STEERED` at most."""
    affinity = ((pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}).get(_REQUIRED) or {}
    terms = [each for each in affinity.get("nodeSelectorTerms") or () if any(each.values())]
    named = [
        {
            name
            for each in term.get("matchFields") or ()
            if (each["key"], each["operator"]) == ("metadata.name", "NotIn")
            for name in each["values"]
        }
        for term in terms
    ]
    return sorted(set[str].intersection(*named))[:MOST_STEERED] if named else []


def holders_told(pod: Any, held: Mapping[str, Sequence[pb.HeldPort]]) -> str:
    """For each node that a Pod is kept off who holds a number of the Pod there, in one line.

    held: what is held on these nodes; one that nobody knows any more is not among them.
    """
    wanted = {
        (port.get("protocol", "TCP"), port["hostPort"])
        for container in (*pod["spec"]["containers"], *(pod["spec"].get("initContainers") or ()))
        for port in container.get("ports") or ()
        if port.get("hostPort")
    }
    told = []
    for node, ports in held.items():
        here = [port for port in ports if _has_any(port, wanted)]
        who = ", ".join(f"{wording.port(port)} by {holder(port)}" for port in here)
        told.append(f"{node} ({who or 'nobody has its numbers there now: a new Pod may go there'})")
    return ", ".join(told)


def _has_any(held: pb.HeldPort, wanted: Collection[tuple[str, int]]) -> bool:
    """Whether a number of what is held, which may be a block, is wanted."""
    numbers = range(held.host_port, wording.last(held) + 1)
    return any(protocol == wording.protocol(held.protocol) and number in numbers for protocol, number in wanted)
