"""Marks the Pod of the allocator that serves, so that the Service leads to it and to no other.

Rules:

* Only the allocator that serves writes: `may_write` is asked before each write.
* Its own Pod gets the label first, then every other Pod of the namespace loses it.
* It is a courtesy to callers that know one address alone: the shims find the one that serves by themselves. What fails
  is told once, and tried again.

Needs the verbs `list` and `patch` on Pods of our own namespace.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable

from allocator.cluster.client import ApiError, KubernetesApi, UnreachableError

log = logging.getLogger(__name__)

LABEL = "hostport.io/serving"
LOOK_SECONDS = 5.0
SOON_SECONDS = 0.05  # until we serve, which asks nobody anything


class Signpost:
    """See the module."""

    def __init__(self, api: KubernetesApi, *, namespace: str, pod_name: str, may_write: Callable[[], bool]) -> None:
        self._api = api
        self._pods = f"/api/v1/namespaces/{namespace}/pods"
        self._pod_name = pod_name
        self._may_write = may_write
        self._trouble = ""

    async def forever(self) -> None:
        """Looks every few seconds, and writes what is not as it should be."""
        while True:
            wait = await self._turn()
            await asyncio.sleep(wait)

    async def _turn(self) -> float:
        if not self._may_write():
            return SOON_SECONDS
        try:
            await self._mark()
        except (ApiError, UnreachableError, ValueError) as error:
            self._say(f"the Service does not lead here: Pod {self._pod_name} cannot be labelled: {error}")
        else:
            self._say("")
        return LOOK_SECONDS

    async def _mark(self) -> None:
        listed = json.loads(await self._api.send("GET", self._pods, {"labelSelector": f"{LABEL}=true"}))
        marked = {item["metadata"]["name"] for item in listed.get("items") or ()}
        if self._pod_name not in marked:
            await self._label(self._pod_name, "true")
        for name in sorted(marked - {self._pod_name}):
            await self._label(name, None)

    async def _label(self, name: str, value: str | None) -> None:
        if self._may_write():
            try:
                await self._api.send("PATCH", f"{self._pods}/{name}", {}, {"metadata": {"labels": {LABEL: value}}})
            except ApiError as error:
                if error.status != 404 or name == self._pod_name:  # another that has gone meanwhile is fine
                    raise

    def _say(self, trouble: str) -> None:
        """Once, until it is something else."""
        if trouble and trouble != self._trouble:
            log.warning("%s", trouble)
        self._trouble = trouble
