"""What was read of Services → what the observer is told: the numbers that they hold. And where they send (`targets`).

Rules:

* Only those are told that hold a number, or did. Of the others nothing is kept here.
* A Service that cannot be read keeps what was known of it. What a complete list lacks is gone.
* One may be looked up by name before the watch tells of it (`looked_up`). That tells what it holds, and not where it
  sends. What the watch told meanwhile stands: it may be newer, and nothing would mend an older state.
* Each is a step of its own (`slices`): it is compared with those who hold its numbers, and with every owner of its
  namespace.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from allocator.cluster.contract import Observer
from allocator.cluster.decoding import WatchEvent
from allocator.cluster.objects import parse_service_ports
from allocator.cluster.projection import ServiceSketch
from allocator.cluster.sinks import MALFORMED
from allocator.cluster.targets import Targets
from allocator.core.claims import ClusterChange
from allocator.core.foreign import ObservedService, ServiceName
from hostport.services import parse_service

log = logging.getLogger(__name__)


class ServiceSink:
    """See the module. `targets`: who compares where they send; None: nobody does."""

    def __init__(self, observer: Observer, targets: Targets | None = None) -> None:
        self._observer = observer
        self._targets = targets
        self._held: dict[ServiceName, ObservedService] = {}  # those that hold a number
        self._missing: set[ServiceName] = set()

    def began(self) -> None:
        self._missing = {*self._held, *(self._targets.services() if self._targets else ())}

    def listed(self, items: Sequence[ServiceSketch]) -> Iterator[None]:
        """Tells the Services of a page."""
        for sketch in items:
            self._missing.discard(_name_of(sketch))
            self._note(sketch)
            yield

    def complete(self, as_of: float) -> Iterator[None]:
        """Tells which Services have gone."""
        for name in self._missing:
            self._forget(name)
            yield
        self._missing = set()

    def changed(self, events: Sequence[WatchEvent[ServiceSketch]]) -> Iterator[None]:
        """Tells each Service that an event is about."""
        for event in events:
            if event.type == "DELETED":
                self._forget(_name_of(event.object))
            else:
                self._note(event.object)
            yield

    def holding(self, name: ServiceName) -> ObservedService | None:
        """What a Service holds as far as is known, for `looked_up`."""
        return self._held.get(name)

    def looked_up(self, name: ServiceName, before: ObservedService | None, found: ServiceSketch | None) -> None:
        """Tells what was found under a name; None: nothing. before: what was `holding` when that was asked for."""
        if self._held.get(name) is not before:
            return
        if found is None:
            self._let_go(name)
        else:
            self._read(name, msgspec.to_builtins(found), found.trouble)

    def _note(self, sketch: ServiceSketch) -> None:
        name, plain = _name_of(sketch), msgspec.to_builtins(sketch)
        if self._targets is not None:
            self._targets.service(*name, None if sketch.trouble else parse_service(plain))
        self._read(name, plain, sketch.trouble)

    def _read(self, name: ServiceName, plain: Any, trouble: str) -> None:
        try:
            if trouble:
                raise ValueError(trouble)
            self._hold(parse_service_ports(plain))
        except MALFORMED as error:
            log.warning("a Service cannot be read: %s: %s", "/".join(name), error)

    def _hold(self, service: ObservedService) -> None:
        """Tells a Service that holds something, or did."""
        name = service.full_name
        if not service.ports:
            self._let_go(name)
        elif self._held.get(name) != service:
            self._held[name] = service
            self._observer.observe(ClusterChange(services=[service], lists_pods=False))

    def _let_go(self, name: ServiceName) -> None:
        if self._held.pop(name, None) is not None:
            self._observer.observe(ClusterChange(gone_services=[name], lists_pods=False))

    def _forget(self, name: ServiceName) -> None:
        self._let_go(name)
        if self._targets is not None:
            self._targets.service(*name, None)


def _name_of(sketch: ServiceSketch) -> ServiceName:
    return sketch.metadata.namespace or "", sketch.metadata.name or ""
