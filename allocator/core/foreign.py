"""Foreign holders: who holds a number of a node without an allocation, and the numbers that Services hold.

Rules:

* The node port, and the health check node port, of a Service is held on every node and on every address: kube-proxy
  takes what is sent to it before any program does, and opens no socket that would keep a program from it.
* What is held on every node is kept once for the cluster, and not for each node: one set of numbers for each protocol,
  and the holders of each slot.
* What only one node knows, its processes, is not kept here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum

import msgspec

from allocator.core.ports import NumberSet, PortKey, Protocol, Slot, bits, lowest, number_of, protocol_of, slot_of

ServiceName = tuple[str, str]
"""Namespace and name."""


class ForeignKind(Enum):
    """What a foreign holder is."""

    SERVICE = "Service"  # on every node
    PROCESS = "process"  # a socket that no Pod declares, on one node
    RESERVED = "reserved"  # a number of --reserved-ports, on every node

    # As for Protocol: members are singletons.
    __hash__ = object.__hash__


class ForeignHolder(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Who holds a number of a node without an allocation.

    namespace, uid: of a Service. name: of the Service, of the process, or of the program that a number is reserved for;
    empty where it is not known. user: the numeric id of the user of a process; None where it is not known.
    is_health_check: whether it is the health check node port of the Service.
    """

    kind: ForeignKind
    namespace: str = ""
    name: str = ""
    uid: str = ""
    user: int | None = None
    is_health_check: bool = False


def words_of(holder: ForeignHolder, *, asker: str, discloses: bool) -> str:
    """What a foreign holder is called in a sentence.

    asker: the namespace of who is told; empty: it has none. discloses: whether Services of other namespaces are named
    (--disclose-holders=all).
    """
    match holder.kind:
        case ForeignKind.SERVICE:
            part = "health check node port" if holder.is_health_check else "node port"
            if is_disclosed(holder, asker=asker, discloses=discloses):
                return f"Service {holder.namespace}/{holder.name} ({part})"
            return f"a Service of another namespace ({part})"
        case ForeignKind.PROCESS if holder.name:
            return f"process {holder.name}"
        case ForeignKind.PROCESS:
            return "a process" if holder.user is None else f"a process of user {holder.user}"
        case ForeignKind.RESERVED:
            return f"reserved for {holder.name}" if holder.name else "reserved in this cluster"


def is_disclosed(holder: ForeignHolder, *, asker: str, discloses: bool) -> bool:
    """Whether a foreign holder may be named to somebody; the arguments are those of `words_of`."""
    return discloses or not holder.namespace or holder.namespace == asker


class NodePort(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A number that a Service holds on every node."""

    protocol: Protocol
    number: int
    is_health_check: bool = False


class ObservedService(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What we need to know of a Service that exists: the numbers that it holds. `uid`: its metadata.uid."""

    namespace: str
    name: str
    uid: str = ""
    ports: tuple[NodePort, ...] = ()

    @property
    def full_name(self) -> ServiceName:
        return self.namespace, self.name


class ServicePorts:
    """The numbers that Services hold on every node.

    holders: who holds each slot, in the order in which they came, nearly always one; read by others, changed here. It
    is empty where no Service has a node port, and then nothing has to be asked of the rest.
    """

    def __init__(self) -> None:
        self.holders: dict[Slot, tuple[ForeignHolder, ...]] = {}
        self._numbers: dict[Protocol, NumberSet] = {}
        self._services: dict[ServiceName, ObservedService] = {}  # those that hold something

    def put(self, service: ObservedService) -> list[Slot]:
        """Takes a Service as it is now; gives the slots that it holds and did not before."""
        before = self._services.get(service.full_name)
        if before == service:
            return []
        had = {} if before is None else _service_slots(before)
        self.drop(service.full_name)
        slots = _service_slots(service)
        if slots:
            self._services[service.full_name] = service
        for slot, holder in slots.items():
            self.holders[slot] = (*self.holders.get(slot, ()), holder)
            self._numbers.setdefault(protocol_of(slot), NumberSet()).add(number_of(slot))
        return [slot for slot, holder in slots.items() if had.get(slot) != holder]

    def drop(self, name: ServiceName) -> list[Slot]:
        """Forgets a Service that is gone, which need not be known; gives the slots that it held."""
        service = self._services.pop(name, None)
        slots = _service_slots(service) if service else {}
        for slot, holder in slots.items():
            left = tuple(each for each in self.holders[slot] if each != holder)
            if left:
                self.holders[slot] = left
            else:
                del self.holders[slot]
                self._numbers[protocol_of(slot)].discard(number_of(slot))
        return list(slots)

    def update(self, gone: Iterable[ServiceName], services: Iterable[ObservedService]) -> list[Slot]:
        """Takes what changed; gives the slots that are held now and were not, or the other way round."""
        changed: list[Slot] = []
        for name in gone:
            changed += self.drop(name)
        for service in services:
            before = self._services.get(service.full_name)
            lost = {} if before is None else _service_slots(before)
            changed += [*self.put(service), *(slot for slot in lost if slot not in self.holders)]
        return changed

    def within(self, protocol: Protocol, low: int, high: int) -> int:
        """The numbers of [low, high] that are held, less `low`: bit 0 says whether `low` is one."""
        numbers = self._numbers.get(protocol)
        return numbers.within(low, high) if numbers is not None else 0

    def names_within(self, protocol: Protocol, low: int, high: int) -> Iterator[ServiceName]:
        """Who holds numbers of [low, high], in the order of these; who holds several comes as often."""
        for above in bits(self.within(protocol, low, high)):
            for holder in self.holders[slot_of(protocol, low + above)]:
                yield holder.namespace, holder.name

    def holding(self, keys: Iterable[PortKey]) -> list[tuple[PortKey, ForeignHolder]]:
        """Those of some ports that are held, on whatever address, each with its first holder; of a block one number."""
        return [found for key in keys if (found := self.holder(key))] if self.holders else []

    def holder(self, key: PortKey) -> tuple[PortKey, ForeignHolder] | None:
        """The port, or of a block the lowest number that is held, with its first holder; None where nobody holds it."""
        if key.length > 1:
            held = self.within(key.protocol, key.number, key.number + key.length - 1)
            if not held:
                return None
            key = PortKey(key.ip, key.protocol, key.number + lowest(held))
        holders = self.holders.get(key.slot)
        return (key, holders[0]) if holders else None

    def names(self) -> list[ServiceName]:
        """The Services that hold something: one of them that a full list lacks is gone."""
        return list(self._services)


def _service_slots(service: ObservedService) -> dict[Slot, ForeignHolder]:
    """What a Service holds. A number that it names twice is a node port first."""
    held: dict[Slot, ForeignHolder] = {}
    for port in service.ports:
        holder = ForeignHolder(
            kind=ForeignKind.SERVICE,
            namespace=service.namespace,
            name=service.name,
            uid=service.uid,
            is_health_check=port.is_health_check,
        )
        held.setdefault(slot_of(port.protocol, port.number), holder)
    return held
