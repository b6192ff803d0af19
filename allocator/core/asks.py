"""What is asked, and the three ways in which it may not be granted.

Rules:

* A refusal carries every mistake, so that people correct a Pod once. Mistakes of the request itself (INVALID_ARGUMENT)
  are found before anybody looks at the state of the cluster.
* No (`Refused`) is never mixed with not known (`UndecidedError`) or with a fault of ours (`NotServedError`).
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from allocator.core.candidates import ANYWHERE, Constraints
from allocator.core.claims import Owner
from allocator.core.ports import Protocol
from hostport.contract import Mistake, Reason, defaults

if TYPE_CHECKING:
    from allocator.core.place.policies import Policy


class WhenFull(Enum):
    """What becomes of a Pod for which every candidate is full."""

    DENY = "Deny"
    PENDING = "Pending"


class PortAsk(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One port that is asked for.

    container, name: empty where there is none. container_port, host_port: 1 to 65535; 0 where it is not set.
    host_ip: the address; empty for all of them. is_former: whether host_port was given in an earlier life of the Pod.
    count: how many consecutive numbers it stands for, host_port the first of them; more than one is a block.
    alignment: the first number is a multiple of it.
    """

    container: str = ""
    name: str = ""
    protocol: Protocol = Protocol.TCP
    container_port: int = 0
    host_port: int = 0
    host_ip: str = ""
    is_former: bool = False
    count: int = 1
    alignment: int = 1

    def __str__(self) -> str:
        number = self.container_port or self.host_port
        what = f"{self.name} ({number}/{self.protocol.value})" if self.name else f"{number}/{self.protocol.value}"
        return f"port {what} of container {self.container}" if self.container else f"port {what}"


class PortGroup(msgspec.Struct, frozen=True, gc=False):
    """Ports of an ask that share a number.

    members: their positions in the ask. number: 0 where it is left open. is_users: whether the number is the user's
    own, which is checked like one of Static. count, alignment: those of the members. is_run: whether it has several
    numbers, or may not begin at any.
    """

    members: tuple[int, ...]
    number: int
    is_users: bool
    count: int = 1
    alignment: int = 1
    is_run: bool = False

    @property
    def numbers(self) -> range:
        """Its numbers, where they are not left open."""
        return range(self.number, self.number + self.count)


class Ask(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """All the ports of one owner, and how their numbers are to be found.

    low, high, stride, index: what the policy goes by; the index is None where the owner has none.
    constraints: where the owner may run. priority, may_preempt: of a Pod; whether the scheduler may make room for it.
    when_full: what to do where nothing fits; None: what the operator set. ttl: of a lease, in seconds.
    host_network: whether the Pod has the host's network. carried_id: the allocation id that the Pod already carries.
    avoid: numbers that a policy that searches does not give to this Pod.
    can_steer: whether whoever asks keeps the Pod off nodes that we name.
    cool_down: seconds for which a policy that searches leaves alone what others gave up; None: what the operator set.
    """

    owner: Owner
    ports: tuple[PortAsk, ...]
    policy: Policy
    low: int = defaults.MIN_PORT
    high: int = defaults.MAX_PORT
    stride: int = defaults.STRIDE
    index: int | None = None
    constraints: Constraints = ANYWHERE
    priority: int = 0
    may_preempt: bool = False
    when_full: WhenFull | None = None
    ttl: float | None = None
    host_network: bool = False
    carried_id: str = ""
    avoid: tuple[int, ...] = ()
    can_steer: bool = False
    cool_down: float | None = None

    @property
    def on_host(self) -> Ask:
        """Without the ports that are on no host: in a Pod network, those without a hostPort."""
        if self.host_network or all(port.host_port for port in self.ports):
            return self
        return replace(self, ports=tuple(port for port in self.ports if port.host_port))


class Refused(Exception):  # noqa: N818 - not an error of ours: an answer
    """The ask is denied; nothing changed. There is at least one mistake."""

    def __init__(self, *mistakes: Mistake) -> None:
        super().__init__("; ".join(mistake.message for mistake in mistakes))
        self.mistakes = mistakes


class NotServedError(Exception):
    """Our fault, not the caller's: nothing was allocated, and the call may be repeated."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class UndecidedError(Exception):
    """The search was cut off: neither granted nor denied, and nothing changed. The same ask may be repeated."""
