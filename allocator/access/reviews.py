"""What the API server says of callers: TokenReview tells who one is, SubjectAccessReview what it may do.

Rules:

* Never open: no answer is no permission. What cannot be found out is UNAVAILABLE, and the caller tries again.
* A token is sent to the API server and forgotten: answers are kept by its SHA-256, and no message has it.
* An answer is good for 10 seconds, so that a right that was taken away ends within them.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from allocator.access.guard import GROUP, RESOURCE, AccessRight, Caller
from allocator.access.single_flight import SingleFlightCache, TooManyError
from allocator.cluster.client import ApiClient, ApiError, UnreachableError
from allocator.cluster.credentials import ClusterConfigError
from allocator.core.asks import NotServedError
from hostport.contract import Reason

FRESH_SECONDS = 10.0
PATIENCE_SECONDS = 5.0
MOST_KEPT = 4096
MOST_AT_ONCE = 256
CONNECTIONS = 16  # reviews that are really under way; the rest wait
TOKENS = "/apis/authentication.k8s.io/v1/tokenreviews"
ACCESS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"

T = TypeVar("T")


class Reviews:
    """Asks one API server. Must be made and used inside one event loop."""

    def __init__(self, client: ApiClient, *, audience: str, now: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._audience = audience
        self._callers: SingleFlightCache[bytes, Caller | None] = _recent(now)
        self._rights: SingleFlightCache[tuple[Caller, AccessRight], bool] = _recent(now)
        self._connections = asyncio.Semaphore(CONNECTIONS)

    async def caller(self, token: str) -> Caller | None:
        """Who shows this token; None: nobody that we know.

        Raises:
            NotServedError: that could not be found out.

        """
        digest = hashlib.sha256(token.encode()).digest()
        return await _answered("who calls", self._callers.get(digest, lambda: self._review_token(token)))

    async def allows(self, caller: Caller, right: AccessRight) -> bool:
        """Whether RBAC (or whatever authorizes there) gives a caller a right.

        Raises:
            NotServedError: that could not be found out.

        """
        asked = self._rights.get((caller, right), lambda: self._review_access(caller, right))
        return await _answered(f"whether {caller.name} may {right}", asked)

    async def _review_token(self, token: str) -> Caller | None:
        spec = {"token": token, "audiences": [self._audience]}
        status = await self._review(TOKENS, "authentication.k8s.io/v1", "TokenReview", spec)
        return from_review(status, self._audience)

    async def _review_access(self, caller: Caller, right: AccessRight) -> bool:
        attributes = {"verb": right.verb.value, "group": GROUP, "resource": RESOURCE, "namespace": right.namespace}
        spec = {
            "user": caller.name,
            "uid": caller.uid,
            "groups": caller.groups,
            "extra": dict(caller.extra),
            "resourceAttributes": attributes,
        }
        status = await self._review(ACCESS, "authorization.k8s.io/v1", "SubjectAccessReview", spec)
        return status.get("allowed") is True and status.get("denied") is not True

    async def _review(self, path: str, version: str, kind: str, spec: Mapping[str, Any]) -> Mapping[str, Any]:
        """The status of a review: an object, whatever came.

        Raises:
            ApiError, UnreachableError, ClusterConfigError, TimeoutError, ValueError: there is none.

        """
        review = {"apiVersion": version, "kind": kind, "spec": spec}
        async with asyncio.timeout(PATIENCE_SECONDS), self._connections:
            try:
                body = await self._client.send("POST", path, body=review)
            except UnreachableError:  # a connection that was kept open may be gone, and nobody knew
                body = await self._client.send("POST", path, body=review)
        return _review_status(body)


def _review_status(body: bytes) -> Mapping[str, Any]:
    answer = json.loads(body)
    status = answer.get("status") if isinstance(answer, dict) else None
    if not isinstance(status, dict):
        raise ValueError("the answer has no status")  # noqa: TRY004 - as for what is no JSON
    return status


def _recent(now: Callable[[], float]) -> SingleFlightCache[Any, Any]:
    return SingleFlightCache(seconds=FRESH_SECONDS, most=MOST_KEPT, most_at_once=MOST_AT_ONCE, now=now)


async def _answered(what: str, asked: Awaitable[T]) -> T:
    """Our errors for the API server's, with nothing in them that came from the request's token."""
    try:
        return await asked
    except TooManyError as error:
        message = f"{what} is not known, and too many are being asked about"
        raise NotServedError(Reason.ACCESS_UNKNOWN, message) from error
    except (ApiError, UnreachableError, ClusterConfigError, TimeoutError, ValueError) as error:
        message = f"{what} could not be found out from the API server ({type(error).__name__}). Retry"
        raise NotServedError(Reason.ACCESS_UNKNOWN, message) from error


def from_review(status: Mapping[str, Any], audience: str) -> Caller | None:
    """The caller that the status of a TokenReview names.

    None where the token is not accepted, and where it is not meant for us: an API server that answers without audiences
    has not looked at them.
    """
    user = status.get("user") or {}
    if status.get("authenticated") is not True or audience not in (status.get("audiences") or ()):
        return None
    if not user.get("username"):
        return None
    extra = user.get("extra") or {}
    return Caller(
        name=str(user["username"]),
        uid=str(user.get("uid") or ""),
        groups=tuple(map(str, user.get("groups") or ())),
        extra=tuple((str(key), tuple(map(str, values or ()))) for key, values in sorted(extra.items())),
    )
