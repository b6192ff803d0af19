"""What people are told: incidents and denials as log lines and Kubernetes Events. Nothing is decided here.

The log names everybody. An Event is read by whoever may look at the Pod, so that it names a holder of another namespace
only where the operator allows that, as a denial does.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

from allocator.cluster.happenings import Happening, Subject
from allocator.core.asks import Mistake, Refused
from allocator.core.claims import Claim
from allocator.core.pods import Judge
from allocator.core.upkeep import Incident, IncidentKind
from hostport.bounds import LONGEST_NAME
from hostport.contract import Reason
from hostport.logs import tell
from hostport.v1 import allocator_pb2 as pb

log = logging.getLogger(__name__)

SHOWN_HOLDERS = 3
MOST_TOLD = 20
"""Mistakes of one ask. An Event has room for fewer."""

MOST_WARNINGS = 32
"""Of one report: there are not so many words."""

WORD = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
OF_CALLERS = {Reason.UNAUTHENTICATED, Reason.PERMISSION_DENIED}
ACTIONS = {
    IncidentKind.UNPLACEABLE: "Plan",
    IncidentKind.CONFLICT: "Observe",
    IncidentKind.EXTERNAL_CONFLICT: "Observe",
    IncidentKind.PORTS_REFUSED: "Observe",
}


def nobody(_: Happening) -> None:
    """Where there is no cluster there are no Events."""


class Reports:
    """See the module. `event` must return at once."""

    def __init__(self, *, discloses_holders: bool, event: Callable[[Happening], None] = nobody) -> None:
        self._discloses_holders = discloses_holders
        self._event = event

    def incident(self, incident: Incident) -> None:
        claim = incident.claim
        tell(
            log,
            incident.kind.value,
            logging.WARNING,
            allocation_id=claim.id,
            owner=str(claim.owner),
            node=claim.node,
            ports=[str(key) for key in claim.keys],
            holders=[f"{other.owner} ({other.id})" for other in incident.others],
            says=incident.verdict.by.value if incident.verdict else "",
            explanation=_sentence(incident, claim, _named),
        )
        for one in (claim, *incident.others):
            self._tell_pod(incident, one)

    def _tell_pod(self, incident: Incident, one: Claim) -> None:
        """Pods that exist and are ours. A refusal, or a place that is missing, is news for its own Pod alone."""
        if one.external or one.pod_uid is None or (one is not incident.claim and not _concerns_all(incident)):
            return
        owner = one.owner
        subject = Subject(
            api_version="v1", kind="Pod", namespace=owner.namespace, name=owner.name, uid=str(one.pod_uid)
        )
        note = _sentence(incident, one, lambda other: self._disclosed(other, owner.namespace))
        kind = incident.kind
        self._event(Happening(subject=subject, reason=kind.value, action=ACTIONS[kind], note=note))

    def _disclosed(self, other: Claim, namespace: str) -> str:
        owner = other.owner
        if self._discloses_holders or not owner.namespace or owner.namespace == namespace:
            return str(owner)
        return "a Pod of another namespace" if owner.is_pod else "a lease of another namespace"

    def denied(self, request: pb.AllocateRequest, refused: Refused) -> None:
        """An Event of the owner that made the Pod; the Pod itself does not exist."""
        owner, made_by = request.owner, request.controller
        if refused.mistakes[0].reason in OF_CALLERS:  # no shim asked: whoever did gets no Event written
            return
        subject = _owner(owner.namespace, made_by, owner.controller_uid)
        if request.dry_run or owner.kind != "Pod" or subject is None:
            return
        told = (f"{mistake.reason.name}: {mistake.message}" for mistake in refused.mistakes[:MOST_TOLD])
        note = "; ".join(told)
        self._event(Happening(subject=subject, reason="Denied", action="Allocate", note=note))

    def warned(self, request: pb.ReportWarningsRequest) -> None:
        """Events of the owner: one for each word.

        Raises:
            Refused: nobody is named, or something is no warning.

        """
        if len(request.warnings) > MOST_WARNINGS:
            message = f"{len(request.warnings)} warnings are more than {MOST_WARNINGS}: tell each word once"
            raise Refused(Mistake(Reason.INVALID_REQUEST, "warnings", message))
        subject = _owner(request.namespace, request.controller, request.controller_uid)
        if subject is None:
            message = f"a controller has namespace, kind, name and uid, each of at most {LONGEST_NAME} characters"
            raise Refused(Mistake(Reason.INVALID_REQUEST, "controller", message))
        for warning in request.warnings:
            if not WORD.fullmatch(warning.reason):  # it need not be one that we know: the shim may be newer
                message = f"{warning.reason[:64]!r} is no word: write UPPER_SNAKE, at most 64 characters"
                raise Refused(Mistake(Reason.INVALID_REQUEST, "warnings", message))
        for warning in request.warnings:
            self.tell_owner(subject, warning.reason, warning.message)

    def tell_owner(self, subject: Subject, word: str, message: str) -> None:
        """Tells an owner of a kind of warning, once."""
        self._event(Happening(subject=subject, reason="Warned", action="Admit", note=f"{word}: {message}", kind=word))


def _owner(namespace: str, made_by: pb.Controller, uid: str) -> Subject | None:
    """Whom an Event is about; None where nothing is called that: it would be remembered."""
    names = (made_by.api_version, made_by.kind, made_by.name, namespace, uid)
    if max(map(len, names)) > LONGEST_NAME or not all((namespace, made_by.kind, made_by.name, uid)):
        return None
    return Subject(api_version=made_by.api_version, kind=made_by.kind, namespace=namespace, name=made_by.name, uid=uid)


def _concerns_all(incident: Incident) -> bool:
    return incident.kind in {IncidentKind.CONFLICT, IncidentKind.EXTERNAL_CONFLICT}


def _named(claim: Claim) -> str:
    return f"{claim.owner} ({claim.id})"


def _sentence(incident: Incident, one: Claim, name: Callable[[Claim], str]) -> str:
    """What happened, as it is told to one of those who are concerned."""
    everybody = (incident.claim, *incident.others)
    others = [other for other in everybody if other is not one]
    keys = [key for key in one.keys if not others or any(key.conflicts_with(k) for other in others for k in other.keys)]
    ports = ", ".join(str(key) for key in keys or one.keys)
    holders = ", ".join(name(other) for other in others[:SHOWN_HOLDERS])
    more = f" and {len(others) - SHOWN_HOLDERS} more" if len(others) > SHOWN_HOLDERS else ""
    match incident.kind:
        case IncidentKind.UNPLACEABLE:
            return (
                f"{ports} of this Pod is free on none of the nodes where it may run: the last one went to another Pod."
                " It stays Pending until there is room; free a port, or add a node"
            )
        case IncidentKind.CONFLICT:
            return (
                f"{ports} on node {one.node} is held by {holders}{more} as well, both granted by the HostPort Operator:"
                " one of them chose its node by nodeName, or came back with its node. Delete one"
            )
        case IncidentKind.EXTERNAL_CONFLICT:
            return (
                f"{ports} on node {one.node} is held by {holders}{more} as well, and one of them did not ask the"
                " HostPort Operator: the program that binds it second fails. Move one of them"
            )
        case IncidentKind.PORTS_REFUSED:
            return f"{_judge(incident, one)} {ports}: {_whom(holders + more)}"


def _judge(incident: Incident, one: Claim) -> str:
    if incident.verdict is not None and incident.verdict.by is Judge.SCHEDULER:
        return "the scheduler finds no node free for"
    return f"the kubelet of node {one.node} refused this Pod for want of"


def _whom(holders: str) -> str:
    if holders:
        return f"held there by {holders}"
    return "nobody holds it there as far as the HostPort Operator can see"
