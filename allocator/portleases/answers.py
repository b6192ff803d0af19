"""What the API server means when it does not take a PortLease. Pure.

| answer | what it means |
|---|---|
| 404 of the namespace; 403, it is being terminated | the caller's: there is no such namespace (`NAMESPACE_NOT_FOUND`) |
| 403, exceeded quota | the caller's namespace is full (`LEASE_QUOTA`) |
| 400, 403, 422 of an admission webhook, plugin or policy | the cluster's rules forbid it (`LEASE_FORBIDDEN`) |
| 413; 422 of the schema | a value of the request is one that no PortLease takes (`LEASE_FORBIDDEN`) |
| 401; 403 of RBAC; 404 of the kind; 405; other 400, 410 and the like | ours: the message says what to mend |
| 408, 429, 5xx; 403, a quota that is new | it may pass: asked again, for as long as the caller waits |

What is the caller's is refused, since to repeat it is in vain; what is ours is `LEASE_NOT_STORED`. A 409 is not told
here: who writes looks for what is there, and goes on with that (`store`).
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from allocator.cluster.client import ApiError
from allocator.core.asks import Mistake
from hostport.contract import Reason

SHOWN = 300
"""Characters of the API server's words that are shown."""

_PASSING: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})
_HINTS: Final[dict[int, str]] = {
    HTTPStatus.UNAUTHORIZED: "the API server does not accept the allocator's token or certificate: renew it",
    HTTPStatus.FORBIDDEN: "the allocator lacks a right on portleases: apply its ClusterRole anew",
    HTTPStatus.NOT_FOUND: "the API server knows no portleases: apply the CustomResourceDefinition",
}


def may_pass(error: ApiError) -> bool:
    """Whether the same request may be taken in a moment."""
    is_new_quota = "status unknown for quota" in error.message  # nobody has counted yet what there is
    return error.status in _PASSING or error.status >= HTTPStatus.INTERNAL_SERVER_ERROR or is_new_quota


def refusal_of(error: ApiError, namespace: str) -> Mistake | None:
    """What is wrong with the caller's request for a lease of this namespace; None: it is not the caller's fault."""
    words = error.message[:SHOWN]
    if _has_no_namespace(error):
        return no_namespace(namespace)
    if error.status == HTTPStatus.FORBIDDEN and "exceeded quota" in error.message:
        message = (
            f"a ResourceQuota of namespace {namespace} has no room for another PortLease: {words}. Release leases that"
            " nobody uses, or raise the quota"
        )
        return Mistake(Reason.LEASE_QUOTA, "owner.namespace", message)
    if _is_forbidden(error):
        message = f"the API server takes no such PortLease in namespace {namespace}: {words}. Ask for what it takes"
        return Mistake(Reason.LEASE_FORBIDDEN, "owner.namespace", message)
    return None


def trouble_of(error: ApiError) -> str:
    """What is wrong on our side, and what to do where that is known."""
    hint = _HINTS.get(error.status)
    return f"{str(error)[:SHOWN]}; {hint}" if hint else str(error)[:SHOWN]


def no_namespace(namespace: str) -> Mistake:
    """What is wrong with an owner whose namespace is not there."""
    message = (
        f"owner.namespace {namespace[:64]!r} does not exist, or is being deleted: a lease is kept as a PortLease of its"
        " owner's namespace. Create it, or name another"
    )
    return Mistake(Reason.NAMESPACE_NOT_FOUND, "owner.namespace", message)


def _has_no_namespace(error: ApiError) -> bool:
    if "being terminated" in error.message:
        return True
    return error.status == HTTPStatus.NOT_FOUND and "namespace" in error.message


def _is_forbidden(error: ApiError) -> bool:
    """Whether admission or the schema says no, not RBAC, which says whom it forbids what."""
    if may_pass(error):
        return False
    if error.status in {HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY}:
        return True
    if error.status not in {HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN}:
        return False
    is_of_admission = "denied the request" in error.message or "denied request" in error.message
    return is_of_admission or (" is forbidden: " in error.message and " cannot " not in error.message)
