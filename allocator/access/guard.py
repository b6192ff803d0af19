"""Access to the gRPC service: for each call, who makes it and whether it may.

Longer than 350 lines because it has all that a call passes there, and nothing else: the caller, what it needs in words
of RBAC, how many of its calls are under way, and who called lately.

Rules of access:

* A client certificate names the caller where one was shown (then a token is not looked at), else a bearer token does.
* A shim's call costs a look at its certificate: nothing is asked, nothing is awaited.
* A certificate that has ended is refused on connections that stand, too.
* Health and reflection do not come here: they are for whoever passed TLS.

Rules of callers:

* A certificate is read as Kubernetes reads it: the last common name is the user, the organizations are the groups, and
  whoever shows one is `system:authenticated`.
* A shim is a certificate with the shim's name, and nothing else is: no token makes one.
* Nothing of a caller is a secret, so that it may be logged and kept.

Rules of rights:

* The resource is `portleases.hostport.io`. The namespace is the lease's; no namespace means all of them.
* What is open on a node is told by the agent there, and by nobody else: a ServiceAccount with the agents' name, whose
  token is bound to that node. A client certificate makes no agent.
* Pods' ports come from shims: a shim allocates for Pods, tells their owners of warnings and asks for the addresses of
  nodes, and does nothing else; nobody else does that. A Pod's reservation ends with the Pod; by hand it is ended by who
  may delete leases everywhere.
* Nodes show everybody's ports, so that looking at them, or at the allocator's state, needs the right everywhere.
* Whoever may not see an allocation is told what is told of one that never was.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache, partial
from typing import Any, Protocol

import grpc
from cryptography.x509 import load_pem_x509_certificate
from cryptography.x509.oid import NameOID

from allocator.core.asks import Refused
from allocator.core.claims import POD, Claim
from hostport.contract import Mistake, Reason
from hostport.contract.limits import LONGEST_NAME, LONGEST_REQUEST_ID
from hostport.logs import log_event
from hostport.v1 import allocator_pb2 as pb

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

BEARER = "bearer "
LONGEST_TOKEN = 8192
MOST_CALLERS = 64
LONGEST_AGENT = 256
"""What is remembered of who called: so many peers, and so many characters of what each says of itself."""
MOST_CALLS_OF_ONE, MOST_CALLS = 64, 256
"""Calls of one user, and of all users, that are under way."""


NODE_OF_TOKEN = "authentication.kubernetes.io/node-name"  # noqa: S105 - of a ServiceAccount token that a Pod has
AUTHENTICATED = "system:authenticated"
SERVICE_ACCOUNT = "system:serviceaccount:"


class Role(Enum):
    """What kind of caller."""

    SHIM = "a shim"
    USER = "a user of the cluster"
    ANYBODY = "whoever is on this machine"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A user as Kubernetes knows users, and until when its certificate is good (seconds since the epoch)."""

    role: Role = Role.USER
    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()
    until: float = math.inf

    @property
    def namespace(self) -> str:
        """Of a ServiceAccount; empty for everybody else."""
        if not self.name.startswith(SERVICE_ACCOUNT):
            return ""
        return self.name.removeprefix(SERVICE_ACCOUNT).partition(":")[0]

    def own(self, request_id: str) -> str:
        """The request_id as nobody else can send it: a user's requests are no answer to another's.

        The length comes first, since names and ids may have any letters: `a/b` with id `c` is not `a` with `b/c`.
        A digest stands for what is longer than a request_id may be: a caller has a name of any length.
        """
        if not request_id or self.role is not Role.USER:
            return request_id
        own = f"{len(self.name)}:{self.name}/{request_id}"
        return own if len(own) <= LONGEST_REQUEST_ID else f"sha256:{hashlib.sha256(own.encode()).hexdigest()}"


ANYBODY = Caller(role=Role.ANYBODY, name="")


@lru_cache(maxsize=1024)
def from_certificate(pem: bytes, shim_name: str) -> Caller | None:
    """The caller that a verified certificate names; None where it names nobody. Cached: a peer shows the same one."""
    try:
        certificate = load_pem_x509_certificate(pem)
    except ValueError:  # stricter than what verified it
        return None
    names = [str(each.value) for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if not names or not names[-1]:
        return None
    groups = [str(each.value) for each in certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    return Caller(
        role=Role.SHIM if names[-1] == shim_name else Role.USER,
        name=names[-1],
        groups=(*groups, AUTHENTICATED),
        until=certificate.not_valid_after_utc.timestamp(),
    )


GROUP, RESOURCE = "hostport.io", "portleases"
EVERYWHERE = ""


class Verb(Enum):
    """What is done to a lease."""

    CREATE = "create"
    DELETE = "delete"
    GET = "get"
    LIST = "list"


@dataclass(frozen=True, slots=True)
class AccessRight:
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


def node_of_agent(caller: Caller, agent_name: str) -> str:
    """The node that the token of an agent is bound to.

    agent_name: the user name of agents; empty: there are none.

    Raises:
        Refused: the caller is no agent, or its token is not that of a Pod on a node.

    """
    if not agent_name or caller.role is not Role.USER or caller.name != agent_name:
        message = f"{caller.name} is no agent of a node: ReportNode is for the ServiceAccount of --agent-account"
        raise Refused(Mistake(Reason.PERMISSION_DENIED, "", message))
    nodes = dict(caller.extra).get(NODE_OF_TOKEN, ())
    if len(nodes) != 1 or not nodes[0]:
        message = "the token is not bound to a Pod on a node: mount it into the agent's Pod (a projected token)"
        raise Refused(Mistake(Reason.PERMISSION_DENIED, "", message))
    return nodes[0]


def namespace_of_new(caller: Caller, asked: str, home: str) -> str:
    """The namespace of a lease: the one that is asked for, else the ServiceAccount's own, else the operator's."""
    return asked or caller.namespace or home


def namespace_of(claim: Claim, home: str) -> str:
    """The namespace where a claim is seen. A lease that was made without one is the operator's."""
    return claim.owner.namespace or home


def to_end(claim: Claim, home: str) -> AccessRight:
    """What Release needs: a Pod's reservation is nobody's lease."""
    return AccessRight(Verb.DELETE, EVERYWHERE if claim.owner.is_pod else namespace_of(claim, home))


def lacks(caller: Caller, right: AccessRight) -> Refused:
    """The answer to a caller that may know what it may not."""
    message = f"{caller.name} may not {right}: grant it with RBAC, see docs/security.md"
    return Refused(Mistake(Reason.PERMISSION_DENIED, "", message))


def unseen(claim_id: str) -> Refused:
    """The answer about an allocation that is not there, or not there for this caller: the same words."""
    message = f"no allocation {claim_id[:64]}: it ended, never was, or is not yours"
    return Refused(Mistake(Reason.ALLOCATION_NOT_FOUND, "id", message))


class Reviewer(Protocol):
    """Who is asked about callers. Both raise NotServedError where there is no answer."""

    async def caller(self, token: str) -> Caller | None:
        """Who shows a token; None: nobody."""

    async def allows(self, caller: Caller, right: AccessRight) -> bool:
        """Whether a caller has a right."""


class ConcurrencyLimiter:
    """Counts the calls of users that are under way: in all, and of each.

    A call counts until its answer has left, so that an answer that nobody reads is bounded in number as well. Shims are
    not counted: their answers are small, and Pods must not wait for those who lease.
    """

    def __init__(self) -> None:
        self.under_way: Counter[str] = Counter()
        self.total = 0

    def enter(self, context: Context, caller: Caller) -> None:
        """Counts a call until it is over, its answer sent or given up.

        Raises:
            Refused: too many are under way.

        """
        if self.under_way[caller.name] >= MOST_CALLS_OF_ONE or self.total >= MOST_CALLS:
            whose = f"{caller.name} has" if self.total < MOST_CALLS else "all callers together have"
            message = f"{whose} too many calls under way. Read the answers, then retry"
            raise Refused(Mistake(Reason.TOO_MANY_CALLS, "", message))
        self.under_way[caller.name] += 1
        self.total += 1
        context.add_done_callback(partial(self._leave, caller.name))  # type: ignore[arg-type]  # any function

    def _leave(self, name: str, _: object) -> None:
        self.total -= 1
        self.under_way[name] -= 1
        if not self.under_way[name]:
            del self.under_way[name]


class CallContext(Protocol):
    """What is read of gRPC's context to tell who called lately."""

    def peer(self) -> str:
        """Such as `ipv4:10.0.0.7:51234`."""

    def invocation_metadata(self) -> Any:
        """Pairs of key and value."""


@dataclass(slots=True)
class RecentCaller:
    """A program at an address, and when it called last: seconds since the epoch, by the wall clock."""

    program: str
    version: str
    address: str
    at: float


class RecentCallers:
    """Who called lately, by what they say of themselves. What a connection says is read once."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._by_peer: dict[str, RecentCaller] = {}

    def note(self, call: CallContext) -> None:
        """Notes a call. Of many peers the one that called longest ago is forgotten."""
        peer = call.peer()
        known = self._by_peer.get(peer)
        if known is not None:
            known.at = self._now()
            return
        if len(self._by_peer) >= MOST_CALLERS:
            del self._by_peer[min(self._by_peer, key=lambda each: self._by_peer[each].at)]
        agent = next((str(value) for key, value in call.invocation_metadata() or () if key == "user-agent"), "")
        program, _, version = agent[:LONGEST_AGENT].split(" ", 1)[0].partition("/")
        self._by_peer[peer] = RecentCaller(program[:64], version[:64], _peer_address(peer), self._now())

    def recent(self) -> list[RecentCaller]:
        """Newest first; the connections of one program at one address are one caller."""
        newest: dict[tuple[str, str, str], RecentCaller] = {}
        for caller in sorted(self._by_peer.values(), key=lambda each: each.at):
            newest[caller.program, caller.version, caller.address] = caller
        return sorted(newest.values(), key=lambda each: -each.at)


def _peer_address(peer: str) -> str:
    """`ipv4:10.0.0.7:51234` → `10.0.0.7`; gRPC escapes the brackets of IPv6."""
    kind, _, rest = peer.partition(":")
    if kind not in {"ipv4", "ipv6"}:
        return peer
    return rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]")


class Guard:
    """See the module. Without a reviewer everybody may do everything: there is nobody to ask, and no TLS to tell by.

    Every method raises Refused or NotServedError where the call must not go on. `home` is the operator's namespace.
    """

    def __init__(
        self,
        reviewer: Reviewer | None = None,
        *,
        home: str = "",
        shim_name: str = "",
        audience: str = "",
        agent_account: str = "",
        now: Callable[[], float] = time.time,
    ) -> None:
        self._reviewer = reviewer
        self._home = home
        self._shim_name = shim_name
        self._audience = audience
        self._agent_name = SERVICE_ACCOUNT + agent_account.replace("/", ":") if agent_account else ""
        self._now = now
        self.limiter = ConcurrencyLimiter()

    async def allocating(self, context: Context, owner: pb.Owner) -> Caller:
        """For Allocate. A lease without a namespace is given one here, before anything is made of the request."""
        caller = await self._caller(context)
        check_kind(caller, owner.kind)
        if caller.role is Role.USER:
            self.limiter.enter(context, caller)
            owner.namespace = namespace_of_new(caller, owner.namespace, self._home)
            await self._check(caller, AccessRight(Verb.CREATE, owner.namespace))
        return caller

    async def streaming(self, context: Context) -> None:
        """For AllocateStream, with many asks under way at once: for shims. Each ask passes `allocating` besides."""
        check_is_shim(await self._caller(context), "AllocateStream is for shims. Use Allocate")

    async def reporting(self, context: Context) -> None:
        """For ReportWarnings: whoever may call it writes Events about any owner."""
        check_is_shim(await self._caller(context), "ReportWarnings is for shims")

    async def addressing(self, context: Context) -> None:
        """For GetNodeAddress."""
        check_is_shim(await self._caller(context), "GetNodeAddress is for shims")

    async def speaking(self, context: Context) -> str | None:
        """For ReportNode: the node that the caller may speak of; None: any, where nobody can tell callers apart."""
        caller = await self._caller(context)
        return None if caller.role is Role.ANYBODY else node_of_agent(caller, self._agent_name)

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
        await self._check(await self._user(context), AccessRight(Verb.LIST, namespace))

    async def looking_everywhere(self, context: Context, verb: Verb) -> None:
        """For what shows the ports of everybody: nodes, and how the allocator is."""
        await self._check(await self._user(context), AccessRight(verb, EVERYWHERE))

    def _right(self, verb: Verb, claim: Claim | None) -> AccessRight:
        return AccessRight(verb, EVERYWHERE if claim is None else namespace_of(claim, self._home))

    async def _check(self, caller: Caller, right: AccessRight) -> None:
        if len(right.namespace) > LONGEST_NAME:  # what was asked is kept for a while
            message = f"namespace has more than {LONGEST_NAME} characters"
            raise Refused(Mistake(Reason.INVALID_REQUEST, "namespace", message))
        if not await self._allows(caller, right):
            log_event(log, "not allowed", caller=caller.name, right=str(right))
            raise lacks(caller, right)

    async def _check_over(self, caller: Caller, right: AccessRight, claim_id: str, claim: Claim | None) -> None:
        """Who may not, and may not see it either, is not told that it is there."""
        if await self._allows(caller, right):
            return
        log_event(log, "not allowed", caller=caller.name, right=str(right), allocation_id=claim_id[:64])
        if claim is not None and await self._allows(caller, self._right(Verb.GET, claim)):
            raise lacks(caller, right)
        raise unseen(claim_id)

    async def _allows(self, caller: Caller, right: AccessRight) -> bool:
        return self._reviewer is None or await self._reviewer.allows(caller, right)

    async def _user(self, context: Context) -> Caller:
        caller = await self._caller(context)
        check_is_user(caller)
        if caller.role is Role.USER:
            self.limiter.enter(context, caller)
        return caller

    async def _caller(self, context: Context) -> Caller:
        if self._reviewer is None:
            return ANYBODY
        for pem in context.auth_context().get("x509_pem_cert", ()):
            return self._certified(pem)  # a certificate goes before a token, and nothing is awaited for it
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
        if caller.until <= self._now():  # TLS looked when the connection began; this looks with each call
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
