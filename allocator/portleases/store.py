"""PortLease objects over HTTP: create, grant, renew, delete, each made to stick.

Rules:

* What got no answer, or was put off (408, 429, 5xx), is asked again until the caller's time is over. Repeating is safe:
  a creation that meets an object of the same id has met its own, a grant names the version that it builds on, a
  deletion the uid.
* A write begins only while the coordination Lease is valid, and is given up after 4 seconds: before anybody takes over
  a Lease that has fallen silent.
* At most 16 writes are under way: the renewal of our own Lease finds few before it.
* What the API server refuses is judged by `answers`: it may pass, is the caller's mistake, or trouble of ours.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, TypeVar

from allocator.cluster.backoff import pause
from allocator.cluster.client import ApiError, Client, UnreachableError
from allocator.core.claims import Claim
from allocator.journal.contract import Answer
from allocator.portleases.answers import may_pass, trouble_of
from allocator.portleases.objects import (
    READER,
    Stored,
    collection_path,
    explanation,
    grant_of,
    name_of,
    object_of,
    parse,
    renewal_of,
)

log = logging.getLogger(__name__)

WRITE_SECONDS = 4.0
MOST_WRITES = 16

T = TypeVar("T")


class Store:
    """See the module. `now` is the clock by which leases end, `ahead` how far the wall clock is ahead of it.

    `chance` gives a number in [0, 1).
    """

    def __init__(
        self,
        client: Client,
        *,
        may_write: Callable[[], bool],
        now: Callable[[], float] = time.time,
        ahead: Callable[[], float] = float,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._client = client
        self._may_write = may_write
        self._now = now
        self._ahead = ahead
        self._chance = chance
        self._slots = asyncio.Semaphore(MOST_WRITES)
        self.trouble = ""  # why something is being asked again

    async def create(self, claim: Claim) -> Stored:
        """Makes the object of a lease; it holds nothing yet.

        Raises:
            ApiError: the API server refuses it.

        """
        return await self._insist(lambda: self._created(claim))

    async def _created(self, claim: Claim) -> Stored:
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

    async def _found(self, claim: Claim) -> Stored | None:
        """The object that has the name of the lease's own; None where there is none, or we may not look."""
        path = f"{collection_path(claim.owner.namespace)}/{name_of(claim)}"
        try:
            return _read(await self._client.get(path))
        except ApiError as error:
            if error.status not in {HTTPStatus.NOT_FOUND, HTTPStatus.FORBIDDEN}:
                raise
            return None

    async def grant(self, stored: Stored, claim: Claim, answer: Answer | None) -> Stored:
        """Writes the status that makes the object a lease.

        Raises:
            ApiError: the API server refuses it, or the object has gone.

        """
        status = grant_of(claim, answer, self._now(), self._ahead())

        async def attempt() -> Stored:
            nonlocal stored
            try:
                return await self._patch(stored, {"metadata": {"resourceVersion": str(stored.version)}, **status})
            except ApiError as error:
                if error.status != HTTPStatus.CONFLICT:
                    raise
            found = _read(await self._client.get(stored.path))
            if found.uid != stored.uid:
                raise ApiError(HTTPStatus.NOT_FOUND, "NotFound", f"PortLease {stored} was deleted")
            if found.claim is not None:
                return found  # the answer to our own write was lost
            stored = found
            raise UnreachableError(f"PortLease {stored} was changed meanwhile")

        return await self._insist(attempt)

    async def delete(self, stored: Stored) -> None:
        """Deletes the object, however long that takes; one that is gone is fine."""
        await self._insist(lambda: self.delete_once(stored), is_patient=True)

    async def delete_whatever_there_is(self, claim: Claim) -> None:
        """Likewise, where it is not known whether there is an object of this lease."""
        path = f"{collection_path(claim.owner.namespace)}/{name_of(claim)}"

        async def attempt() -> None:
            try:
                found = _read(await self._client.get(path))
            except ApiError as error:
                if error.status != HTTPStatus.NOT_FOUND:
                    raise
                return
            if found.id == claim.id:
                await self.delete_once(found)

        await self._insist(attempt, is_patient=True)

    # -- one attempt, for what is repeated anyhow

    async def renew(self, stored: Stored, claim: Claim, ttl: float | None = None) -> Stored:
        return await self._patch(stored, renewal_of(claim, self._now(), self._ahead(), ttl))

    async def explain(self, stored: Stored) -> Stored:
        return await self._patch(stored, explanation(self._now() + self._ahead()))

    async def delete_once(self, stored: Stored) -> None:
        try:
            await self._send("DELETE", stored.path, {"preconditions": {"uid": stored.uid}})
        except ApiError as error:
            # Conflict: another object has its name by now.
            if error.status not in {HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT}:
                raise

    # -- requests

    async def _patch(self, stored: Stored, body: Any) -> Stored:
        return await self._write("PATCH", f"{stored.path}/status", body)

    async def _write(self, method: str, path: str, body: Any) -> Stored:
        return _read(await self._send(method, path, body))

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
            await asyncio.sleep(pause(failures, self._chance(), at_least=least))


def _read(body: bytes) -> Stored:
    """Raises UnreachableError: whatever that is, it is no answer."""
    try:
        return parse(READER.one(body))
    except ValueError as error:
        raise UnreachableError(f"the answer is garbled: {error}") from error
