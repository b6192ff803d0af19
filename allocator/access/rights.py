"""What a call needs, in words of RBAC, and what is answered where it is missing. Pure.

Rules:

* The resource is `portleases.hostport.io`. The namespace is the lease's; no namespace means all of them.
* Pods' ports come from shims: a shim allocates for Pods and tells their owners of warnings, and does nothing else;
  nobody else does that. A Pod's reservation ends with the Pod; by hand it is ended by who may delete leases everywhere.
* Nodes show everybody's ports, so that looking at them, or at the allocator's state, needs the right everywhere.
* Whoever may not see an allocation is told what is told of one that never was.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from allocator.access.callers import Caller, Role
from allocator.core.asks import Mistake, Refused
from allocator.core.claims import POD, Claim
from hostport.contract import Reason

GROUP, RESOURCE = "hostport.io", "portleases"
EVERYWHERE = ""


class Verb(Enum):
    """What is done to a lease."""

    CREATE = "create"
    DELETE = "delete"
    GET = "get"
    LIST = "list"


@dataclass(frozen=True, slots=True)
class Right:
    """To do something to the leases of a namespace, or of all."""

    verb: Verb
    namespace: str

    def __str__(self) -> str:
        where = f"in namespace {self.namespace}" if self.namespace else "in all namespaces"
        return f"{self.verb.value} {RESOURCE}.{GROUP} {where}"


def check_kind(caller: Caller, kind: str) -> None:
    """Raises Refused where a caller of this role never allocates for an owner of this kind."""
    is_pod = kind == POD
    if caller.role is Role.SHIM and not is_pod:
        raise Refused(
            Mistake(Reason.PERMISSION_DENIED, "owner.kind", "a shim allocates for Pods, and for nothing else")
        )
    if caller.role is Role.USER and is_pod:
        message = f"{caller.name} is no shim: Pods get their ports from the webhook. Lease with a kind of your own"
        raise Refused(Mistake(Reason.PERMISSION_DENIED, "owner.kind", message))


def check_is_user(caller: Caller) -> None:
    """Raises Refused for a shim, which allocates and nothing else."""
    if caller.role is Role.SHIM:
        raise Refused(Mistake(Reason.PERMISSION_DENIED, "", "a shim allocates for Pods, and does nothing else"))


def check_is_shim(caller: Caller, why: str) -> None:
    """Raises Refused for a user."""
    if caller.role is Role.USER:
        raise Refused(Mistake(Reason.PERMISSION_DENIED, "", f"{caller.name} is no shim: {why}"))


def namespace_of_new(caller: Caller, asked: str, home: str) -> str:
    """The namespace of a lease: the one that is asked for, else the ServiceAccount's own, else the operator's."""
    return asked or caller.namespace or home


def namespace_of(claim: Claim, home: str) -> str:
    """The namespace where a claim is seen. A lease that was made without one is the operator's."""
    return claim.owner.namespace or home


def to_end(claim: Claim, home: str) -> Right:
    """What Release needs: a Pod's reservation is nobody's lease."""
    return Right(Verb.DELETE, EVERYWHERE if claim.owner.is_pod else namespace_of(claim, home))


def lacks(caller: Caller, right: Right) -> Refused:
    """The answer to a caller that may know what it may not."""
    message = f"{caller.name} may not {right}: grant it with RBAC, see docs/security.md"
    return Refused(Mistake(Reason.PERMISSION_DENIED, "", message))


def unseen(claim_id: str) -> Refused:
    """The answer about an allocation that is not there, or not there for this caller: the same words."""
    message = f"no allocation {claim_id[:64]}: it ended, never was, or is not yours"
    return Refused(Mistake(Reason.ALLOCATION_NOT_FOUND, "id", message))
