"""Services whose target is the number that a port had before it moved. Pure.

A Service finds a port of its Pods by name or by number. A name follows; a number, or none at all (then it is the
Service's own), leads nowhere when the port has moved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from hostport.allocations import parse_allocations

Moved = Mapping[tuple[str, int], tuple[str, int]]
"""Protocol and old number of the ports that moved → name, which may be empty, and new number."""

MOST_PORTS = 256
"""Ports of a Service that are looked at. Kubernetes has no Service with so many."""


MOST_MOVED = 64
"""Ports of a Pod that are looked at: Services have a few."""


class Target(NamedTuple):
    """A port of a Service that finds its Pods' port by number. `port` is the Service's own."""

    protocol: str
    port: int
    number: int


class Selecting(NamedTuple):
    """A Service with a selector and ports that go by number."""

    namespace: str
    name: str
    selector: tuple[tuple[str, str], ...]
    targets: tuple[Target, ...]

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Whether a Pod with these labels is one of its own."""
        return all(labels.get(key) == value for key, value in self.selector)

    def lost(self, moved: Moved) -> Iterator[tuple[Target, str]]:
        """Each port that leads nowhere, with a sentence."""
        for target in self.targets:
            found = moved.get((target.protocol, target.number))
            if found is None:
                continue
            name, number = found
            remedy = f"set targetPort: {name}" if name else "name the port in the Pod, and use that as targetPort"
            where = f"port {target.port}/{target.protocol} to {target.number}, which moved to {number}"
            yield target, f"Service {self.name} sends {where}: {remedy}"


def moved_ports(table: str) -> Moved:
    """The ports of a Pod's `hostport.io/allocations` that moved. A table that cannot be read has none."""
    return {
        (row.protocol, row.container_port): (row.name, row.host_port)
        for row in parse_allocations(table)[:MOST_MOVED]
        if row.container_port != row.host_port
    }


def parse_service(obj: Mapping[str, Any], namespace: str = "default") -> Selecting | None:
    """The Service as far as it matters; None where it selects nobody or goes by names alone. Never raises.

    One of type ExternalName is a name in DNS: whatever it selects, it sends to no Pod.
    """
    metadata, spec = _map(obj, "metadata"), _map(obj, "spec")
    selector = {key: value for key, value in _map(spec, "selector").items() if isinstance(value, str)}
    ports = spec.get("ports")
    targets = tuple(_targets(ports[:MOST_PORTS])) if isinstance(ports, list) else ()
    name, of = metadata.get("name"), metadata.get("namespace")
    if spec.get("type") == "ExternalName" or not (selector and targets and isinstance(name, str)):
        return None
    return Selecting(of if isinstance(of, str) and of else namespace, name, tuple(sorted(selector.items())), targets)


def _targets(ports: list[Any]) -> Iterator[Target]:
    for port in ports:
        if not isinstance(port, Mapping):
            continue
        own, number, protocol = port.get("port"), port.get("targetPort"), port.get("protocol") or "TCP"
        number = number or own
        if type(own) is int and type(number) is int and isinstance(protocol, str):  # True is no number
            yield Target(protocol, own, number)


def _map(obj: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = obj.get(key)
    return value if isinstance(value, Mapping) else {}
