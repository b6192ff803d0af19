"""What one namespace may hold beyond what its Pods hold.

Whoever may create Pods may have them refused: by a quota, by Pod Security, or because they are wrong. Each was given
ports here, for 45 seconds, and nobody else can have those. So the reservations of a namespace that no Pod has confirmed
are bounded, in number and in ports, whether or not a controller makes its Pods. In a namespace that enforces Pod
Security baseline or restricted the bound is a handful, since nearly all of its Pods that ask for ports are refused.
Some are exempt, so that this alone denies nobody: whoever is seen makes room.

* A Pod with more ports than the bound is admitted where its namespace has nothing outstanding.
* Where nobody can confirm a Pod nothing is counted: no reservation ends there by itself.
* Leases end when their holder wants, so that their ports are bounded without these two exceptions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from allocator.core.asks import Ask, Mistake, Refused
from allocator.core.claims import Claim
from allocator.core.register import NOTHING, Register
from hostport.contract import Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """What a namespace may have outstanding. 0: as much as it likes."""

    reservations: int = 500  # that no Pod has confirmed
    reserved_ports: int = 500  # of those, in all
    leases: int = 5_000  # ports that are leased


DEFAULT_SHARES = Shares()
UNBOUNDED = Shares(reservations=0, reserved_ports=0, leases=0)
HANDFUL = Shares(reservations=8, reserved_ports=64)
"""Of a namespace that enforces Pod Security baseline or restricted, where the flags do not say less."""


class Tenants:
    """Holds the counts of the register against the shares."""

    def __init__(self, register: Register, shares: Shares, reservation_seconds: float) -> None:
        self._register = register
        self._shares = shares
        self._reservation_seconds = reservation_seconds
        self.enforced: Mapping[str, str] = {}  # Pod Security level by namespace, where it forbids host ports

    def is_crowded(self, ask: Ask) -> bool:
        """Whether a Pod's namespace has no room for it until others of its Pods are seen."""
        reservations, ports = self._bounds(ask.owner.namespace)
        has = self._register.reserved_in.get(ask.owner.namespace, NOTHING)
        if not ask.owner.is_pod or not has.claims:
            return False
        return 0 < reservations <= has.claims or 0 < ports < has.ports + len(ask.ports)

    def check_reservation(self, ask: Ask) -> None:
        """Raises Refused with NAMESPACE_BACKLOG where there is no room."""
        if self.is_crowded(ask):
            raise self._backlog(ask.owner.namespace)

    def check_growth(self, claim: Claim, ask: Ask) -> None:
        """Raises Refused where a reservation that is asked about again wants more ports than there is room for."""
        namespace, more = claim.owner.namespace, len(ask.ports) - len(claim.ports)
        _, ports = self._bounds(namespace)
        has = self._register.reserved_in[namespace]
        if more > 0 and has.claims > 1 and 0 < ports < has.ports + more:
            raise self._backlog(namespace)

    def _backlog(self, namespace: str) -> Refused:
        has = self._register.reserved_in[namespace]
        reservations, ports = self._bounds(namespace)
        level = self.enforced.get(namespace)
        message = (
            f"namespace {namespace} has {has.claims} reservations with {has.ports} ports in all that no Pod has"
            f" confirmed, and at most {reservations or 'any number'} with {ports or 'any number'} are allowed"
            f"{f', as it enforces Pod Security {level}' if level else ''}: something refuses its Pods after they were"
            " admitted here (a quota, Pod Security, another webhook: see the events of their owners), or very many are"
            " created at once. Mend that; each reservation ends when its Pod is seen, or else"
            f" {self._reservation_seconds:g} s after it was made. Or raise --namespace-reservations and"
            " --namespace-reserved-ports"
        )
        return Refused(Mistake(Reason.NAMESPACE_BACKLOG, "owner.namespace", message))

    def check_lease(self, ask: Ask) -> None:
        """Raises Refused with TOO_MANY_LEASES where a lease is one too many."""
        most = self._shares.leases
        has = self._register.leased_in.get(ask.owner.namespace, NOTHING).ports
        if ask.owner.is_pod or not most or has + len(ask.ports) <= most:
            return
        whose = f"namespace {ask.owner.namespace}" if ask.owner.namespace else "who leases without a namespace"
        message = (
            f"{whose} leases {has} ports, this would be {len(ask.ports)} more, and at most {most} are allowed. Release"
            " leases that nobody uses, or raise --namespace-leases"
        )
        raise Refused(Mistake(Reason.TOO_MANY_LEASES, "owner.namespace", message))

    def _bounds(self, namespace: str) -> tuple[int, int]:
        """Reservations and ports; 0: no bound."""
        shares = self._shares
        if namespace not in self.enforced:
            return shares.reservations, shares.reserved_ports
        return min(shares.reservations, HANDFUL.reservations), min(shares.reserved_ports, HANDFUL.reserved_ports)
