"""One allocator: a coordination Lease says who serves. Pure: what is read, what is decided, what is written.

Rules:

* The holder is a Pod's uid and a start of it. Who holds the Lease renews it every 3 seconds; who has not for 10
  answers nothing at all, neither yes nor no, until it has.
* Taken over at once: a Lease that was released, one that an earlier start of the same Pod left, one whose Pod is
  finished. One whose Pod is gone, too, but served only 10 seconds after its last sign of life: a deletion may have been
  forced while the process still runs. Else after 15 seconds in which *we* saw no renewal: no clock of another machine
  plays a part, and the holder has answered nothing for 5 of them.
* What the predecessor granted is in its journal. Without that journal a Pod that it admitted may still be on its way
  through the API server, for 34 seconds at most: we serve 36 after its last sign of life, unless it handed over in
  order, with nothing on its way. Where no Lease ever stood there is no predecessor.
* The last sign of life is the moment when we first saw the Lease as it stands. `renewTime` is for people: it tells what
  another machine's clock said, and a wrong one would have us serve while what the other admitted is on its way.
* Who hands over in order says up to which versions it had seen the cluster. A successor that has seen as much has seen
  every Pod and every lease that was granted.

`elector` is the loop around `decide`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from hostport.timestamps import rfc3339_micro, seconds_of

log = logging.getLogger(__name__)

VALID_SECONDS = 10.0
TAKEOVER_SECONDS = 15.0
UNSEEN_SECONDS = 36.0  # a create lives at most 34 s in the API server

HOLDER_POD = "hostport.io/holder-pod"
JOURNAL = "hostport.io/journal"
HANDED_OVER = "hostport.io/handed-over"
REACHED = "hostport.io/reached"


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who we are, or who somebody else is. `journal` names the journal's file for ever; empty: it has no name."""

    pod_uid: str
    start: str
    pod_name: str = ""
    journal: str = ""

    @property
    def identity(self) -> str:
        return f"{self.pod_uid}/{self.start}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRecord:
    """A Lease object, as far as it matters. `holder` is None when it was released."""

    version: str
    holder: Holder | None
    renewed: float | None = None  # by the holder's clock, for people; None: nobody ever held it
    journal: str = ""  # of the last holder, also after its release
    handed_over: bool = False
    reached: Mapping[str, int] = field(default_factory=dict)  # resourceVersions by kind, where it was handed over
    transitions: int = 0


class Fate(Enum):
    """What has become of the holder's Pod."""

    UNKNOWN = "it may live"
    FINISHED = "it is finished"
    GONE = "it is gone"


class Legacy(Enum):
    """What we have of what the last holder promised."""

    NOTHING = "nothing"
    JOURNAL = "its journal"
    EVERYTHING = "it handed over in order: all is in the cluster"


class TakeReason(Enum):
    """By what right a Lease is taken."""

    FIRST = "there was none"
    OURS = "we hold it"
    RELEASED = "it was released"
    SAME_POD = "an earlier start of this Pod held it"
    POD_FINISHED = "the holder's Pod is finished"
    POD_GONE = "the holder's Pod is gone"
    SILENT = "the holder has fallen silent"


@dataclass(frozen=True, slots=True)
class Take:
    """Write ourselves in. `serve_at`: not to serve before, in seconds of `elapsed`; 0: at once."""

    right: TakeReason
    serve_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Wait:
    """Somebody else may be serving, for so many seconds at least."""

    seconds: float


def decide(record: LeaseRecord | None, me: Holder, *, now: float, quiet: float, fate: Fate) -> Take | Wait:
    """What to do about a Lease whose present version we have seen for `quiet` seconds; `now` is by `elapsed`."""
    if record is None:
        return Take(TakeReason.FIRST)
    holder = record.holder
    if holder is not None and holder.identity == me.identity:
        return Take(TakeReason.OURS)
    right = _right(holder, me, quiet, fate)
    if right is None:
        return Wait(TAKEOVER_SECONDS - quiet)
    pause = VALID_SECONDS if right is TakeReason.POD_GONE else 0.0
    if legacy(record, me) is Legacy.NOTHING:
        pause = UNSEEN_SECONDS
    if not pause or record.renewed is None:  # None: nobody ever held it
        return Take(right)
    serve_at = now - quiet + pause
    return Take(right, serve_at if serve_at > now else 0.0)


def legacy(record: LeaseRecord | None, me: Holder) -> Legacy:
    """What the last holder left to us. One of whom nothing is known has left nothing."""
    if record is None:
        return Legacy.NOTHING
    if me.journal and record.journal == me.journal:
        return Legacy.JOURNAL  # it tells more than what was handed over
    return Legacy.EVERYTHING if record.handed_over else Legacy.NOTHING


def _right(holder: Holder | None, me: Holder, quiet: float, fate: Fate) -> TakeReason | None:
    if holder is None:
        return TakeReason.RELEASED
    if holder.pod_uid == me.pod_uid:
        return TakeReason.SAME_POD
    if fate is not Fate.UNKNOWN:
        return TakeReason.POD_FINISHED if fate is Fate.FINISHED else TakeReason.POD_GONE
    return TakeReason.SILENT if quiet >= TAKEOVER_SECONDS else None


# -- the object


def parse(obj: Any) -> LeaseRecord:
    """The record of a Lease object; what somebody else left out or wrote oddly counts as absent."""
    metadata, spec = obj.get("metadata") or {}, obj.get("spec") or {}
    notes = metadata.get("annotations") or {}
    pod_uid, _, start = (spec.get("holderIdentity") or "").partition("/")
    journal = notes.get(JOURNAL, "")
    holder = Holder(pod_uid=pod_uid, start=start, pod_name=notes.get(HOLDER_POD, ""), journal=journal)
    return LeaseRecord(
        version=metadata.get("resourceVersion", ""),
        holder=holder if pod_uid else None,
        renewed=seconds_of(spec.get("renewTime")),
        journal=journal,
        handed_over=notes.get(HANDED_OVER) == "true",
        reached=_read_versions(notes.get(REACHED, "")),
        transitions=spec.get("leaseTransitions") or 0,
    )


def render(record: LeaseRecord, *, namespace: str, name: str, now: float, acquired: float) -> dict[str, Any]:
    """The Lease object of a record, renewed now."""
    holder = record.holder
    notes = {
        JOURNAL: record.journal,
        HANDED_OVER: "true" if record.handed_over else "false",
        REACHED: json.dumps(dict(record.reached)),
    }
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": name,
            "namespace": namespace,
            **({"resourceVersion": record.version} if record.version else {}),
            "annotations": {**notes, HOLDER_POD: holder.pod_name if holder else ""},
        },
        "spec": {
            "holderIdentity": holder.identity if holder else "",
            "leaseDurationSeconds": int(TAKEOVER_SECONDS),
            "acquireTime": rfc3339_micro(acquired),
            "renewTime": rfc3339_micro(now),
            "leaseTransitions": record.transitions,
        },
    }


def _read_versions(text: str) -> dict[str, int]:
    try:
        return {str(kind): int(version) for kind, version in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError):
        return {}  # then nothing is known, and the view has to be proven


# -- the loop
