"""One review, from its bytes to its answer. The only I/O is the `Allocate` that is handed in.

`shim.desk` calls it with the wire behind, `shim.render` with whatever the command line names, tests with a function.
"""

from __future__ import annotations

import re

import msgspec
from msgspec.structs import replace

from hostport.contract import Reason
from hostport.v1.allocator_pb2 import WHEN_FULL_PENDING, AllocateRequest, AllocateResponse
from shim import answers
from shim.held import AllocationError
from shim.outcomes import About, Allocate, Mistake, Refused, Remark, Unreachable, quoted
from shim.patch import build_patch
from shim.pods import Pod
from shim.pointers import Op
from shim.review import Ask, Denied, NotOurs, parse_review
from shim.settings import ALLOCATION_ID, ALLOCATIONS, ENABLED, MAX_PORT, MIN_PORT, POLICY, STRIDE, WHEN_FULL

NEUTRAL = frozenset(
    reason.name
    for reason in (
        Reason.RANGE_INVERTED,
        Reason.INDEX_EXCEEDS_STRIDE,
        Reason.NUMBER_BEYOND_RANGE,
        Reason.OWN_PORTS_COLLIDE,
        Reason.PORT_RESERVED,
        Reason.RANGE_RESERVED,
        Reason.RANGE_EXHAUSTED,
    )
)
"""What a probe with a neutral range may be told about numbers that the user did not ask for."""

ROOM = frozenset({Reason.RANGE_EXHAUSTED.name, Reason.PORT_CONFLICT.name})
"""Refusals that end when somebody goes or a node comes."""

INDEXED = frozenset(
    reason.name
    for reason in (
        Reason.INDEX_EXCEEDS_STRIDE,
        Reason.NUMBER_BEYOND_RANGE,
        Reason.PORT_RESERVED,
        Reason.OWN_PORTS_COLLIDE,
        Reason.PORT_CONFLICT,
    )
)
"""Refusals of a number that an index makes."""

FIELDS = {
    "range": f"annotations {MIN_PORT}, {MAX_PORT}",
    "range.min": f"annotation {MIN_PORT}",
    "range.max": f"annotation {MAX_PORT}",
    "stride": f"annotation {STRIDE}",
    "index": "metadata.name",
    "ports": "",
}
"""Fields of the request by what the user wrote, if anything; a port is found by its position."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What goes back with HTTP 200, and what the log and the metrics say of it."""

    review: answers.Review
    about: About
    result: str  # "untouched", "patched" or "denied"
    reason: str = ""
    detail: str = ""
    allocation_id: str = ""
    numbers: tuple[int, ...] = ()
    ops: tuple[Op, ...] = ()
    warnings: tuple[Remark, ...] = ()
    asked: AllocateRequest | None = None  # what was granted: it names the Pod's owner


async def admit(body: bytes, allocate: Allocate, *, probe: Allocate, own_network: bool = False) -> Answer | Unreachable:
    """Answers a review. `own_network`: whether a Pod that does not say keeps a network of its own.

    A Pod that is denied anyway is worth little waiting: `probe` is asked, with less patience than `allocate`, what
    the allocator would find wrong besides.

    Raises:
        ReviewError: the body cannot be answered at all.

    """
    match parse_review(body, own_network=own_network):
        case NotOurs() as left_alone:
            return _untouched(left_alone)
        case Denied() as found:
            return _denied(found.about, await _with_allocators_words(found, probe))
        case Ask() as ask:
            return _settled(ask, await allocate(ask.request))


def _untouched(found: NotOurs) -> Answer:
    return Answer(
        review=answers.allowed(found.about.request_id, warnings=found.warnings),
        about=found.about,
        result="untouched",
        detail=found.why,
        warnings=found.warnings,
    )


def _settled(ask: Ask, outcome: AllocateResponse | Refused | Unreachable) -> Answer | Unreachable:
    match outcome:
        case Unreachable():
            return replace(outcome, about=ask.about)
        case Refused(code, mistakes):
            waits = ask.request.when_full == WHEN_FULL_PENDING
            return _denied(ask.about, Refused(code, _in_users_words(mistakes, ask.pod, ask.index_from, waits=waits)))
        case response:
            return _patched(ask, response)


def _patched(ask: Ask, response: AllocateResponse) -> Answer | Unreachable:
    try:
        ops, warnings = build_patch(ask.pod, response, ask.options)
    except AllocationError as error:
        return Unreachable(
            Reason.ALLOCATOR_UNREACHABLE.name, f"the allocator's answer does not fit: {error}", ask.about
        )
    allocation = response.allocation
    return Answer(
        review=answers.allowed(ask.about.request_id, ops=ops, warnings=warnings, allocation_id=allocation.id),
        about=ask.about,
        result="patched",
        allocation_id=allocation.id,
        numbers=tuple(port.host_port for port in allocation.ports),
        ops=tuple(ops),
        warnings=warnings,
        asked=ask.request,
    )


def _denied(about: About, refused: Refused) -> Answer:
    return Answer(
        review=answers.denied(about.request_id, code=refused.code, mistakes=refused.mistakes),
        about=about,
        result="denied",
        reason=refused.mistakes[0].reason,
        detail=answers.denial_message(refused.mistakes),
    )


async def _with_allocators_words(found: Denied, probe: Allocate) -> Refused:
    outcome = await probe(found.probe) if found.probe else None
    if not isinstance(outcome, Refused) or outcome.code != 422:
        return Refused(422, found.mistakes)
    told = [each for each in outcome.mistakes if not (found.is_neutral and each.reason in NEUTRAL)]
    return Refused(422, (*found.mistakes, *(_in_users_words(told, found.pod, found.index_from) if found.pod else ())))


def _in_users_words(
    mistakes: list[Mistake] | tuple[Mistake, ...], pod: Pod, index_from: str, *, waits: bool = True
) -> tuple[Mistake, ...]:
    return tuple(
        Mistake(
            each.reason,
            users_field(each.field, pod),
            each.message + _for_the_reader(each.reason, pod, index_from, waits=waits),
        )
        for each in mistakes
    )


def _for_the_reader(reason: str, pod: Pod, index_from: str, *, waits: bool) -> str:
    """What only the shim knows to say: it alone has read the annotations, and where the Pod comes from."""
    said = ""
    if reason in ROOM and not waits:
        said += f'. {WHEN_FULL}: "Pending" lets the Pod wait and start when there is room'
    if reason in INDEXED and index_from == "metadata.name":
        said += f". The index is the end of metadata.name, {quoted(pod.name)}: it may be there by chance"
    if reason == Reason.NO_INDEX.name and (ALLOCATIONS in pod.annotations or ALLOCATION_ID in pod.annotations):
        said += (
            ". The Pod is a copy or was restored (kubectl debug --copy-to, a backup), and has no index of its own: set"
            f" {POLICY}: Dynamic in it, or leave out {ENABLED}"
        )
    return said


def users_field(field: str, pod: Pod) -> str:
    """The user's name of a field of the request: `ports[1].host_port` is a line of the manifest."""
    port = re.fullmatch(r"ports\[([0-9]{1,4})\](?:\.(\w+))?", field)
    if not port or int(port[1]) >= len(pod.ports):
        return FIELDS.get(field, field)
    leaf = {"container_port": ".containerPort", "host_port": ".hostPort", "host_ip": ".hostIP"}
    return pod.ports[int(port[1])].path + leaf.get(port[2] or "", f".{port[2]}" if port[2] else "")
