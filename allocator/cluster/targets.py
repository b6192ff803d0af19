"""Services that send to the number that a port had before it moved, told to the owners of the Pods. Pure.

Rules:

* Owners are remembered, not Pods: the Pods of one have the same template, and the first that is seen stands for all.
* Whatever comes second is compared with what was there: a Service that is made later is found too.
* An owner is told of a Service once; it is told anew when the Service has changed in between.
* As many owners are remembered as `MOST_OWNERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from allocator.cluster.correlator import ObjectEvent, Subject
from hostport.contract import Notice
from hostport.services import Moved, Selecting, moved_ports

MOST_OWNERS = 20_000
WORD = Notice.SERVICE_OLD_PORT.name


@dataclass(slots=True)
class _Owner:
    """Whom to tell, and what its Pods are like."""

    subject: Subject
    labels: Mapping[str, str]
    moved: Moved
    pods: set[str] = field(default_factory=set)
    told: set[str] = field(default_factory=set)  # names of Services


class Targets:
    """See the module. `tell` must return at once."""

    def __init__(self, tell: Callable[[ObjectEvent], None]) -> None:
        self._tell = tell
        self._services: dict[str, dict[str, Selecting]] = {}  # by namespace and name
        self._owners: dict[str, dict[str, _Owner]] = {}  # by namespace and uid
        self._owner_of: dict[str, tuple[str, str]] = {}  # by Pod's uid
        self._count = 0

    def knows(self, uid: str) -> bool:
        """Whether a Pod was told already: what matters of it does not change."""
        return uid in self._owner_of

    def pod(self, uid: str, metadata: Mapping[str, Any], allocations: str) -> None:
        """A Pod on the host's network that has numbers of ours: its metadata, and its table of ports."""
        if self.knows(uid):
            return
        subject = _subject(uid, metadata)
        namespace = subject.namespace
        owners = self._owners.setdefault(namespace, {})
        owner = owners.get(subject.uid)
        if owner is None:
            moved = moved_ports(allocations)
            if not moved or self._count >= MOST_OWNERS:
                return
            owner = owners[subject.uid] = _Owner(subject, dict(metadata.get("labels") or {}), moved)
            self._count += 1
            for service in self._services.get(namespace, {}).values():
                self._compare(owner, service)
        owner.pods.add(uid)
        self._owner_of[uid] = (namespace, subject.uid)

    def gone(self, uid: str) -> None:
        """A Pod is gone; with its last one an owner is forgotten."""
        namespace, owner_uid = self._owner_of.pop(uid, ("", ""))
        owner = self._owners.get(namespace, {}).get(owner_uid)
        if owner is None:
            return
        owner.pods.discard(uid)
        if not owner.pods:
            del self._owners[namespace][owner_uid]
            self._count -= 1

    def service(self, namespace: str, name: str, found: Selecting | None) -> None:
        """A Service as it is now; None: it is gone, or goes by names."""
        services = self._services.setdefault(namespace, {})
        if services.get(name) == found:
            return
        services.pop(name, None)
        if found is not None:
            services[name] = found
        for owner in self._owners.get(namespace, {}).values():
            owner.told.discard(name)
            if found is not None:
                self._compare(owner, found)

    def services(self) -> list[tuple[str, str]]:
        """Namespace and name of each Service that is known."""
        return [(namespace, name) for namespace, some in self._services.items() for name in some]

    def _compare(self, owner: _Owner, service: Selecting) -> None:
        if service.name in owner.told or not service.selects(owner.labels):
            return
        sentences = [sentence for _, sentence in service.lost(owner.moved)]
        if sentences:
            owner.told.add(service.name)
            note, kind = f"{WORD}: {'; '.join(sentences)}", f"{WORD} {service.name}"
            self._tell(ObjectEvent(subject=owner.subject, reason="Warned", action="Observe", note=note, kind=kind))


def _subject(uid: str, metadata: Mapping[str, Any]) -> Subject:
    """The controller of a Pod, else the Pod itself."""
    namespace = str(metadata.get("namespace") or "default")
    for reference in metadata.get("ownerReferences") or ():
        if isinstance(reference, Mapping) and reference.get("controller"):
            api_version, kind, name, its = (
                str(reference.get(key) or "") for key in ("apiVersion", "kind", "name", "uid")
            )
            return Subject(api_version=api_version, kind=kind, namespace=namespace, name=name, uid=its)
    return Subject(api_version="v1", kind="Pod", namespace=namespace, name=str(metadata.get("name") or ""), uid=uid)
