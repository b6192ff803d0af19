"""Writes Kubernetes Events (events.k8s.io/v1), so that `kubectl describe` tells what happened to a Pod or its owner.

Rules:

* `tell` returns at once and never fails; what becomes of it is seen in `counts`.
* Only the allocator that serves writes: `may_write` is asked before each.
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
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from allocator.cluster.backoff import pause
from allocator.cluster.client import ApiError, Client, UnreachableError
from allocator.cluster.happenings import LONGEST_NOTE, Gatherer, Happening, Series

log = logging.getLogger(__name__)

CONTROLLER = "hostport.io/allocator"
POLL_SECONDS = 1.0  # while something is pending


class EventWriter:
    """See the module. `instance` is which allocator tells; `now` gives seconds since the epoch."""

    def __init__(
        self,
        client: Client,
        *,
        instance: str,
        may_write: Callable[[], bool],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._instance = instance[:128] or "allocator"
        self._may_write = may_write
        self._now = now
        self._gatherer = Gatherer()
        self._news = asyncio.Event()
        self._trouble = ""
        self.counts: Counter[tuple[str, str]] = Counter()  # by reason, and written, dropped or refused

    def tell(self, happening: Happening) -> None:
        if not self._gatherer.add(happening, self._now()):
            self.counts[happening.reason, "dropped"] += 1
        self._news.set()

    async def forever(self) -> None:
        """Writes what is told, for ever."""
        failures = 0
        try:
            while True:
                await self._news.wait()
                try:
                    await self._write_due()
                    failures, wait = 0, POLL_SECONDS
                except (ApiError, UnreachableError) as error:
                    failures += 1
                    self._say(f"Events wait: {error}")
                    wait = pause(failures, random.random(), at_least=getattr(error, "retry_after", 0.0))  # noqa: S311
                if failures or self._gatherer.has_pending():
                    await asyncio.sleep(wait)
                else:
                    self._news.clear()
        finally:
            await self._client.close()

    async def _write_due(self) -> None:
        """Raises ApiError, UnreachableError where it is worth trying again."""
        for series in self._gatherer.due(self._now()):
            if not self._may_write():
                return
            count, happening = series.count, series.happening
            try:
                await self._write(series)
            except ApiError as error:
                if error.status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.UNAUTHORIZED} or error.status >= 500:
                    raise
                self._say(f"an Event cannot be written: {_told(error)}")
                self.counts[happening.reason, "refused"] += 1
            else:
                self._trouble = ""
                self.counts[happening.reason, "written"] += 1
            self._gatherer.written(series, count, happening.note, self._now())

    async def _write(self, series: Series) -> None:
        path = f"/apis/events.k8s.io/v1/namespaces/{quote(series.happening.subject.namespace, safe='')}/events"
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
            if not (series.happening.kind and error.status == HTTPStatus.CONFLICT):
                raise  # else it stands: an allocator before us has told it

    def _event(self, series: Series) -> dict[str, Any]:
        happening, subject = series.happening, series.happening.subject
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": series.name, "namespace": subject.namespace},
            "eventTime": _time(series.first),
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance,
            "type": "Warning",
            "reason": happening.reason,
            "action": happening.action,
            "note": _clipped(happening.note),
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
    if error.status == HTTPStatus.FORBIDDEN:
        return f"RBAC lacks the verbs create and patch on events.events.k8s.io ({error.message})"
    return str(error)


def _repeated(series: Series) -> dict[str, Any]:
    return {"series": {"count": series.count, "lastObservedTime": _time(series.last)}}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _clipped(note: str) -> str:
    """The API server counts bytes."""
    raw = note.encode()
    return note if len(raw) <= LONGEST_NOTE else raw[: LONGEST_NOTE - 3].decode(errors="ignore") + "…"
