"""A lease ↔ its PortLease object. Pure.

Rules:

* Only `status` counts, which nobody but the allocator may write. An object without a `status.node` holds nothing:
  somebody made it by hand, or we died before we had granted it.
* `spec` says for whom, and cannot be changed; that of a granted object is what we wrote.
* How long a lease lasts is stored as time: `status.secondsLeft` is what was left of it when the object was last
  written, `status.ttlSeconds` the longest time that it was ever granted or renewed for. Both are rounded up.
* `status.expires` is for people: when the lease ends, by the wall clock of who wrote it. Nothing is reckoned from it,
  since another machine's clock may tell another time. What a renewal changes lags behind it (see `reconciler`).
* An object that is being deleted holds nothing any more, whatever finalizers keep it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Any, Final
from urllib.parse import quote

import msgspec

from allocator.cluster.decoding import JsonDecoder
from allocator.cluster.projection import Metadata, Sketch
from allocator.core.candidates import NodeName
from allocator.core.claims import CLAIM_WEIGHT, Claim, ClaimId, ClaimPort, Owner, State
from allocator.core.ports import Protocol
from allocator.journal.contract import Answer
from hostport.timestamps import rfc3339

API: Final = "/apis/hostport.io/v1alpha1"
GRANTED: Final = "Granted"
LONGEST_STEM = 40
ID_DIGITS = 10


class _Fields(msgspec.Struct, rename="camel", omit_defaults=True):
    """A part of the object; what is empty is left out."""


class _Owner(_Fields):
    kind: str
    name: str = ""
    uid: str = ""
    description: str = ""


class _Spec(_Fields):
    owner: _Owner
    allocation_id: str = msgspec.field(name="allocationID")


class _Port(_Fields):
    protocol: Protocol
    host_port: int
    name: str = ""
    container: str = ""
    container_port: int = 0
    host_ip: str = msgspec.field(default="", name="hostIP")
    count: int = 1


class _Range(_Fields):
    min: int
    max: int


class _Request(_Fields):
    id: str
    digest: bytes
    answer: bytes


class _Condition(_Fields):
    type: str
    status: str
    reason: str
    message: str
    last_transition_time: datetime


class _Status(_Fields):
    node: str = ""
    ports: list[_Port] = []
    port_summary: str = ""
    expires: datetime | None = None
    seconds_left: int = 0
    ttl_seconds: int = 0
    range: _Range | None = None
    request: _Request | None = None
    conditions: list[_Condition] = []


class _Metadata(Metadata):
    creation_timestamp: datetime | None = None
    deletion_timestamp: Any = None


class PortLeaseSketch(Sketch):
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)
    spec: _Spec | None = None
    # A Status has words where a PortLease has an object.
    status: _Status | str | None = None

    @property
    def identity(self) -> str:
        return self.metadata.uid or ""

    @property
    def weight(self) -> int:
        """What it takes to read it, in ports."""
        return CLAIM_WEIGHT + (len(self.status.ports) if isinstance(self.status, _Status) else 0)


READER: Final = JsonDecoder(PortLeaseSketch)


@dataclass(frozen=True, slots=True, kw_only=True)
class PortLease:
    """A PortLease as it stands in the cluster."""

    namespace: str
    name: str
    uid: str
    version: int
    id: ClaimId
    claim: Claim | None = None  # without an end, which only a clock can tell. None: it holds nothing
    left: float = 0.0  # seconds, when it was last written
    ttl: float = 0.0  # seconds
    expires: float = 0.0  # for people, seconds since the epoch
    answer: Answer | None = None
    is_explained: bool = False  # whether it says why it holds nothing
    is_going: bool = False  # it is being deleted, and waits for somebody's finalizer

    @property
    def path(self) -> str:
        return f"{collection_path(self.namespace)}/{quote(self.name, safe='')}"

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def collection_path(namespace: str) -> str:
    return f"{API}/namespaces/{quote(namespace, safe='')}/portleases"


def name_of(claim: Claim) -> str:
    """Readable and unique: the owner's name, or its kind, and the start of the id."""
    stem = re.sub(r"[^a-z0-9]+", "-", (claim.owner.name or claim.owner.kind).lower()).strip("-")
    stem = stem[:LONGEST_STEM].rstrip("-") or "lease"
    return f"{stem}-{claim.id[:ID_DIGITS]}"


# -- out


def object_of(claim: Claim) -> dict[str, Any]:
    """The object to create. The API server takes no status with it, so that it holds nothing yet."""
    owner = claim.owner
    spec = _Spec(
        owner=_Owner(kind=owner.kind, name=owner.name, uid=owner.uid, description=owner.description),
        allocation_id=claim.id,
    )
    return {
        "apiVersion": "hostport.io/v1alpha1",
        "kind": "PortLease",
        "metadata": {"name": name_of(claim), "namespace": owner.namespace},
        "spec": msgspec.to_builtins(spec),
    }


def grant_of(claim: Claim, answer: Answer | None, now: float, ahead: float) -> dict[str, Any]:
    """The status that makes it a lease. `now` as for the claim; the wall clock is `ahead` seconds ahead of it."""
    status = _Status(
        node=claim.node or "",
        ports=[
            _Port(
                protocol=port.protocol,
                host_port=port.host_port,
                name=port.name,
                container=port.container,
                container_port=port.container_port,
                host_ip=port.host_ip,
                count=port.count,
            )
            for port in claim.ports
        ],
        port_summary=", ".join(str(key) for key in claim.keys),
        range=_Range(min=claim.range[0], max=claim.range[1]) if claim.range else None,
        request=_Request(id=answer.request_id, digest=answer.digest, answer=answer.response) if answer else None,
        conditions=[_condition("True", "Granted", "The ports are held on the node until the lease ends.", now + ahead)],
    )
    return {"status": {**msgspec.to_builtins(status), **_life(claim, now, ahead, ttl_of(claim, now))}}


def renewal_of(claim: Claim, now: float, ahead: float, ttl: float | None = None) -> dict[str, Any]:
    """What a renewal changes; a ttl where it is longer than the one that is stored."""
    return {"status": _life(claim, now, ahead, ttl)}


def explanation(wall: float) -> dict[str, Any]:
    """What is said of an object that the allocator did not grant. `wall`: seconds since the epoch."""
    message = (
        "This object was not made by the allocator and holds no ports: ports are leased with its Allocate call."
        " Delete it."
    )
    return {"status": {"conditions": [msgspec.to_builtins(_condition("False", "NotRequested", message, wall))]}}


def ttl_of(claim: Claim, now: float) -> float:
    """The time that is left of a lease, in whole seconds; 0 where it is over."""
    return float(max(0, math.ceil(round((claim.expires or now) - now, 3))))


def shown_end(claim: Claim, ahead: float) -> float:
    """When a lease ends, as people are told."""
    return float(math.ceil(round((claim.expires or 0.0) + ahead, 3)))


def _life(claim: Claim, now: float, ahead: float, ttl: float | None) -> dict[str, Any]:
    life: dict[str, Any] = {"expires": rfc3339(shown_end(claim, ahead)), "secondsLeft": int(ttl_of(claim, now))}
    return life if ttl is None else {**life, "ttlSeconds": int(ttl)}


def _condition(status: str, reason: str, message: str, wall: float) -> _Condition:
    at = datetime.fromtimestamp(int(wall), UTC)
    return _Condition(type=GRANTED, status=status, reason=reason, message=message, last_transition_time=at)


# -- in


def parse(sketch: PortLeaseSketch) -> PortLease:
    """The object.

    Raises:
        ValueError: it cannot be read, which the schema should have prevented.

    """
    metadata, spec, status = sketch.metadata, sketch.spec, sketch.status
    if sketch.trouble or spec is None or isinstance(status, str):
        raise ValueError(sketch.trouble or "it is no PortLease")
    status = status or _Status()
    claim_id = ClaimId(spec.allocation_id)
    is_granted = status.node != "" and metadata.deletion_timestamp is None
    request = status.request if is_granted else None
    return PortLease(
        namespace=metadata.namespace or "",
        name=metadata.name or "",
        uid=metadata.uid or "",
        version=int(metadata.resource_version or 0),
        id=claim_id,
        claim=_claim(claim_id, metadata, spec.owner, status) if is_granted else None,
        left=float(status.seconds_left or status.ttl_seconds),  # an older allocator stored no more than the latter
        ttl=float(status.ttl_seconds),
        expires=status.expires.timestamp() if status.expires else 0.0,
        answer=Answer(request.id, request.digest, claim_id, request.answer) if request else None,
        is_explained=any(condition.type == GRANTED for condition in status.conditions),
        is_going=metadata.deletion_timestamp is not None,
    )


def _count_of(port: _Port, summary: str) -> int:
    """How many numbers a port stands for. A schema older than blocks drops the count; the summary says it as well."""
    if port.count > 1:
        return port.count
    block = re.match(r"([0-9]{1,5})-([0-9]{1,5})/", summary)
    return int(block[2]) - int(block[1]) + 1 if block and int(block[1]) == port.host_port <= int(block[2]) else 1


def _claim(claim_id: ClaimId, metadata: _Metadata, owner: _Owner, status: _Status) -> Claim:
    return Claim(
        id=claim_id,
        owner=Owner(
            kind=owner.kind,
            namespace=metadata.namespace or "",
            name=owner.name,
            uid=owner.uid,
            description=owner.description,
        ),
        state=State.LEASED,
        ports=tuple(
            ClaimPort(
                container=port.container,
                name=port.name,
                protocol=port.protocol,
                container_port=port.container_port,
                host_port=port.host_port,
                host_ip=port.host_ip,
                count=_count_of(port, summary),
            )
            for port, summary in zip_longest(status.ports, status.port_summary.split(", "), fillvalue="")
            if isinstance(port, _Port)
        ),
        created=metadata.creation_timestamp.timestamp() if metadata.creation_timestamp else 0.0,
        node=NodeName(status.node),
        range=(status.range.min, status.range.max) if status.range else None,
    )
