"""The Pod's ports beside the numbers that the allocator gave them."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter

import msgspec

from hostport.v1.allocator_pb2 import AllocatedPort, Allocation, Protocol
from shim.pods import Pod, Port
from shim.preview import brought, previewed
from shim.settings import ALLOCATION_ID, ALLOCATIONS

PROTOCOL_NAMES = {value: name.removeprefix("PROTOCOL_") for name, value in Protocol.items()}


class AllocationError(ValueError):
    """The allocator's fault: its answer does not fit the question. Nothing may be patched by it."""


class Held(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A port and its number. `at` is the place of its container in `Pod.containers`.

    `old` is the containerPort that the port had before anything moved it: what it is called by. `said` is the number
    that probes and texts of the Pod as it came call it by. They differ for a Pod that brings numbers of another life;
    in a reinvocation the Pod shows the new number already.

    `own_network`: only its hostPort is set, and nothing moves.
    """

    at: int
    port: Port
    old: int
    said: int
    number: int
    own_network: bool = False
    appeared: bool = False

    @property
    def name(self) -> str:
        return self.port.name

    @property
    def container(self) -> str:
        return self.port.container

    @property
    def protocol(self) -> str:
        return self.port.protocol

    @property
    def is_moved(self) -> bool:
        """Whether the program has to listen on another number than the manifest says."""
        return self.said != self.number and not self.own_network


def match_ports(pod: Pod, allocation: Allocation, *, own_network: bool = False) -> tuple[Held, ...]:
    """The Pod's ports with their numbers, in port order; those that appeared after the allocation come last.

    The answer's ports stand in the order of the request.

    Raises:
        AllocationError: they do not, or a number is none.

    """
    asked = [(at, port) for at, container in enumerate(pod.containers) for port in container.ports]
    if own_network and len(asked) > len(allocation.ports):
        asked = [(at, port) for at, port in asked if port.host_port]  # what appeared without one is on no host
    if len(asked) != len(allocation.ports):
        raise AllocationError(f"asked for {len(asked)} ports, got {len(allocation.ports)}")
    view = _View(pod, allocation, own_network=own_network)
    held = [view.held(at, port, got) for (at, port), got in zip(asked, allocation.ports, strict=True)]
    return tuple(sorted(held, key=attrgetter("appeared")))


def is_own(pod: Pod, allocation: Allocation) -> bool:
    """Whether the Pod comes back with this very allocation: reinvocation.

    A dry run has no id to come back with, so there a table without an id is taken for our own. It might be anybody's,
    and decides no more than names in a preview.
    """
    carried = pod.annotations.get(ALLOCATION_ID, "")
    return allocation.id == carried and bool(carried or ALLOCATIONS in pod.annotations)


def is_from_elsewhere(pod: Pod, allocation: Allocation) -> bool:
    """Whether the Pod brings the numbers of another life: it was restored, or copied."""
    return ALLOCATIONS in pod.annotations and not is_own(pod, allocation)


class _View:
    """How ports are called, as far as that is known of a Pod."""

    def __init__(self, pod: Pod, allocation: Allocation, *, own_network: bool) -> None:
        self._own_network = own_network
        self._is_own = is_own(pod, allocation)
        self._brought = brought(pod)
        self._previewed = {} if allocation.id else previewed(pod, own_network=own_network)

    def held(self, at: int, port: Port, got: AllocatedPort) -> Held:
        protocol = PROTOCOL_NAMES.get(got.protocol, "")
        if (got.container, got.name, protocol) != (port.container, port.name, port.protocol):
            raise AllocationError(f"asked for {port.path}, got port {got.name!r}/{protocol} of {got.container!r}")
        if not 1 <= got.host_port <= 65535:
            raise AllocationError(f"{port.path} got the number {got.host_port}")
        standing = port.host_port if self._own_network else port.container_port
        known = self._brought.get((port.container, port.name, protocol, standing))
        old = known or got.container_port or port.container_port
        return Held(
            at=at,
            port=port,
            old=old,
            said=old if self._is_own else port.container_port,
            number=got.host_port,
            own_network=self._own_network,
            appeared=got.appeared or (bool(self._previewed) and known is None),
        )


def moved(held: tuple[Held, ...]) -> Iterator[Held]:
    return (each for each in held if each.is_moved)
