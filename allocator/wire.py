"""Between the wire and the core: requests become asks, claims become messages. Parsed once, here, and nowhere else.

Every mistake in a request is collected before it is refused, so that a caller corrects it once.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from operator import itemgetter
from sys import intern
from urllib.parse import quote

from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2, error_details_pb2, status_pb2

from allocator.core.asks import Ask, Mistake, Policy, PortAsk, Refused, Warned, WhenFull
from allocator.core.candidates import Constraints, NodeName, Requirement, Term, Toleration
from allocator.core.claims import Claim, ClaimId, ClaimPort, Owner, State
from allocator.core.ports import MAX_PORT, Protocol
from allocator.core.sized import Sized
from hostport.bounds import (
    LONGEST_ADDRESS,
    LONGEST_DESCRIPTION,
    LONGEST_NAME,
    LONGEST_REQUEST_ID,
    MOST_AVOIDED,
    MOST_PORTS,
    Bound,
)
from hostport.contract import DOMAIN, Reason
from hostport.v1 import allocator_pb2 as pb

SMALL = 256  # bytes of constraints in which no count can be above its bound
LARGEST_TRAILERS = 7500
MAX_TTL = 30 * 24 * 3600.0
CONSTRAINTS_BYTES = 8 << 20  # of all constraints that are kept for the next ask
OBJECT_FACTOR = 8  # a message as objects of ours takes so many times its bytes, about

_POLICIES = {
    pb.POLICY_UNSPECIFIED: Policy.INDEX,
    pb.POLICY_INDEX: Policy.INDEX,
    pb.POLICY_DYNAMIC: Policy.DYNAMIC,
    pb.POLICY_PASSTHROUGH: Policy.PASSTHROUGH,
    pb.POLICY_STATIC: Policy.STATIC,
}
_PROTOCOLS = {
    pb.PROTOCOL_UNSPECIFIED: Protocol.TCP,
    pb.PROTOCOL_TCP: Protocol.TCP,
    pb.PROTOCOL_UDP: Protocol.UDP,
    pb.PROTOCOL_SCTP: Protocol.SCTP,
}
_PROTOCOL_VALUES = {protocol: value for value, protocol in _PROTOCOLS.items()}
_WHEN_FULL = {
    pb.WHEN_FULL_UNSPECIFIED: None,
    pb.WHEN_FULL_DENY: WhenFull.DENY,
    pb.WHEN_FULL_PENDING: WhenFull.PENDING,
}
_OWNER_NAMES = ("kind", "namespace", "name", "generate_name", "uid", "controller_uid")
_CONTROLLER_NAMES = ("api_version", "kind", "name")
STATES = {
    State.RESERVED: pb.STATE_RESERVED,
    State.CONFIRMED: pb.STATE_CONFIRMED,
    State.BOUND: pb.STATE_BOUND,
    State.LEASED: pb.STATE_LEASED,
    State.RELEASED: pb.STATE_RELEASED,
}


# -- in


def parse_allocate(request: pb.AllocateRequest) -> Ask:
    """The ask of a request.

    Raises:
        Refused: with every mistake of the request's form. What the policy makes of it is the core's affair.

    """
    _check_size(request)
    mistakes: list[Mistake] = []
    owner = _owner(request.owner, mistakes)
    low, high = _bounds(request.range, mistakes)
    if request.stride > MAX_PORT:
        _out_of_range(mistakes, "stride", f"stride {request.stride}")
    if request.policy not in _POLICIES:
        message = f"policy {request.policy} is none of INDEX, DYNAMIC, PASSTHROUGH, STATIC"
        mistakes.append(Mistake(Reason.UNKNOWN_POLICY, "policy", message))
    if request.when_full not in _WHEN_FULL:
        mistakes.append(
            Mistake(Reason.UNKNOWN_VALUE, "when_full", f"when_full {request.when_full} is neither DENY nor PENDING")
        )
    ask = Ask(
        owner=owner,
        ports=_ports(request, owner, mistakes),
        policy=_POLICIES.get(request.policy, Policy.INDEX),
        low=low,
        high=high,
        stride=request.stride or 100,
        index=request.index if request.HasField("index") else None,
        constraints=_constraints(request.constraints),
        priority=request.priority,
        may_preempt=request.may_preempt,
        when_full=_WHEN_FULL.get(request.when_full),
        ttl=_ask_ttl(request, owner, mistakes),
        host_network=request.host_network,
        carried_id=request.allocation_id,
        avoid=_avoided(request, mistakes),
    )
    mistakes += _too_long(request)
    if mistakes:
        raise Refused(*mistakes)
    return ask


def parse_ttl(request: pb.AllocateRequest | pb.RenewRequest) -> float | None:
    """Seconds; None where it is unset.

    Raises:
        Refused: it is not in 1 s to 30 days.

    """
    if not request.HasField("ttl"):
        return None
    seconds = request.ttl.seconds + request.ttl.nanos / 1e9
    if not 1 <= seconds <= MAX_TTL:
        message = f"ttl {seconds:g} s is not in 1 s to {MAX_TTL:g} s (30 days); unset means 1 hour"
        raise Refused(Mistake(Reason.INVALID_TTL, "ttl", message))
    return seconds


def parse_slot(request: pb.ExplainPortRequest) -> tuple[Protocol, int]:
    """The protocol and number that are asked about.

    Raises:
        Refused: they are none.

    """
    mistakes: list[Mistake] = []
    if not 1 <= request.host_port <= MAX_PORT:
        _out_of_range(mistakes, "host_port", f"host_port {request.host_port}")
    if request.protocol not in _PROTOCOLS:
        _invalid(mistakes, "protocol", f"protocol {request.protocol} is none of TCP, UDP, SCTP")
    if mistakes:
        raise Refused(*mistakes)
    return _PROTOCOLS[request.protocol], request.host_port


def digest(request: pb.AllocateRequest) -> bytes:
    """What two requests have in common only when they ask the same."""
    return hashlib.sha256(request.SerializeToString(deterministic=True)).digest()


def _check_size(request: pb.AllocateRequest) -> None:
    """Before anything is made of a request: refuses at once what is too large to be looked at."""
    if len(request.ports) <= MOST_PORTS and request.constraints.ByteSize() <= SMALL:
        return  # nothing in so few bytes is too much
    mistakes = [
        Mistake(Reason.TOO_COMPLEX, f"constraints.{field}", bound.told(count))
        for field, bound, count in _sizes(request.constraints)
        if count > bound.most
    ]
    if len(request.ports) > MOST_PORTS:
        message = f"{len(request.ports)} ports are more than {MOST_PORTS}"
        mistakes.append(Mistake(Reason.TOO_MANY_PORTS, "ports", message))
    if mistakes:
        raise Refused(*mistakes)


def _sizes(constraints: pb.NodeConstraints) -> Iterator[tuple[str, Bound, int]]:
    """What counts in constraints. What is inside of too many terms or expressions is not looked at."""
    yield "node_selector", Bound.SELECTOR, len(constraints.node_selector)
    yield "tolerations", Bound.TOLERATIONS, len(constraints.tolerations)
    terms = constraints.required_affinity
    yield "required_affinity", Bound.TERMS, len(terms)
    if len(terms) <= Bound.TERMS.most:
        expressions = sum(len(term.match_expressions) + len(term.match_fields) for term in terms)
        yield "required_affinity", Bound.EXPRESSIONS, expressions
        if expressions <= Bound.EXPRESSIONS.most:
            values = sum(len(each.values) for term in terms for each in (*term.match_expressions, *term.match_fields))
            yield "required_affinity", Bound.VALUES, values
    yield "required_affinity", Bound.CONSTRAINTS, constraints.ByteSize()


def _too_long(request: pb.AllocateRequest) -> Iterator[Mistake]:
    """Text that would be kept, or shown to somebody. Nothing in a message of few bytes is too long."""
    texts = [
        ("request_id", request.request_id, LONGEST_REQUEST_ID),
        ("allocation_id", request.allocation_id, LONGEST_REQUEST_ID),
    ]
    owner, controller, constraints = request.owner, request.controller, request.constraints
    if owner.ByteSize() > LONGEST_NAME:
        texts += [(f"owner.{name}", getattr(owner, name), LONGEST_NAME) for name in _OWNER_NAMES]
        texts.append(("owner.description", owner.description, LONGEST_DESCRIPTION))
    if controller.ByteSize() > LONGEST_NAME:
        texts += [(f"controller.{name}", getattr(controller, name), LONGEST_NAME) for name in _CONTROLLER_NAMES]
    if constraints.ByteSize() > LONGEST_NAME:
        texts.append(("constraints.node_name", constraints.node_name, LONGEST_NAME))
    for field, text, most in texts:
        if len(text) > most:
            yield Mistake(Reason.INVALID_REQUEST, field, _length(field, text, most))


def _owner(owner: pb.Owner, mistakes: list[Mistake]) -> Owner:
    parsed = Owner.kept_once(owner)
    if not parsed.kind:
        _invalid(mistakes, "owner.kind", 'owner.kind is missing: "Pod", or what you are')
    if parsed.is_pod and not parsed.namespace:
        _invalid(mistakes, "owner.namespace", "owner.namespace is missing: a Pod has one")
    return parsed


def _bounds(wanted: pb.PortRange, mistakes: list[Mistake]) -> tuple[int, int]:
    for name, number in (("min", wanted.min), ("max", wanted.max)):
        if number > MAX_PORT:
            _out_of_range(mistakes, f"range.{name}", f"range.{name} {number}")
    low = wanted.min or 7000
    return low, wanted.max or (min(low + 1000, MAX_PORT) if wanted.min else 8000)


def _ports(request: pb.AllocateRequest, owner: Owner, mistakes: list[Mistake]) -> tuple[PortAsk, ...]:
    if not request.ports:
        mistakes.append(Mistake(Reason.NO_PORTS, "ports", "ports is empty: ask for at least one"))
    return tuple([_port(port, position, owner, mistakes) for position, port in enumerate(request.ports)])


def _port(asked: pb.PortRequest, position: int, owner: Owner, mistakes: list[Mistake]) -> PortAsk:
    protocol = asked.protocol
    port = PortAsk(
        container=intern(asked.container),
        name=intern(asked.name),
        protocol=_PROTOCOLS.get(protocol, Protocol.TCP),
        container_port=asked.container_port,
        host_port=asked.host_port,
        host_ip=asked.host_ip,
        is_former=asked.former,
    )
    field = f"ports[{position}]"
    if port.container_port > MAX_PORT or (owner.is_pod and not port.container_port):
        _out_of_range(mistakes, f"{field}.container_port", f"{field}.container_port {port.container_port}")
    if port.host_port > MAX_PORT:
        _out_of_range(mistakes, f"{field}.host_port", f"{field}.host_port {port.host_port}")
    if protocol not in _PROTOCOLS:
        _invalid(mistakes, f"{field}.protocol", f"{field}.protocol {protocol} is none of TCP, UDP, SCTP")
    if len(port.container) > LONGEST_NAME or len(port.name) > LONGEST_NAME:
        _invalid(mistakes, field, f"{field}: container and name have at most {LONGEST_NAME} characters")
    if len(port.host_ip) > LONGEST_ADDRESS:
        _invalid(mistakes, f"{field}.host_ip", _length(f"{field}.host_ip", port.host_ip, LONGEST_ADDRESS))
    elif port.host_ip and not _is_ip(port.host_ip):
        _invalid(mistakes, f"{field}.host_ip", f"{field}.host_ip {port.host_ip!r} is no IP address")
    return port


def _avoided(request: pb.AllocateRequest, mistakes: list[Mistake]) -> tuple[int, ...]:
    numbers = request.avoid
    if len(numbers) > MOST_AVOIDED:
        _invalid(mistakes, "avoid", f"avoid has {len(numbers)} numbers, more than {MOST_AVOIDED}")
        return ()
    for number in numbers:
        if not 1 <= number <= MAX_PORT:
            _out_of_range(mistakes, "avoid", f"avoid: {number}")
    return tuple(numbers)


def _ask_ttl(request: pb.AllocateRequest, owner: Owner, mistakes: list[Mistake]) -> float | None:
    if owner.is_pod and request.HasField("ttl"):
        mistakes.append(Mistake(Reason.INVALID_TTL, "ttl", "ttl is set for a Pod: its ports live as long as it does"))
        return None
    try:
        return parse_ttl(request)
    except Refused as refused:
        mistakes += refused.mistakes
        return None


_kept: Sized[bytes, Constraints] = Sized(CONSTRAINTS_BYTES)


def _constraints(constraints: pb.NodeConstraints) -> Constraints:
    """Kept: the Pods of one workload ask with the same constraints, which then are one object."""
    serialised = constraints.SerializeToString(deterministic=True)
    parsed = _kept.get(serialised)
    if parsed is None:
        parsed = _read_constraints(constraints)
        _kept.put(serialised, parsed, len(serialised) * OBJECT_FACTOR)
    return parsed


def _read_constraints(constraints: pb.NodeConstraints) -> Constraints:
    if constraints.node_name:
        return Constraints(node_name=NodeName(constraints.node_name))
    return Constraints(
        selector=tuple(sorted(constraints.node_selector.items())),
        affinity=tuple(
            Term(
                expressions=tuple(_requirement(r) for r in term.match_expressions),
                fields=tuple(_requirement(r) for r in term.match_fields),
            )
            for term in constraints.required_affinity
        ),
        tolerations=tuple(
            Toleration(key=t.key, operator=t.operator or "Equal", value=t.value, effect=t.effect)
            for t in constraints.tolerations
        ),
    )


def _requirement(requirement: pb.NodeRequirement) -> Requirement:
    return Requirement(key=requirement.key, operator=requirement.operator, values=tuple(requirement.values))


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _length(field: str, text: str, most: int) -> str:
    return f"{field} has {len(text)} characters, {most} are allowed. Shorten it"


def _invalid(mistakes: list[Mistake], field: str, message: str) -> None:
    mistakes.append(Mistake(Reason.INVALID_REQUEST, field, message))


def _out_of_range(mistakes: list[Mistake], field: str, what: str) -> None:
    mistakes.append(Mistake(Reason.NUMBER_OUT_OF_RANGE, field, f"{what} is not in 1..{MAX_PORT}"))


# -- out


def seal(claim: Claim, warnings: Sequence[Warned], *, ahead: float = 0.0) -> bytes:
    """The serialised AllocateResponse. `ahead`: seconds that the wall clock is ahead of the one by which claims end."""
    response = pb.AllocateResponse()
    _write_claim(claim, response.allocation, ahead)
    for warned in warnings:
        response.warnings.add(reason=warned.notice.name, message=warned.message[:200])
    return response.SerializeToString()


def to_allocation(claim: Claim, *, ahead: float, unplaceable: bool = False) -> pb.Allocation:
    """The claim as callers see it; `ahead` as for `seal`."""
    allocation = pb.Allocation(unplaceable=unplaceable)
    _write_claim(claim, allocation, ahead)
    return allocation


def _write_claim(claim: Claim, into: pb.Allocation, ahead: float) -> None:
    """Field by field: a message that is made apart is copied into its parent, which takes twice as long."""
    into.id = claim.id
    into.state = STATES[claim.state]
    _write_owner(claim.owner, into.owner)
    into.node = claim.node or ""
    for port in claim.ports:
        into.ports.add(
            container=port.container,
            name=port.name,
            protocol=_PROTOCOL_VALUES[port.protocol],
            container_port=port.container_port,
            host_port=port.host_port,
            host_ip=port.host_ip,
            appeared=port.appeared,
        )
    _write_timestamp(claim.created, into.create_time)
    if claim.expires is not None:
        _write_timestamp(claim.expires + ahead, into.expire_time)
    into.external = claim.external
    if claim.own_network:
        into.own_network = True
    if claim.warnings:
        into.warnings.extend(claim.warnings.split(","))


def _write_owner(owner: Owner, into: pb.Owner) -> None:
    into.kind = owner.kind
    into.namespace = owner.namespace
    into.name = owner.name
    into.generate_name = owner.generate_name
    into.uid = owner.uid
    into.controller_uid = owner.controller_uid
    into.description = owner.description


Held = tuple[int, str, ClaimId, ClaimPort, Claim]
"""A port of a claim behind what it is sorted by: protocol and number, address, claim."""

_RANK = itemgetter(0, 1, 2)
_BY_NAME = {protocol: at for at, protocol in enumerate(sorted(Protocol, key=lambda each: each.value))}


def held_ports(claims: Iterable[Claim]) -> list[Held]:
    """Every port of some claims, in order."""
    held = (
        (_BY_NAME[p.protocol] << 16 | p.host_port, p.key.ip, claim.id, p, claim)
        for claim in claims
        for p in claim.ports
    )
    return sorted(held, key=_RANK)


def merged(held: Iterable[list[Held]]) -> Iterator[Held]:
    """What `held_ports` gave, as one: by protocol, number, address and claim."""
    return merge(*held, key=_RANK)


def write_held_port(held: Held, into: pb.HeldPort) -> None:
    *_, port, claim = held
    into.protocol = _PROTOCOL_VALUES[port.protocol]
    into.host_port = port.host_port
    into.host_ip = port.host_ip
    into.allocation_id = claim.id
    into.state = STATES[claim.state]
    _write_owner(claim.owner, into.owner)


def to_status(mistakes: Sequence[Mistake]) -> status_pb2.Status:
    """google.rpc.Status with the ErrorInfo of the first mistake and all of them as field violations.

    As many as fit: gRPC refuses trailers above 8 KiB, by chance at first. The message is in them twice, once escaped.
    """
    status = _to_status(mistakes)
    while status.ByteSize() + len(quote(status.message)) > LARGEST_TRAILERS and len(mistakes) > 1:
        mistakes = mistakes[: len(mistakes) // 2]
        status = _to_status(mistakes)
    return status


def _to_status(mistakes: Sequence[Mistake]) -> status_pb2.Status:
    first = mistakes[0]
    code = code_pb2.Code.Value(first.reason.code.name)
    status = status_pb2.Status(code=code, message="; ".join(mistake.message for mistake in mistakes))
    status.details.add().Pack(
        error_details_pb2.ErrorInfo(reason=first.reason.name, domain=DOMAIN, metadata={"field": first.field})
    )
    status.details.add().Pack(
        error_details_pb2.BadRequest(
            field_violations=[
                error_details_pb2.BadRequest.FieldViolation(field=m.field, description=m.message, reason=m.reason.name)
                for m in mistakes
            ]
        )
    )
    return status


def to_timestamp(seconds: float) -> Timestamp:
    timestamp = Timestamp()
    _write_timestamp(seconds, timestamp)
    return timestamp


def _write_timestamp(seconds: float, into: Timestamp) -> None:
    into.seconds = whole = int(seconds)
    into.nanos = int((seconds - whole) * 1e9)
