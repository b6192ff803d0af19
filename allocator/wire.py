"""Between the wire and the core: requests become asks, claims become messages.

Rules:

* A request is parsed once, here, and nowhere else.
* Every mistake in a request is collected before it is refused, so that a caller corrects it once.
* What is too large to be looked at is refused before anything is made of it.
* Nothing here looks at a clock or at the state: whoever encodes says how far the wall clock is ahead.

Longer than 350 lines because both directions share the tables of states, protocols and policies.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterator, Sequence
from sys import intern

from google.protobuf.timestamp_pb2 import Timestamp
from msgspec.structs import replace

from allocator.core.admission import UNREMARKED, Remarks
from allocator.core.asks import Ask, PortAsk, Refused, WhenFull
from allocator.core.candidates import ANYWHERE, Constraints, NodeName, Requirement, Term, Toleration
from allocator.core.claims import Claim, Owner, State
from allocator.core.foreign import ForeignHolder, ForeignKind
from allocator.core.kept import SizedCache
from allocator.core.place.policies import POLICIES
from allocator.core.ports import Protocol
from allocator.core.watch.listening import OpenSockets, is_listening
from hostport.contract import Mistake, PodWarning, Reason, defaults
from hostport.contract import policies as contract
from hostport.contract.limits import (
    HIGHEST_PORT,
    LONGEST_ADDRESS,
    LONGEST_COOL_DOWN,
    LONGEST_DESCRIPTION,
    LONGEST_LEASE,
    LONGEST_NAME,
    LONGEST_REQUEST_ID,
    LONGEST_WARNING,
    MOST_AVOIDED,
    MOST_NUMBERS,
    MOST_PORTS,
    SHORTEST_LEASE,
    Bound,
)
from hostport.contract.policies import DEFAULT_POLICY
from hostport.v1 import allocator_pb2 as pb

SMALL = 256  # bytes of constraints in which no count can be above its bound
CONSTRAINTS_BYTES = 8 << 20  # of all constraints that are kept for the next ask
OBJECT_FACTOR = 8  # a message as objects of ours takes so many times its bytes, about

_DEFAULT_POLICY = POLICIES[DEFAULT_POLICY]
_POLICIES = {
    pb.POLICY_UNSPECIFIED: _DEFAULT_POLICY,
    **{pb.Policy.Value(contract.POLICIES[name].proto_name): policy for name, policy in POLICIES.items()},
}
_PROTOCOLS = {
    pb.PROTOCOL_UNSPECIFIED: Protocol.TCP,
    pb.PROTOCOL_TCP: Protocol.TCP,
    pb.PROTOCOL_UDP: Protocol.UDP,
    pb.PROTOCOL_SCTP: Protocol.SCTP,
}
PROTOCOLS = {protocol: value for value, protocol in _PROTOCOLS.items()}
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


def parse_allocate(request: pb.AllocateRequest, lease_namespace: str = "") -> Ask:
    """The ask of a request.

    lease_namespace: to which a lease belongs whose owner names no namespace.

    Raises:
        Refused: with every mistake of the request's form. What the policy makes of it is the core's affair.

    """
    _check_size(request)
    mistakes: list[Mistake] = []
    owner, is_pod = _owner(request.owner, lease_namespace, mistakes)
    low, high = _bounds(request.range, mistakes)
    if request.stride > HIGHEST_PORT:
        _out_of_range(mistakes, "stride", f"stride {request.stride}")
    if request.policy not in _POLICIES:
        message = f"policy {request.policy} is none of {', '.join(POLICIES).upper()}"
        mistakes.append(Mistake(Reason.UNKNOWN_POLICY, "policy", message))
    if request.when_full not in _WHEN_FULL:
        mistakes.append(
            Mistake(Reason.UNKNOWN_VALUE, "when_full", f"when_full {request.when_full} is neither DENY nor PENDING")
        )
    ask = Ask(
        owner=owner,
        ports=_ports(request, mistakes, is_pod=is_pod),
        policy=_POLICIES.get(request.policy, _DEFAULT_POLICY),
        low=low,
        high=high,
        stride=request.stride or defaults.STRIDE,
        index=request.index if request.HasField("index") else None,
        constraints=_constraints(request.constraints),
        priority=request.priority,
        may_preempt=request.may_preempt,
        when_full=_WHEN_FULL.get(request.when_full),
        ttl=_ask_ttl(request, mistakes, is_pod=is_pod),
        host_network=request.host_network,
        carried_id=request.allocation_id,
        avoid=_avoided(request, mistakes),
        cool_down=_ask_cool_down(request, mistakes) if request.HasField("cool_down") else None,
        can_steer=request.can_steer,
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
    if not SHORTEST_LEASE <= seconds <= LONGEST_LEASE:
        message = f"ttl {seconds:g} s is not in 1 s to {LONGEST_LEASE:g} s (30 days); unset means 1 hour"
        raise Refused(Mistake(Reason.INVALID_TTL, "ttl", message))
    return seconds


def parse_slot(request: pb.ExplainPortRequest) -> tuple[Protocol, int]:
    """The protocol and number that are asked about.

    Raises:
        Refused: they are none.

    """
    mistakes: list[Mistake] = []
    if not 1 <= request.host_port <= HIGHEST_PORT:
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


def _too_long(request: pb.AllocateRequest) -> list[Mistake]:
    """Text that would be kept, or shown to somebody. Nothing in a message of few bytes is too long."""
    owner, controller = request.owner, request.controller
    texts = [
        ("request_id", request.request_id, LONGEST_REQUEST_ID),
        ("allocation_id", request.allocation_id, LONGEST_REQUEST_ID),
    ]
    if owner.ByteSize() > LONGEST_NAME:
        texts += [(f"owner.{name}", getattr(owner, name), LONGEST_NAME) for name in _OWNER_NAMES]
        texts.append(("owner.description", owner.description, LONGEST_DESCRIPTION))
    if controller.ByteSize() > LONGEST_NAME:
        texts += [(f"controller.{name}", getattr(controller, name), LONGEST_NAME) for name in _CONTROLLER_NAMES]
    texts.append(("constraints.node_name", request.constraints.node_name, LONGEST_NAME))
    return [
        Mistake(Reason.INVALID_REQUEST, field, _length(field, text, most))
        for field, text, most in texts
        if len(text) > most
    ]


def _owner(owner: pb.Owner, lease_namespace: str, mistakes: list[Mistake]) -> tuple[Owner, bool]:
    """The owner, and whether it is a Pod."""
    parsed = Owner.kept_once(owner)
    is_pod = parsed.is_pod
    if not parsed.kind:
        _invalid(mistakes, "owner.kind", 'owner.kind is missing: "Pod", or what you are')
    if is_pod and not parsed.namespace:
        _invalid(mistakes, "owner.namespace", "owner.namespace is missing: a Pod has one")
    if lease_namespace and not parsed.namespace and not is_pod:
        return replace(parsed, namespace=lease_namespace), is_pod
    return parsed, is_pod


def _bounds(wanted: pb.PortRange, mistakes: list[Mistake]) -> tuple[int, int]:
    low, high = wanted.min, wanted.max
    if low > HIGHEST_PORT:
        _out_of_range(mistakes, "range.min", f"range.min {low}")
    if high > HIGHEST_PORT:
        _out_of_range(mistakes, "range.max", f"range.max {high}")
    return defaults.port_range(low, high)


def _ports(request: pb.AllocateRequest, mistakes: list[Mistake], *, is_pod: bool) -> tuple[PortAsk, ...]:
    if not request.ports:
        mistakes.append(Mistake(Reason.NO_PORTS, "ports", "ports is empty: ask for at least one"))
    ports = tuple([_port(port, at, mistakes, is_pod=is_pod) for at, port in enumerate(request.ports)])
    numbers = sum([port.count for port in ports])
    if numbers > MOST_NUMBERS and all(port.count <= MOST_NUMBERS for port in ports):  # else that is what is wrong
        message = f"{len(ports)} ports stand for {numbers} numbers in all, and at most {MOST_NUMBERS} are allowed"
        mistakes.append(Mistake(Reason.TOO_MANY_NUMBERS, "ports", f"{message}. Ask for smaller blocks"))
    return ports


def _port(asked: pb.PortRequest, position: int, mistakes: list[Mistake], *, is_pod: bool) -> PortAsk:
    protocol = asked.protocol
    port = PortAsk(
        container=intern(asked.container),
        name=intern(asked.name),
        protocol=_PROTOCOLS.get(protocol, Protocol.TCP),
        container_port=asked.container_port,
        host_port=asked.host_port,
        host_ip=asked.host_ip,
        is_former=asked.former,
        count=asked.count or 1,
        alignment=asked.alignment or 1,
    )
    field = f"ports[{position}]"
    if port.container_port > HIGHEST_PORT or (is_pod and not port.container_port):
        _out_of_range(mistakes, f"{field}.container_port", f"{field}.container_port {port.container_port}")
    if port.host_port > HIGHEST_PORT:
        _out_of_range(mistakes, f"{field}.host_port", f"{field}.host_port {port.host_port}")
    if protocol not in _PROTOCOLS:
        _invalid(mistakes, f"{field}.protocol", f"{field}.protocol {protocol} is none of TCP, UDP, SCTP")
    if len(port.container) > LONGEST_NAME or len(port.name) > LONGEST_NAME:
        _invalid(mistakes, field, f"{field}: container and name have at most {LONGEST_NAME} characters")
    if len(port.host_ip) > LONGEST_ADDRESS:
        _invalid(mistakes, f"{field}.host_ip", _length(f"{field}.host_ip", port.host_ip, LONGEST_ADDRESS))
    elif port.host_ip and not _is_ip(port.host_ip):
        _invalid(mistakes, f"{field}.host_ip", f"{field}.host_ip {port.host_ip!r} is no IP address")
    if port.count > MOST_NUMBERS:
        _wrong_block(mistakes, f"{field}.count", port.count, port)
    if port.alignment > MOST_NUMBERS:
        _wrong_block(mistakes, f"{field}.alignment", port.alignment, port)
    return port


def _wrong_block(mistakes: list[Mistake], field: str, number: int, port: PortAsk) -> None:
    mistakes.append(Mistake(Reason.BLOCK_INVALID, field, f"{field} {number} of {port} is not in 1..{MOST_NUMBERS}"))


def _avoided(request: pb.AllocateRequest, mistakes: list[Mistake]) -> tuple[int, ...]:
    numbers = request.avoid
    if not numbers:
        return ()
    if len(numbers) > MOST_AVOIDED:
        _invalid(mistakes, "avoid", f"avoid has {len(numbers)} numbers, more than {MOST_AVOIDED}")
        return ()
    for number in numbers:
        if not 1 <= number <= HIGHEST_PORT:
            _out_of_range(mistakes, "avoid", f"avoid: {number}")
    return tuple(numbers)


def _ask_cool_down(request: pb.AllocateRequest, mistakes: list[Mistake]) -> float:
    seconds = request.cool_down.seconds + request.cool_down.nanos / 1e9
    if not 0 <= seconds <= LONGEST_COOL_DOWN:
        message = f"cool_down {seconds:g} s is not in 0 s to {LONGEST_COOL_DOWN:g} s (1 hour)"
        mistakes.append(Mistake(Reason.INVALID_COOL_DOWN, "cool_down", message))
    return seconds


def _ask_ttl(request: pb.AllocateRequest, mistakes: list[Mistake], *, is_pod: bool) -> float | None:
    if is_pod and request.HasField("ttl"):
        mistakes.append(Mistake(Reason.INVALID_TTL, "ttl", "ttl is set for a Pod: its ports live as long as it does"))
        return None
    try:
        return parse_ttl(request)
    except Refused as refused:
        mistakes += refused.mistakes
        return None


_kept: SizedCache[bytes, Constraints] = SizedCache(CONSTRAINTS_BYTES)


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
                expressions=tuple(_read_requirement(r) for r in term.match_expressions),
                fields=tuple(_read_requirement(r) for r in term.match_fields),
            )
            for term in constraints.required_affinity
        ),
        tolerations=tuple(
            Toleration(key=t.key, operator=t.operator or "Equal", value=t.value, effect=t.effect)
            for t in constraints.tolerations
        ),
    )


def _read_requirement(requirement: pb.NodeRequirement) -> Requirement:
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
    mistakes.append(Mistake(Reason.NUMBER_OUT_OF_RANGE, field, f"{what} is not in 1..{HIGHEST_PORT}"))


# -- out


def encode_response(
    claim: Claim,
    warnings: Sequence[PodWarning],
    remarks: Remarks = UNREMARKED,
    ahead: float = 0.0,
    *,
    asked: Constraints = ANYWHERE,
) -> bytes:
    """The serialised AllocateResponse.

    warnings: of the decision; those of the remarks follow. ahead: seconds that the wall clock is ahead of the one by
    which claims end. asked: where the owner may run by its request; the nodes that the claim excludes besides are those
    to keep it off.
    """
    response = pb.AllocateResponse()
    _write_claim(claim, response.allocation, ahead)
    for warned in (*warnings, *remarks.warnings):
        response.warnings.add(reason=warned.reason, message=warned.message[:LONGEST_WARNING])
    if claim.constraints is not asked:
        response.avoid_nodes.extend(sorted(claim.constraints.excluded - asked.excluded))
    if remarks.ephemeral is not None:
        response.has_ephemeral_ranges = True
    for low, high in remarks.ephemeral or ():
        response.ephemeral_ranges.add(min=low, max=high)
    if remarks.is_addressed:
        response.external_address = True
    return response.SerializeToString()


def to_allocation(
    claim: Claim, *, ahead: float, unplaceable: bool = False, sockets: OpenSockets | None = None
) -> pb.Allocation:
    """The claim as callers see it; `ahead` as for `encode_response`. `sockets`: what is open on the nodes."""
    allocation = pb.Allocation(unplaceable=unplaceable)
    _write_claim(claim, allocation, ahead)
    if sockets is not None and claim.is_settled and claim.node in sockets.reporting():
        for port, into in zip(claim.ports, allocation.ports, strict=True):
            into.listening = to_listening(is_listening(claim, port.key, sockets))
    return allocation


def to_listening(is_heard: bool | None) -> pb.Listening.ValueType:  # noqa: FBT001 - one of three answers
    """Whether somebody listens; None: it is not known."""
    if is_heard is None:
        return pb.LISTENING_UNSPECIFIED
    return pb.LISTENING_YES if is_heard else pb.LISTENING_NO


def _write_claim(claim: Claim, into: pb.Allocation, ahead: float) -> None:
    """Field by field: a message that is made apart is copied into its parent, which takes twice as long."""
    into.id = claim.id
    into.state = STATES[claim.state]
    write_owner(claim.owner, into.owner)
    into.node = claim.node or ""
    for port in claim.ports:
        into.ports.add(
            container=port.container,
            name=port.name,
            protocol=PROTOCOLS[port.protocol],
            container_port=port.container_port,
            host_port=port.host_port,
            host_ip=port.host_ip,
            appeared=port.appeared,
            count=port.count if port.count > 1 else 0,
        )
    write_timestamp(claim.created, into.create_time)
    if claim.expires is not None:
        write_timestamp(claim.expires + ahead, into.expire_time)
    into.external = claim.unmanaged
    if claim.own_network:
        into.own_network = True
    if claim.warnings:
        into.warnings.extend(claim.warnings.split(","))


def write_owner(owner: Owner, into: pb.Owner) -> None:
    """Writes an owner into a message that is empty."""
    into.kind = owner.kind
    into.namespace = owner.namespace
    into.name = owner.name
    into.generate_name = owner.generate_name
    into.uid = owner.uid
    into.controller_uid = owner.controller_uid
    into.description = owner.description


_KINDS = {
    ForeignKind.SERVICE: pb.ForeignHolder.KIND_SERVICE,
    ForeignKind.PROCESS: pb.ForeignHolder.KIND_PROCESS,
    ForeignKind.RESERVED: pb.ForeignHolder.KIND_RESERVED,
}


def write_foreign(holder: ForeignHolder, into: pb.ForeignHolder, *, is_disclosed: bool = True) -> None:
    """Writes a foreign holder into a message that is empty. `is_disclosed`: whether its reader may know its name."""
    into.kind = _KINDS[holder.kind]
    if is_disclosed:
        into.namespace, into.name, into.uid = holder.namespace, holder.name, holder.user or 0


def to_timestamp(seconds: float) -> Timestamp:
    """Seconds since the epoch as a message."""
    timestamp = Timestamp()
    write_timestamp(seconds, timestamp)
    return timestamp


def write_timestamp(seconds: float, into: Timestamp) -> None:
    """Writes seconds since the epoch into a message that is empty."""
    into.seconds = whole = int(seconds)
    into.nanos = int((seconds - whole) * 1e9)
