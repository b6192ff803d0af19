"""Writes Kubernetes Events (events.k8s.io/v1), so that `kubectl describe` tells what happened to a Pod or its owner.

Rules:

* `tell` returns at once and never fails; what becomes of it is seen in `counts`.
* Only the allocator that serves writes: `may_write` is asked before each.
* What happened comes before what was warned of, and each has room and writes of its own: no flood of warnings keeps a
  denial waiting.
* An Event is a courtesy. One that the API server refuses is given up, and said once; while it does not answer, or is
  overloaded, what has gathered waits.

Needs the verbs `create` and `patch` on `events` of `events.k8s.io`, in all namespaces.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from allocator.cluster.client import ApiClient, ApiError, UnreachableError, retry_pause
from allocator.cluster.correlator import LONGEST_NOTE, EventCorrelator, EventSeries, ObjectEvent
from hostport.timestamps import rfc3339_micro

log = logging.getLogger(__name__)

CONTROLLER = "hostport.io/allocator"
POLL_SECONDS = 1.0  # while something is pending


class EventWriter:
    """See the module. `instance` is which allocator tells; `now` gives seconds since the epoch."""

    def __init__(
        self,
        client: ApiClient,
        *,
        instance: str,
        may_write: Callable[[], bool],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._instance = instance[:128] or "allocator"
        self._may_write = may_write
        self._now = now
        self._happened, self._warned = EventCorrelator(), EventCorrelator()
        self._news = asyncio.Event()
        self._trouble = ""
        self.counts: Counter[tuple[str, str]] = Counter()  # by reason, and written, dropped or refused

    def tell(self, event: ObjectEvent) -> None:
        """Takes an Event, to be written soon; one for which there is no room is counted as dropped."""
        correlator = self._warned if event.kind else self._happened  # what has kinds is a warning
        if not correlator.add(event, self._now()):
            self.counts[event.reason, "dropped"] += 1
        self._news.set()

    async def forever(self) -> None:
        """Writes what is told, for ever."""
        failures = 0
        while True:
            await self._news.wait()
            try:
                await self._write_due(self._happened)
                await self._write_due(self._warned)
                failures, wait = 0, POLL_SECONDS
            except (ApiError, UnreachableError) as error:
                failures += 1
                self._say(f"Events wait: {error}")
                wait = retry_pause(failures, random.random(), at_least=getattr(error, "retry_after", 0.0))  # noqa: S311
            if failures or self._happened.has_pending() or self._warned.has_pending():
                await asyncio.sleep(wait)
            else:
                self._news.clear()

    async def _write_due(self, correlator: EventCorrelator) -> None:
        """Raises ApiError, UnreachableError where it is worth trying again."""
        for series in correlator.due(self._now()):
            if not self._may_write():
                return
            count, event = series.count, series.event
            try:
                await self._write(series)
            except ApiError as error:
                if error.status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.UNAUTHORIZED} or error.status >= 500:
                    raise
                self._say(f"an Event cannot be written: {_told(error)}")
                self.counts[event.reason, "refused"] += 1
            else:
                self._trouble = ""
                self.counts[event.reason, "written"] += 1
            correlator.written(series, count, event.note, self._now())

    async def _write(self, series: EventSeries) -> None:
        path = f"/apis/events.k8s.io/v1/namespaces/{quote(series.event.subject.namespace, safe='')}/events"
        if series.told:
            try:
                await self._client.send("PATCH", f"{path}/{quote(series.name, safe='')}", {}, _repeated(series))
            except ApiError as error:
                if error.status != HTTPStatus.NOT_FOUND:
                    raise
            else:
                return  # else it has expired, after an hour by default
        try:
            await self._client.send("POST", path, {}, self._event(series))
        except ApiError as error:
            if not (series.event.kind and error.status == HTTPStatus.CONFLICT):
                raise  # else it stands: an allocator before us has told it

    def _event(self, series: EventSeries) -> dict[str, Any]:
        event, subject = series.event, series.event.subject
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": series.name, "namespace": subject.namespace},
            "eventTime": rfc3339_micro(series.first),
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance,
            "type": "Warning",
            "reason": event.reason,
            "action": event.action,
            "note": _clipped(event.note),
            "regarding": {
                "apiVersion": subject.api_version,
                "kind": subject.kind,
                "namespace": subject.namespace,
                "name": subject.name,
                "uid": subject.uid,
            },
            **(_repeated(series) if series.count > 1 else {}),
        }

    def _say(self, trouble: str) -> None:
        """Once, until it is something else."""
        if trouble != self._trouble:
            self._trouble = trouble
            log.warning("%s", trouble)


def _told(error: ApiError) -> str:
    if error.status == HTTPStatus.FORBIDDEN and "being terminated" in error.message:
        return f"its namespace goes ({error.message})"
    if error.status == HTTPStatus.FORBIDDEN:
        return f"RBAC lacks the verbs create and patch on events.events.k8s.io ({error.message})"
    return str(error)


def _repeated(series: EventSeries) -> dict[str, Any]:
    return {"series": {"count": series.count, "lastObservedTime": rfc3339_micro(series.last)}}


def _clipped(note: str) -> str:
    """The API server counts bytes."""
    raw = note.encode()
    return note if len(raw) <= LONGEST_NOTE else raw[: LONGEST_NOTE - 3].decode(errors="ignore") + "…"
