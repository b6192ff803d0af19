"""What is asked, and the two ways to say no.

A `Mistake` is one thing that is wrong; a refusal carries all of them, so that people correct a Pod once. Mistakes of
the request itself (INVALID_ARGUMENT) are found before anybody looks at the state of the world.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import msgspec
from msgspec.structs import replace

from allocator.core.candidates import ANYWHERE, Constraints
from allocator.core.claims import Owner, Shape
from allocator.core.ports import Protocol, set_of
from hostport.contract import Notice, Reason


class Policy(Enum):
    """How the number of a port is chosen."""

    INDEX = "Index"
    DYNAMIC = "Dynamic"
    PASSTHROUGH = "Passthrough"
    STATIC = "Static"

    # As for Protocol: members are singletons.
    __hash__ = object.__hash__

    @property
    def is_ranged(self) -> bool:
        return self is Policy.INDEX or self is Policy.DYNAMIC


class WhenFull(Enum):
    """What becomes of a Pod for which every candidate is full."""

    DENY = "Deny"
    PENDING = "Pending"


class PortAsk(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One port that is asked for. `host_port` 0: not set. `is_former`: it was given in an earlier life of the Pod."""

    container: str = ""
    name: str = ""
    protocol: Protocol = Protocol.TCP
    container_port: int = 0
    host_port: int = 0
    host_ip: str = ""
    is_former: bool = False

    def __str__(self) -> str:
        number = self.container_port or self.host_port
        what = f"{self.name} ({number}/{self.protocol.value})" if self.name else f"{number}/{self.protocol.value}"
        return f"port {what} of container {self.container}" if self.container else f"port {what}"


class Ask(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """All the ports of one owner."""

    owner: Owner
    ports: tuple[PortAsk, ...]
    policy: Policy = Policy.INDEX
    low: int = 7000
    high: int = 8000
    stride: int = 100
    index: int | None = None
    constraints: Constraints = ANYWHERE
    priority: int = 0
    may_preempt: bool = False
    when_full: WhenFull | None = None
    ttl: float | None = None  # seconds; leases only
    host_network: bool = False
    carried_id: str = ""  # the allocation id that the Pod already carries
    avoid: tuple[int, ...] = ()  # numbers that Dynamic does not give to this Pod

    @property
    def avoided(self) -> int:
        """The set of the numbers that Dynamic does not give to this Pod."""
        return set_of(self.avoid) if self.avoid and self.policy is Policy.DYNAMIC else 0

    @property
    def shape(self) -> Shape:
        """As the claim will have it."""
        return tuple([(p.container, p.name, p.protocol, p.container_port) for p in self.ports])

    def within(self, namespace: str) -> Ask:
        """A lease whose owner names no namespace belongs to this one."""
        if self.owner.namespace or self.owner.is_pod:
            return self
        return replace(self, owner=replace(self.owner, namespace=namespace))

    def with_unset_defaults(self) -> Ask:
        """Undoes what the API server defaulted, and what an earlier life of the Pod has left.

        With hostNetwork in the template it has set hostPort := containerPort before any webhook runs, so an equal
        number is no wish of the user's where the policy chooses numbers. Neither is one of an earlier life.
        """
        if not self.policy.is_ranged or not (self.host_network or any(p.is_former for p in self.ports)):
            return self
        return replace(self, ports=tuple(replace(p, host_port=0) if self._is_unset(p) else p for p in self.ports))

    def _is_unset(self, port: PortAsk) -> bool:
        return port.is_former or (self.host_network and port.host_port == port.container_port)

    def setting(self, name: str) -> str:
        """What a setting is called by whoever asks: an annotation of the Pod's, or a field of the request."""
        return f"hostport.io/{name}" if self.owner.is_pod else name

    @property
    def on_host(self) -> Ask:
        """Without the ports that are on no host: in a Pod network, those without a hostPort."""
        if self.host_network or all(port.host_port for port in self.ports):
            return self
        return replace(self, ports=tuple(port for port in self.ports if port.host_port))


@dataclass(frozen=True, slots=True)
class Mistake:
    """One reason to say no: the field as the caller knows it, and a sentence for people."""

    reason: Reason
    field: str
    message: str


class Refused(Exception):  # noqa: N818 - not an error of ours: an answer
    """The ask is denied; nothing changed. Carries at least one mistake."""

    def __init__(self, *mistakes: Mistake) -> None:
        super().__init__("; ".join(mistake.message for mistake in mistakes))
        self.mistakes = mistakes


class UndecidedError(Exception):
    """The search was cut off: neither granted nor denied, and nothing changed. The same ask may be repeated."""


@dataclass(frozen=True, slots=True)
class Warned:
    """Something that may surprise people later, for an ask that is granted."""

    notice: Notice
    message: str
