"""PortLease objects over HTTP: create, grant, renew, delete, each made to stick.

Rules:

* What got no answer, or was put off (408, 429, 5xx), is asked again until the caller's time is over. Repeating is safe:
  a creation that meets an object of the same id has met its own, a grant names the version that it builds on, a
  deletion the uid.
* A write begins only while the coordination Lease is valid, and is given up after 4 seconds: before anybody takes over
  a Lease that has fallen silent.
* At most 16 writes are under way: the renewal of our own Lease finds few before it.
* What the API server refuses may pass, is the caller's mistake, or trouble of ours (the table below).

What the API server means when it does not take a PortLease:

| answer | what it means |
|---|---|
| 404 of the namespace; 403, it is being terminated | the caller's: there is no such namespace (`NAMESPACE_NOT_FOUND`) |
| 403, exceeded quota | the caller's namespace is full (`LEASE_QUOTA`) |
| 400, 403, 422 of an admission webhook, plugin or policy | the cluster's rules forbid it (`LEASE_FORBIDDEN`) |
| 413; 422 of the schema | a value of the request is one that no PortLease takes (`LEASE_FORBIDDEN`) |
| 401; 403 of RBAC; 404 of the kind; 405; other 400, 410 and the like | ours: the message says what to mend |
| 408, 429, 5xx; 403, a quota that is new | it may pass: asked again, for as long as the caller waits |

What is the caller's is refused, since to repeat it is in vain; what is ours is `LEASE_NOT_STORED`. A 409 is not told
here: who writes looks for what is there, and goes on with that.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final, TypeVar

from allocator.clock import Clock
from allocator.cluster.client import ApiClient, ApiError, UnreachableError, retry_pause
from allocator.core.claims import Claim
from allocator.journal.contract import Answer
from allocator.leases.objects import (
    READER,
    PortLease,
    collection_path,
    explanation,
    grant_of,
    name_of,
    object_of,
    parse,
    renewal_of,
)
from hostport.contract import Mistake, Reason

log = logging.getLogger(__name__)

WRITE_SECONDS = 4.0
MOST_WRITES = 16

T = TypeVar("T")


class PortLeaseApi:
    """See the module. `clock` is that by which leases end; `chance` gives a number in [0, 1)."""

    def __init__(
        self,
        client: ApiClient,
        *,
        may_write: Callable[[], bool],
        clock: Clock,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._client = client
        self._may_write = may_write
        self._clock = clock
        self._chance = chance
        self._slots = asyncio.Semaphore(MOST_WRITES)
        self.trouble = ""  # why something is being asked again

    async def create(self, claim: Claim) -> PortLease:
        """Makes the object of a lease; it holds nothing yet.

        Raises:
            ApiError: the API server refuses it.

        """
        return await self._insist(lambda: self._created(claim))

    async def _created(self, claim: Claim) -> PortLease:
        obj = object_of(claim)
        try:
            return await self._write("POST", collection_path(claim.owner.namespace), obj)
        except ApiError as error:
            # A quota counts the object that an answer which was lost has made, and says so before a conflict is found.
            if error.status not in {HTTPStatus.CONFLICT, HTTPStatus.FORBIDDEN}:
                raise
            found = await self._found(claim)
            if found is not None and found.id == claim.id:
                return found
            if found is None and error.status == HTTPStatus.CONFLICT:
                raise UnreachableError(f"{error}, and there is no such object") from error
            raise

    async def _found(self, claim: Claim) -> PortLease | None:
        """The object that has the name of the lease's own; None where there is none, or we may not look."""
        path = f"{collection_path(claim.owner.namespace)}/{name_of(claim)}"
        try:
            return _read_lease(await self._client.get(path))
        except ApiError as error:
            if error.status not in {HTTPStatus.NOT_FOUND, HTTPStatus.FORBIDDEN}:
                raise
            return None

    async def grant(self, stored: PortLease, claim: Claim, answer: Answer | None) -> PortLease:
        """Writes the status that makes the object a lease.

        Raises:
            ApiError: the API server refuses it, or the object has gone.

        """
        status = grant_of(claim, answer, self._clock(), self._clock.ahead)

        async def attempt() -> PortLease:
            nonlocal stored
            try:
                return await self._patch(stored, {"metadata": {"resourceVersion": str(stored.version)}, **status})
            except ApiError as error:
                if error.status != HTTPStatus.CONFLICT:
                    raise
            found = _read_lease(await self._client.get(stored.path))
            if found.uid != stored.uid:
                raise ApiError(HTTPStatus.NOT_FOUND, "NotFound", f"PortLease {stored} was deleted")
            if found.claim is not None:
                return found  # the answer to our own write was lost
            stored = found
            raise UnreachableError(f"PortLease {stored} was changed meanwhile")

        return await self._insist(attempt)

    async def delete(self, stored: PortLease) -> None:
        """Deletes the object, however long that takes; one that is gone is fine."""
        await self._insist(lambda: self.delete_once(stored), is_patient=True)

    async def delete_whatever_there_is(self, claim: Claim) -> None:
        """Likewise, where it is not known whether there is an object of this lease."""
        path = f"{collection_path(claim.owner.namespace)}/{name_of(claim)}"

        async def attempt() -> None:
            try:
                found = _read_lease(await self._client.get(path))
            except ApiError as error:
                if error.status != HTTPStatus.NOT_FOUND:
                    raise
                return
            if found.id == claim.id:
                await self.delete_once(found)

        await self._insist(attempt, is_patient=True)

    # -- one attempt, for what is repeated anyhow

    async def renew(self, stored: PortLease, claim: Claim, ttl: float | None = None) -> PortLease:
        """Writes what is left of a lease; `ttl`, in seconds, where it is longer than the one that is stored."""
        return await self._patch(stored, renewal_of(claim, self._clock(), self._clock.ahead, ttl))

    async def explain(self, stored: PortLease) -> PortLease:
        """Says in its status that the object holds nothing."""
        return await self._patch(stored, explanation(self._clock() + self._clock.ahead))

    async def delete_once(self, stored: PortLease) -> None:
        """Deletes the object; that it is gone, or that another one has its name by now, is fine.

        Raises:
            ApiError, UnreachableError: it could not be deleted.

        """
        try:
            await self._send("DELETE", stored.path, {"preconditions": {"uid": stored.uid}})
        except ApiError as error:
            # Conflict: another object has its name by now.
            if error.status not in {HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT}:
                raise

    # -- requests

    async def _patch(self, stored: PortLease, body: Any) -> PortLease:
        return await self._write("PATCH", f"{stored.path}/status", body)

    async def _write(self, method: str, path: str, body: Any) -> PortLease:
        return _read_lease(await self._send(method, path, body))

    async def _send(self, method: str, path: str, body: Any) -> bytes:
        async with self._slots:
            if not self._may_write():
                raise UnreachableError("the allocator cannot renew its Lease: it writes nothing")
            try:
                async with asyncio.timeout(WRITE_SECONDS):
                    return await self._client.send(method, path, {}, body)
            except TimeoutError as error:
                raise UnreachableError(f"no answer for {WRITE_SECONDS:g} s") from error

    async def _insist(self, attempt: Callable[[], Awaitable[T]], *, is_patient: bool = False) -> T:
        """Repeats an attempt; a patient one also when the API server says no, which people may mend."""
        failures = 0
        while True:
            try:
                done = await attempt()
            except UnreachableError as error:
                trouble, least = str(error), 0.0
            except ApiError as error:
                if not (is_patient or may_pass(error)):
                    raise
                trouble, least = trouble_of(error), error.retry_after
            else:
                self.trouble = ""
                return done
            if trouble != self.trouble:
                self.trouble = trouble
                log.warning("a PortLease cannot be written, trying again: %s", trouble)
            failures += 1
            await asyncio.sleep(retry_pause(failures, self._chance(), at_least=least))


def _read_lease(body: bytes) -> PortLease:
    """Raises UnreachableError: whatever that is, it is no answer."""
    try:
        return parse(READER.one(body))
    except ValueError as error:
        raise UnreachableError(f"the answer is garbled: {error}") from error


# -- refusals

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
    return error.status == HTTPStatus.NOT_FOUND and 'namespaces "' in error.message  # no name has a quotation mark


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
