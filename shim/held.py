"""The Pod's ports beside the numbers that the allocator gave them."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter

import msgspec

from hostport.v1.allocator_pb2 import AllocatedPort, Allocation, Protocol
from shim.pods import Pod, Port
from shim.preview import Key, previewed
from shim.settings import ALLOCATION_ID, ALLOCATIONS

PROTOCOL_NAMES = {value: name.removeprefix("PROTOCOL_") for name, value in Protocol.items()}


class AllocationError(ValueError):
    """The allocator's fault: its answer does not fit the question. Nothing may be patched by it."""


class Held(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A port and its number. `at` is the place of its container in `Pod.containers`.

    `old` is the containerPort before the allocation. On reinvocation the Pod shows the new number already, and only
    the allocator knows the old one.
    """

    at: int
    port: Port
    old: int
    number: int
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
        return self.old != self.number


def match_ports(pod: Pod, allocation: Allocation) -> tuple[Held, ...]:
    """The Pod's ports with their numbers, in port order; those that appeared after the allocation come last.

    The answer's ports stand in the order of the request.

    Raises:
        AllocationError: they do not, or a number is none.

    """
    asked = [(at, port) for at, container in enumerate(pod.containers) for port in container.ports]
    if len(asked) != len(allocation.ports):
        raise AllocationError(f"asked for {len(asked)} ports, got {len(allocation.ports)}")
    earlier = {} if allocation.id else previewed(pod)
    held = [_held(at, port, got, earlier) for (at, port), got in zip(asked, allocation.ports, strict=True)]
    return tuple(sorted(held, key=attrgetter("appeared")))


def is_own(pod: Pod, allocation: Allocation) -> bool:
    """Whether the Pod comes back with this very allocation: reinvocation.

    A dry run has no id to come back with, so there a table without an id is taken for our own. It might be anybody's,
    and decides no more than names in a preview.
    """
    carried = pod.annotations.get(ALLOCATION_ID, "")
    return allocation.id == carried and bool(carried or ALLOCATIONS in pod.annotations)


def _held(at: int, port: Port, got: AllocatedPort, earlier: Mapping[Key, int]) -> Held:
    protocol, number = PROTOCOL_NAMES.get(got.protocol, ""), got.host_port
    if (got.container, got.name, protocol) != (port.container, port.name, port.protocol):
        raise AllocationError(f"asked for {port.path}, got port {got.name!r}/{protocol} of {got.container!r}")
    if not 1 <= number <= 65535:
        raise AllocationError(f"{port.path} got the number {number}")
    known = earlier.get((port.container, port.name, protocol, number)) if earlier else None
    return Held(
        at=at,
        port=port,
        old=known or got.container_port or port.container_port,
        number=number,
        appeared=got.appeared or (bool(earlier) and known is None),
    )
