"""One review, from its bytes to the AdmissionReview that answers it. The only I/O is the `Allocate` that is handed in.

`shim.webhook` calls it with the wire behind, `shim.render` with whatever the command line names, tests with a function.

Rules:

* An answer is encoded once, here: whoever sends it only copies bytes.
* The API server shows `status.message` to whoever made the Pod, in one line of kubectl or of an Event, so the message
  carries everything: each reason, each field, what to do.
* The allocator speaks of its own proto. What the author of a Pod can do in annotations is added here alone
  (`_for_the_reader`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from hostport.contract import Mistake, PodWarning, Reason
from hostport.contract.limits import LONGEST_WARNING
from hostport.contract.words import format_run
from hostport.v1.allocator_pb2 import WHEN_FULL_PENDING, AllocatedPort, AllocateRequest, AllocateResponse
from shim.allocation_request import can_steer
from shim.annotations import ALLOCATION_ID, ALLOCATIONS, BLOCK, ENABLED, MAX_PORT, MIN_PORT, POLICY, STRIDE, WHEN_FULL
from shim.outcomes import (
    API_VERSION,
    KIND,
    About,
    Allocate,
    Op,
    Outcome,
    Refusal,
    Unreachable,
    clipped,
    quoted,
)
from shim.patch import build_patch
from shim.pods import NewPod
from shim.ports import AllocationError, brought
from shim.review import Denied, NotOurs, ToAllocate, parse_review

NEUTRAL = frozenset(
    (
        Reason.RANGE_INVERTED,
        Reason.INDEX_EXCEEDS_STRIDE,
        Reason.NUMBER_BEYOND_RANGE,
        Reason.OWN_PORTS_COLLIDE,
        Reason.PORT_RESERVED,
        Reason.RANGE_RESERVED,
        Reason.RANGE_EXHAUSTED,
        Reason.RANGE_TOO_SMALL,
        Reason.BLOCK_MISALIGNED,
    )
)
"""What a probe with a neutral range may be told about numbers that the user did not ask for."""

REMEDIES: dict[str, str] = {
    Reason.NO_INDEX: (
        "The Pod has no label apps.kubernetes.io/pod-index, no label batch.kubernetes.io/job-completion-index, and no"
        f" -<number> at the end of its name: use a StatefulSet, an Indexed Job, or {POLICY}: Dynamic"
    ),
    Reason.INDEX_EXCEEDS_STRIDE: f"{STRIDE} sets the stride",
    Reason.NUMBER_BEYOND_RANGE: f"{MIN_PORT} sets range.min, {MAX_PORT} range.max, {STRIDE} stride",
    Reason.PORT_RESERVED: f"{MIN_PORT} sets range.min",
    Reason.RANGE_RESERVED: f"{MIN_PORT} and {MAX_PORT} set the range",
    Reason.RANGE_EXHAUSTED: f"{MIN_PORT} and {MAX_PORT} set the range",
    Reason.RANGE_TOO_SMALL: f"{MIN_PORT} and {MAX_PORT} set the range, {BLOCK}<port> the size of the block",
    Reason.BLOCK_MISALIGNED: f"{BLOCK}<port> says even",
}
"""What the author of a Pod can do, in the words of annotations: the allocator knows the words of its proto only."""

OF_THE_RANGE = frozenset({Reason.NUMBER_BEYOND_RANGE, Reason.PORT_RESERVED})
"""Refusals whose remedy is the range, but for a port whose number its author wrote."""

ROOM = frozenset({Reason.RANGE_EXHAUSTED, Reason.PORT_CONFLICT})
"""Refusals that end when somebody goes or a node comes."""

INDEXED = frozenset(
    (
        Reason.INDEX_EXCEEDS_STRIDE,
        Reason.NUMBER_BEYOND_RANGE,
        Reason.PORT_RESERVED,
        Reason.OWN_PORTS_COLLIDE,
        Reason.PORT_CONFLICT,
        Reason.HELD_BY_SERVICE,
        Reason.BLOCK_MISALIGNED,
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
OF_A_BLOCK = frozenset({"count", "alignment"})
"""Fields of the request by what the user wrote, if anything; a port is found by its position."""


MOST_SHOWN = 20
"""Mistakes in one message: a Pod may have hundreds of ports, and an Event 1,024 characters."""


class AdmissionAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What goes back with HTTP 200, and what the log and the metrics say of it."""

    body: bytes  # the AdmissionReview, as it is sent
    about: About
    result: str  # "untouched", "patched" or "denied"
    reason: str = ""
    detail: str = ""
    allocation_id: str = ""
    numbers: tuple[int | str, ...] = ()  # a block as "20000-20099"
    ops: tuple[Op, ...] = ()
    warnings: tuple[PodWarning, ...] = ()
    asked: AllocateRequest | None = None  # what was granted: it names the Pod's owner


async def admit(
    body: bytes, allocate: Allocate, *, probe: Allocate, own_network: bool = False, steers: bool = False
) -> AdmissionAnswer | Unreachable:
    """Answers a review.

    own_network: whether a Pod that does not say keeps a network of its own. steers: whether Pods are kept off nodes
    where somebody holds their numbers whom the scheduler does not know.

    A Pod that is denied anyway is worth little waiting: `probe` is asked, with less patience than `allocate`, what
    the allocator would find wrong besides.

    Raises:
        ReviewError: the body cannot be answered at all.

    """
    match parse_review(body, own_network=own_network):
        case NotOurs() as left_alone:
            return _untouched(left_alone)
        case Denied() as found:
            return _denied_answer(found.about, await _with_allocators_words(found, probe))
        case ToAllocate() as ask:
            ask.request.can_steer = steers and can_steer(ask.pod, ask.patch_size)
            return _settled(ask, await allocate(ask.request))


def _untouched(found: NotOurs) -> AdmissionAnswer:
    return AdmissionAnswer(
        body=allowed(found.about.request_id, warnings=found.warnings),
        about=found.about,
        result="untouched",
        detail=found.why,
        warnings=found.warnings,
    )


def _settled(ask: ToAllocate, outcome: Outcome) -> AdmissionAnswer | Unreachable:
    match outcome:
        case Unreachable():
            return replace(outcome, about=ask.about)
        case Refusal(code, mistakes):
            waits = ask.request.when_full == WHEN_FULL_PENDING
            return _denied_answer(
                ask.about, Refusal(code, _in_users_words(mistakes, ask.pod, ask.index_from, waits=waits))
            )
        case response:
            return _patched(ask, response)


def _patched(ask: ToAllocate, response: AllocateResponse) -> AdmissionAnswer | Unreachable:
    try:
        ops, warnings = build_patch(ask.pod, response, ask.options)
    except AllocationError as error:
        return Unreachable(Reason.ALLOCATOR_UNREACHABLE, f"the allocator's answer does not fit: {error}", ask.about)
    allocation = response.allocation
    return AdmissionAnswer(
        body=allowed(ask.about.request_id, ops=ops, warnings=warnings, allocation_id=allocation.id),
        about=ask.about,
        result="patched",
        allocation_id=allocation.id,
        numbers=tuple([_numbers_of(port) for port in allocation.ports]),
        ops=tuple(ops),
        warnings=warnings,
        asked=ask.request,
    )


def _numbers_of(port: AllocatedPort) -> int | str:
    """A port's number; of a block the first and the last, as text."""
    return port.host_port if port.count <= 1 else format_run(port.host_port, port.count)


def _denied_answer(about: About, refused: Refusal) -> AdmissionAnswer:
    message = denial_message(refused.mistakes)
    return AdmissionAnswer(
        body=denied(about.request_id, code=refused.code, mistakes=refused.mistakes, message=message),
        about=about,
        result="denied",
        reason=refused.mistakes[0].reason,
        detail=message,
    )


async def _with_allocators_words(found: Denied, probe: Allocate) -> Refusal:
    outcome = await probe(found.probe) if found.probe else None
    if not isinstance(outcome, Refusal) or outcome.code != 422:
        return Refusal(422, found.mistakes)
    told = [each for each in outcome.mistakes if not (found.is_neutral and each.reason in NEUTRAL)]
    return Refusal(422, (*found.mistakes, *(_in_users_words(told, found.pod, found.index_from) if found.pod else ())))


def _in_users_words(
    mistakes: list[Mistake] | tuple[Mistake, ...], pod: NewPod, index_from: str, *, waits: bool = True
) -> tuple[Mistake, ...]:
    return tuple(
        Mistake(
            each.reason,
            users_field(each.field, pod),
            each.message + _for_the_reader(each, pod, index_from, waits=waits),
        )
        for each in mistakes
    )


def _for_the_reader(mistake: Mistake, pod: NewPod, index_from: str, *, waits: bool) -> str:
    """What only the shim knows to say: it alone has read the annotations, and where the Pod comes from."""
    reason = mistake.reason
    is_named = reason in OF_THE_RANGE and mistake.field.startswith("ports[")
    said = f". {REMEDIES[reason]}" if reason in REMEDIES and not is_named else ""
    if reason in ROOM and not waits:
        said += f'. {WHEN_FULL}: "Pending" lets the Pod wait and start when there is room'
    is_authors = mistake.field.endswith(".host_port")
    if reason in INDEXED and index_from == "metadata.name" and not is_authors:
        said += f". The index is the end of metadata.name, {quoted(pod.name)}: it may be there by chance"
    lacks = ""
    if reason == Reason.NO_INDEX and (ALLOCATIONS in pod.annotations or ALLOCATION_ID in pod.annotations):
        lacks = "index"
    if reason == Reason.PORT_CONFLICT and _brings_its_numbers(pod):
        lacks = "number"
    if lacks:
        said += (
            f". The Pod is a copy or was restored (kubectl debug --copy-to, a backup), and has no {lacks} of its own:"
            f" set {POLICY}: Dynamic in it, or leave out {ENABLED}"
        )
    return said


def _brings_its_numbers(pod: NewPod) -> bool:
    """Whether all numbers of a Pod are those of a table that it brings: what appears between two questions is not."""
    former = brought(pod)
    return bool(former) and all(
        (port.container, port.name, port.protocol, port.host_port or port.container_port) in former
        for port in pod.ports
    )


def users_field(field: str, pod: NewPod) -> str:
    """The user's name of a field of the request: `ports[1].host_port` is a line of the manifest."""
    port = re.fullmatch(r"ports\[([0-9]{1,4})\](?:\.(\w+))?", field)
    if not port or int(port[1]) >= len(pod.ports):
        return FIELDS.get(field, field)
    if port[2] in OF_A_BLOCK:
        asked = pod.ports[int(port[1])]
        return f"annotation {BLOCK}{asked.name or asked.container_port}"
    leaf = {"container_port": ".containerPort", "host_port": ".hostPort", "host_ip": ".hostIP"}
    return pod.ports[int(port[1])].path + leaf.get(port[2] or "", f".{port[2]}" if port[2] else "")


class _Response(msgspec.Struct, rename="camel", omit_defaults=True):
    """The `response` of an AdmissionReview. The encoder writes bytes as base64, so that a patch is copied once."""

    uid: str
    allowed: bool
    status: dict[str, Any] | None = None
    patch_type: str = ""
    patch: bytes = b""
    warnings: list[str] = []
    audit_annotations: dict[str, str] = {}


_encode = msgspec.json.Encoder().encode


def allowed(uid: str, *, ops: Sequence[Op] = (), warnings: Sequence[PodWarning] = (), allocation_id: str = "") -> bytes:
    """The AdmissionReview that admits a Pod, as JSON: with a patch where there are operations."""
    audit = {"allocation-id": allocation_id} if allocation_id else {}
    if warnings:
        audit["warnings"] = ",".join(dict.fromkeys([each.reason for each in warnings]))
    return _review(
        _Response(
            uid=uid,
            allowed=True,
            patch_type="JSONPatch" if ops else "",
            patch=_encode(ops) if ops else b"",
            warnings=[warning_text(each) for each in warnings],
            audit_annotations=audit,
        )
    )


def denied(uid: str, *, code: int, mistakes: Sequence[Mistake], message: str) -> bytes:
    """The AdmissionReview that denies a Pod, as JSON. There is at least one mistake; the first gives the reason."""
    reason = mistakes[0].reason
    status = {"status": "Failure", "code": code, "reason": reason, "message": message}
    return _review(_Response(uid=uid, allowed=False, status=status, audit_annotations={"reason": reason}))


def _review(response: _Response) -> bytes:
    return _encode({"apiVersion": API_VERSION, "kind": KIND, "response": response}) + b"\n"


def denial_message(mistakes: Sequence[Mistake]) -> str:
    """The sentence of a denial, of at least one mistake: each with its reason and its field, `MOST_SHOWN` at most."""
    if len(mistakes) == 1:
        return str(mistakes[0])
    shown = "; ".join(f"({at}) {each}" for at, each in enumerate(mistakes[:MOST_SHOWN], start=1))
    more = len(mistakes) - MOST_SHOWN
    return f"{len(mistakes)} mistakes: {shown}" + (f"; and {more} more" if more > 0 else "")


def failure(code: int, reason: str, message: str) -> bytes:
    """The body of an HTTP error: a Status, as the API server itself would send."""
    status = {"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason}
    return _encode({**status, "message": f"{reason}: {message}"}) + b"\n"


def warning_text(warning: PodWarning) -> str:
    """A warning as the API server shows it: its word and its sentence, not too long."""
    said = f"{warning.reason}: {warning.message}"
    return said if len(said) <= LONGEST_WARNING else clipped(said, LONGEST_WARNING)
