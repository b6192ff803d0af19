"""The door of the gRPC service: for each call, who makes it and whether it may.

Rules:

* A client certificate names the caller where one was shown (then a token is not looked at), else a bearer token does.
* A shim's call costs a look at its certificate: nothing is asked, nothing is awaited.
* A certificate that has ended is refused on connections that stand, too.
* Health and reflection do not come here: they are for whoever passed TLS.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

import grpc

from allocator.access.callers import ANYBODY, Caller, Role, from_certificate
from allocator.access.rights import (
    EVERYWHERE,
    Right,
    Verb,
    check_is_shim,
    check_is_user,
    check_kind,
    lacks,
    namespace_of,
    namespace_of_new,
    to_end,
    unseen,
)
from allocator.access.turnstile import Turnstile
from allocator.core.asks import Mistake, Refused
from allocator.core.claims import Claim
from hostport.bounds import LONGEST_NAME
from hostport.contract import Reason
from hostport.logs import tell
from hostport.v1 import allocator_pb2 as pb

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

BEARER = "bearer "
LONGEST_TOKEN = 8192


class Reviewer(Protocol):
    """Who is asked about callers. Both raise UnavailableError where there is no answer."""

    async def caller(self, token: str) -> Caller | None:
        """Who shows a token; None: nobody."""

    async def allows(self, caller: Caller, right: Right) -> bool:
        """Whether a caller has a right."""


class Guard:
    """See the module. Without a reviewer everybody may do everything: there is nobody to ask, and no TLS to tell by.

    Every method raises Refused or UnavailableError where the call must not go on. `home` is the operator's namespace.
    """

    def __init__(
        self,
        reviewer: Reviewer | None = None,
        *,
        home: str = "",
        shim_name: str = "",
        audience: str = "",
        now: Callable[[], float] = time.time,
    ) -> None:
        self._reviewer = reviewer
        self._home = home
        self._shim_name = shim_name
        self._audience = audience
        self._now = now
        self.turnstile = Turnstile()

    async def allocating(self, context: Context, owner: pb.Owner) -> Caller:
        """For Allocate. A lease without a namespace is given one here, before anything is made of the request."""
        caller = await self._caller(context)
        check_kind(caller, owner.kind)
        if caller.role is Role.USER:
            self.turnstile.enter(context, caller)
            owner.namespace = namespace_of_new(caller, owner.namespace, self._home)
            await self._check(caller, Right(Verb.CREATE, owner.namespace))
        return caller

    async def streaming(self, context: Context) -> None:
        """For AllocateStream, with many asks under way at once: for shims. Each ask passes `allocating` besides."""
        check_is_shim(await self._caller(context), "AllocateStream is for shims. Use Allocate")

    async def reporting(self, context: Context) -> None:
        """For ReportWarnings: whoever may call it writes Events about any owner."""
        check_is_shim(await self._caller(context), "ReportWarnings is for shims")

    async def ending(self, context: Context, claim_id: str, claim: Claim | None) -> None:
        """For Release. What is gone is released already, whoever asks: a repeated call must not fail."""
        caller = await self._user(context)
        if claim is not None:
            await self._check_over(caller, to_end(claim, self._home), claim_id, claim)

    async def renewing(self, context: Context, claim_id: str, claim: Claim | None) -> None:
        """For Renew."""
        await self._check_over(await self._user(context), self._right(Verb.CREATE, claim), claim_id, claim)

    async def seeing(self, context: Context, claim_id: str, claim: Claim | None) -> None:
        """For GetAllocation."""
        await self._check_over(await self._user(context), self._right(Verb.GET, claim), claim_id, claim)

    async def listing(self, context: Context, namespace: str) -> None:
        """For lists and watches of allocations."""
        await self._check(await self._user(context), Right(Verb.LIST, namespace))

    async def looking_everywhere(self, context: Context, verb: Verb) -> None:
        """For what shows the ports of everybody: nodes, and how the allocator is."""
        await self._check(await self._user(context), Right(verb, EVERYWHERE))

    def _right(self, verb: Verb, claim: Claim | None) -> Right:
        return Right(verb, EVERYWHERE if claim is None else namespace_of(claim, self._home))

    async def _check(self, caller: Caller, right: Right) -> None:
        if len(right.namespace) > LONGEST_NAME:  # what was asked is kept for a while
            message = f"namespace has more than {LONGEST_NAME} characters"
            raise Refused(Mistake(Reason.INVALID_REQUEST, "namespace", message))
        if not await self._allows(caller, right):
            tell(log, "not allowed", caller=caller.name, right=str(right))
            raise lacks(caller, right)

    async def _check_over(self, caller: Caller, right: Right, claim_id: str, claim: Claim | None) -> None:
        """Who may not, and may not see it either, is not told that it is there."""
        if await self._allows(caller, right):
            return
        tell(log, "not allowed", caller=caller.name, right=str(right), allocation_id=claim_id[:64])
        if claim is not None and await self._allows(caller, self._right(Verb.GET, claim)):
            raise lacks(caller, right)
        raise unseen(claim_id)

    async def _allows(self, caller: Caller, right: Right) -> bool:
        return self._reviewer is None or await self._reviewer.allows(caller, right)

    async def _user(self, context: Context) -> Caller:
        caller = await self._caller(context)
        check_is_user(caller)
        if caller.role is Role.USER:
            self.turnstile.enter(context, caller)
        return caller

    async def _caller(self, context: Context) -> Caller:
        if self._reviewer is None:
            return ANYBODY
        for pem in context.auth_context().get("x509_pem_cert", ()):
            return self._certified(pem)
        token = bearer_token(context)
        caller = await self._reviewer.caller(token) if token else None
        if caller is None:
            raise _stranger(
                f"the token is not accepted: it must be one for audience {self._audience} that has not ended"
                if token
                else "nobody is named: show a client certificate, or send metadata `authorization: Bearer TOKEN`"
            )
        return caller

    def _certified(self, pem: bytes) -> Caller:
        caller = from_certificate(pem, self._shim_name)
        if caller is None:
            raise _stranger("the client certificate has no common name, which would say who calls")
        if caller.until <= self._now():
            raise _stranger(f"the client certificate of {caller.name} has ended: connect with a new one")
        return caller


def bearer_token(context: Context) -> str:
    """The token of a call; empty where there is none that could be one."""
    for key, value in context.invocation_metadata() or ():
        if key == "authorization" and isinstance(value, str) and value[: len(BEARER)].lower() == BEARER:
            token = value[len(BEARER) :].strip()
            return token if len(token) <= LONGEST_TOKEN else ""
    return ""


def _stranger(message: str) -> Refused:
    return Refused(Mistake(Reason.UNAUTHENTICATED, "", message))
