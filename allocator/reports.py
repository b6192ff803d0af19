"""What people are told: incidents and denials as log lines and Kubernetes Events. Nothing is decided here.

The log names everybody. An Event is read by whoever may look at the Pod, so that it names a holder of another namespace
only where the operator allows that, as a denial does.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

from allocator.cluster.correlator import ObjectEvent, Subject
from allocator.core.asks import Refused
from allocator.core.claims import Claim, ClaimPort, RejectedBy
from allocator.core.foreign import ForeignHolder, words_of
from allocator.core.ports import PortKey
from allocator.core.watch.listening import NoListener, SilentPort
from allocator.core.watch.replanner import Incident, IncidentKind
from hostport.contract import Mistake, Notice, Reason
from hostport.contract.limits import LONGEST_NAME
from hostport.logs import log_event
from hostport.v1 import allocator_pb2 as pb

log = logging.getLogger(__name__)

SHOWN_HOLDERS = 3
MOST_TOLD = 20
"""Mistakes of one ask. An Event has room for fewer."""

MOST_WARNINGS = 32
"""Of one report: there are not so many words."""

WORD = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
OF_CALLERS = {Reason.UNAUTHENTICATED, Reason.PERMISSION_DENIED}
SILENT = "this Pod has been Ready for a minute, and on node {node} nobody listens on"
IGNORES = (Notice.PORT_MOVED, Notice.OLD_NUMBER)
"""Warnings of a program that may not know its number."""

ACTIONS = {
    IncidentKind.UNPLACEABLE: "Plan",
    IncidentKind.CONFLICT: "Observe",
    IncidentKind.EXTERNAL_CONFLICT: "Observe",
    IncidentKind.NOT_LISTENING: "Observe",
    IncidentKind.NODE_PORT_CONFLICT: "Observe",
    IncidentKind.PORTS_REFUSED: "Observe",
    IncidentKind.BLOCK_SHRUNK: "Observe",
}


def nobody(_: ObjectEvent) -> None:
    """Where there is no cluster there are no Events."""


class Reports:
    """See the module. `event` must return at once."""

    def __init__(self, *, discloses_holders: bool, event: Callable[[ObjectEvent], None] = nobody) -> None:
        self._discloses_holders = discloses_holders
        self._event = event

    def incident(self, incident: Incident) -> None:
        """Writes a line of the log that names everybody, and an Event for each Pod that is concerned."""
        claim = incident.claim
        log_event(
            log,
            incident.kind.value,
            logging.WARNING,
            allocation_id=claim.id,
            owner=str(claim.owner),
            node=claim.node,
            ports=[str(key) for key in claim.keys],
            holders=[f"{other.owner} ({other.id})" for other in incident.others]
            + [words_of(holder, asker="", discloses=True) for _, holder in incident.foreign],
            says=incident.rejection.by.value if incident.rejection else "",
            explanation=_sentence(incident, claim, _claim_text),
        )
        for key, holder in incident.foreign:
            self._tell_service(claim, key, holder)
        for one in (claim, *incident.others):
            self._tell_pod(incident, one)

    def _tell_pod(self, incident: Incident, one: Claim) -> None:
        """Pods that exist and are ours. A refusal, or a place that is missing, is news for its own Pod alone."""
        if one.unmanaged or one.pod_uid is None or (one is not incident.claim and not _concerns_all(incident)):
            return
        owner = one.owner
        subject = Subject(
            api_version="v1", kind="Pod", namespace=owner.namespace, name=owner.name, uid=str(one.pod_uid)
        )
        kind = incident.kind
        for key, holder in incident.foreign:
            self._event(_node_port_event(key, holder, subject, self._of_pod(key, holder, owner.namespace)))
        if incident.foreign:
            return
        note = _sentence(incident, one, lambda other: self._disclosed(other, owner.namespace))
        once = "NOT_LISTENING" if kind is IncidentKind.NOT_LISTENING else ""  # told once for each Pod
        self._event(ObjectEvent(subject=subject, reason=kind.value, action=ACTIONS[kind], note=note, kind=once))

    def _of_pod(self, key: PortKey, holder: ForeignHolder, asker: str) -> str:
        """What a Pod is told of a Service that holds one of its numbers."""
        who = words_of(holder, asker=asker, discloses=self._discloses_holders)
        return (
            f"{key} of this Pod is held by {who} as well: on every node kube-proxy takes what is sent to it, and the"
            " Pod gets none of it. Give the Service another node port, or the Pod another number"
        )

    def _tell_service(self, claim: Claim, key: PortKey, holder: ForeignHolder) -> None:
        """An Event of a Service that holds the number of a claim."""
        subject = Subject(
            api_version="v1", kind="Service", namespace=holder.namespace, name=holder.name, uid=holder.uid
        )
        where = f" on node {claim.node}" if claim.node else ""
        note = (
            f"node port {key.number}/{key.protocol.value} is the host port of"
            f" {self._disclosed(claim, holder.namespace)}{where} as well, which gets nothing of what is sent to it."
            " Choose another node port"
        )
        self._event(_node_port_event(key, holder, subject, note))

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
        subject = _subject_of_owner(owner.namespace, made_by, owner.controller_uid)
        if request.dry_run or owner.kind != "Pod" or subject is None:
            return
        told = (f"{mistake.reason}: {mistake.message}" for mistake in refused.mistakes[:MOST_TOLD])
        note = "; ".join(told)
        self._event(ObjectEvent(subject=subject, reason="Denied", action="Allocate", note=note))

    def warned(self, request: pb.ReportWarningsRequest) -> None:
        """Events of the owner: one for each word.

        Raises:
            Refused: nobody is named, or something is no warning.

        """
        if len(request.warnings) > MOST_WARNINGS:
            message = f"{len(request.warnings)} warnings are more than {MOST_WARNINGS}: tell each word once"
            raise Refused(Mistake(Reason.INVALID_REQUEST, "warnings", message))
        subject = _subject_of_owner(request.namespace, request.controller, request.controller_uid)
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
        self._event(ObjectEvent(subject=subject, reason="Warned", action="Admit", note=f"{word}: {message}", kind=word))


def _subject_of_owner(namespace: str, made_by: pb.Controller, uid: str) -> Subject | None:
    """Whom an Event is about; None where nothing is called that: it would be remembered."""
    names = (made_by.api_version, made_by.kind, made_by.name, namespace, uid)
    if max(map(len, names)) > LONGEST_NAME or not all((namespace, made_by.kind, made_by.name, uid)):
        return None
    return Subject(api_version=made_by.api_version, kind=made_by.kind, namespace=namespace, name=made_by.name, uid=uid)


def _concerns_all(incident: Incident) -> bool:
    return incident.kind in {IncidentKind.CONFLICT, IncidentKind.EXTERNAL_CONFLICT}


def _node_port_event(key: PortKey, holder: ForeignHolder, subject: Subject, note: str) -> ObjectEvent:
    """An Event of a node port that is told to an object once, whichever allocator tells it."""
    kind = f"{key.number}/{key.protocol.value} {holder.uid}"
    return ObjectEvent(
        subject=subject, reason=IncidentKind.NODE_PORT_CONFLICT.value, action="Observe", note=note, kind=kind
    )


def _claim_text(claim: Claim) -> str:
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
                f"{ports} of this Pod is free on none of the nodes where it may run: another Pod or a process"
                " took the last one. It has no place until there is room; free a port, or add a node"
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
        case IncidentKind.NOT_LISTENING:
            return f"{SILENT.format(node=one.node)}: {'; '.join(silence(each, one) for each in incident.silent)}"
        case IncidentKind.BLOCK_SHRUNK:
            return (
                f"another webhook took some numbers of a block away after they were given: {ports} is held. The"
                " program was told of all of them; look for what changes the Pod's ports"
            )
        case IncidentKind.NODE_PORT_CONFLICT:
            return "kube-proxy takes what is sent to a node port on every node, before any program does"
        case IncidentKind.PORTS_REFUSED:
            return f"{_verdict(incident, one)} {ports}: {_whom(holders + more)}"


def silence(silent: SilentPort, claim: Claim) -> str:
    """What is known of a port on which nobody listens, and what helps."""
    port = silent.port
    key, variable = f"{port.key.number}/{port.protocol.value}", variable_of(port)
    match silent.why:
        case NoListener.CONTAINER_PORT:
            return (
                f"{key}, but {port.container_port}, its containerPort before, is open there and is nobody else's"
                f" number: the program seems to ignore its number. Let it listen on {variable}, or try"
                " hostport.io/rewrite, hostport.io/publish-<port name> or hostport.io/network: Pod"
            )
        case NoListener.OTHER_ADDRESS:
            where = ", ".join(silent.addresses[:SHOWN_HOLDERS])
            return f"{key}, which is open on {where} alone: let the program listen on {port.host_ip or 'every address'}"
        case NoListener.OTHER_PROTOCOL:
            other = silent.protocol.value if silent.protocol else ""
            return f"{key}, which is open for {other}: declare the protocol that the program uses"
        case NoListener.NOTHING:
            said = [word for word in claim.warnings.split(",") if word in IGNORES]
            because = f" ({', '.join(said)} at its admission)" if said else ""
            return f"{key}: does the program read {variable}{because}? Its log says what it listens on"


def variable_of(port: ClaimPort) -> str:
    """The variable that tells a program its number."""
    return f"HOSTPORT_{(port.name or str(port.container_port)).upper().replace('-', '_')}"


def _verdict(incident: Incident, one: Claim) -> str:
    if incident.rejection is not None and incident.rejection.by is RejectedBy.SCHEDULER:
        return "the scheduler finds no node free for"
    return f"the kubelet of node {one.node} refused this Pod for want of"


def _whom(holders: str) -> str:
    if holders:
        return f"held there by {holders}"
    return "nobody holds it there as far as the HostPort Operator can see"
